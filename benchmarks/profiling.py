"""Where a side's time goes: the seconds of torch's operations, under the names a reader knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

PRODUCTS = "matrix products"
REST = "all else"


def spent(found: Any, operations: Mapping[str, str]) -> Counter[str]:
    """Seconds of a finished `torch.profiler.profile`, by what `operations` calls them.

    An operation's time is its own, without that of the operations it calls. Where a GPU was
    profiled it is the GPU's: on the CPU an operation has only been asked for.
    """
    from torch.profiler import ProfilerActivity

    on_gpu = ProfilerActivity.CUDA in found.activities
    seconds: Counter[str] = Counter()
    for event in found.key_averages():
        if event.device_type.name != "CPU":  # a kernel, whose time is its operation's already
            continue
        taken = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[operations.get(event.key, REST)] += taken / 1e6
    return seconds


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Of the whole, the largest first."""
    total = sum(seconds.values())
    ordered = sorted(seconds, key=lambda name: -seconds[name])
    return {name: seconds[name] / total for name in ordered}

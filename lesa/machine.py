"""What this machine computes with: device, usable cores, processor, whether in bfloat16."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def compute_device() -> torch.device:
    """Where a single process does its linear algebra: on the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16() -> bool:
    """Does the GPU, or without one the processor, multiply bfloat16 matrices?

    Where it does not, torch's products of them take some ten to fifty times as long as float32's.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # What torch itself asks before it hands such a product to oneDNN.
    asked = torch.backends.mkldnn.is_available()
    return bool(asked and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def set_threads(processes: int = 1) -> None:
    """Let torch use this process's share of the cores, of `processes` on this machine.

    Where OMP_NUM_THREADS is set, by the user or a launcher, torch has followed it already.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // processes))


def processor() -> str:
    """Its model, as Linux tells it; elsewhere the architecture."""
    return processor_line("model name") or platform.machine()


def processor_line(key: str) -> str:
    """What Linux says of the first processor, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")

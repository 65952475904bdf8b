"""What a run of a stage costs: work by unit, memory and disk."""

from __future__ import annotations

from dataclasses import dataclass

from lesa.planning.launch import ALONE, Launch

# Units of work. The first four are floating-point operations: of matrix products, by their
# precision, and of the reduction to tridiagonal or bidiagonal form, which has a rate of its own
# as half of it is bound by memory. The others are bytes moved in memory, and to and from disk.
FLOPS = ("float64", "float32", "bfloat16", "reduction")
UNITS = (*FLOPS, "memory", "disk")
Work = dict[str, float]


@dataclass(frozen=True)
class Cost:
    """One run of a stage.

    work: by unit, see UNITS. memory: bytes at the peak, on the accelerator if the stage is
    `accelerated` and there is one. output: bytes it leaves to DVC. scratch: bytes on disk
    that are gone when it ends. outside: bytes it leaves where DVC does not look, as in the hub's
    cache. processes: that run at once on a machine. host: bytes at the peak in main memory when
    accelerators hold the rest. launch: processes that share the work; `memory` is of one of them.
    """

    work: Work
    memory: int
    output: int = 0
    scratch: int = 0
    outside: int = 0
    processes: int = 1
    accelerated: bool = False
    host: int = 0
    launch: Launch = ALONE

    @property
    def flops(self) -> float:
        return sum(self.work.get(unit, 0.0) for unit in FLOPS)


def added(*parts: Work) -> Work:
    return {unit: sum(part.get(unit, 0.0) for part in parts) for unit in UNITS}


def times(count: float, work: Work) -> Work:
    return {unit: count * amount for unit, amount in work.items()}

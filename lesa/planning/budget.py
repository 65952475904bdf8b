"""What costs come to on a machine: seconds, memory, disk, and whether it will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lesa.files import gib
from lesa.planning.cost import Cost
from lesa.planning.rates import Machine


@dataclass(frozen=True)
class Need:
    """Bytes at a stage's peak: in main memory, libraries too, and on each accelerator."""

    memory: int
    accelerator: int


def need(cost: Cost, machine: Machine) -> Need:
    libraries = cost.processes * machine.process
    if cost.launch.sharded or (cost.accelerated and machine.accelerator):
        return Need(cost.host + libraries, cost.memory)
    return Need(cost.launch.local * cost.memory + libraries, 0)


def seconds(cost: Cost, machine: Machine) -> float:
    """Each unit's work at its rate, one after another: nothing is taken to overlap. Processes with
    a GPU each share the work, and what they send each other takes no time."""
    rates = dict(machine.rates)
    if cost.accelerated and machine.accelerator:
        own = machine.accelerator.rates
        rates |= {unit: cost.launch.processes * rate for unit, rate in own.items()}
    return sum(amount / rates[unit] for unit, amount in cost.work.items() if amount)


def duration(amount: float) -> str:
    """Seconds in the largest unit of which there are at least two."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if amount >= 2 * size:
            return f"{amount / size:.1f} {unit}"
    return f"{amount:.1f} s"


def disk_peak(costs: Sequence[Cost], machine: Machine) -> int:
    """Bytes at the fullest moment of a run from nothing.

    DVC's cache and the work tree share an output by a hard link, or hold it twice where there are
    none. Either way DVC copies an output into the cache first, when the stage's scratch is gone.
    """
    kept = sum(cost.output * (1 if machine.hard_links else 2) + cost.outside for cost in costs)
    return kept + max(max(cost.scratch, cost.output) for cost in costs)


def lacking(costs: Mapping[str, Cost], machine: Machine, disk: int) -> str | None:
    """One line with the figures if GPUs, memory or disk will not do, else None.

    disk: bytes that the run still adds, at its fullest moment.
    """
    needs = {stage: need(cost, machine) for stage, cost in costs.items()}
    short = _gpus(costs, machine.gpus)
    memory = {stage: amount.memory for stage, amount in needs.items()}
    short += _short("memory", memory, machine.memory)
    if machine.accelerator:
        device = {stage: amount.accelerator for stage, amount in needs.items()}
        short += _short(f"memory of {machine.accelerator.name}", device, machine.accelerator.memory)
    short += _short("disk", {"the run": disk}, machine.disk)
    hint = "a larger machine, a smaller model or batch, or fewer models would do"
    return f"{'; '.join(short)}; {hint}" if short else None


def _gpus(costs: Mapping[str, Cost], there: int) -> list[str]:
    """Without GPUs, processes share the CPU; but FSDP is for GPUs alone (accelerate)."""
    for stage, cost in costs.items():
        if cost.launch.local > there and (there or cost.launch.sharded):
            return [f"GPUs: {stage} is launched on {cost.launch.local}, there are {there}"]
    return []


def _short(what: str, needs: Mapping[str, int], available: int) -> list[str]:
    worst = max(needs, key=lambda stage: needs[stage])
    missing = needs[worst] - available
    if missing <= 0:
        return []
    others = sum(amount > available for amount in needs.values()) - 1
    more = f" ({others} more stages need too much)" if others else ""
    return [
        f"{what}: {worst} needs {gib(needs[worst])}, {gib(available)} are free: "
        f"{gib(missing)} too little{more}"
    ]

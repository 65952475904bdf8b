"""`lesa plan`: the layers of a deeper model and what making it costs here. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesa.commands.growth import chosen, gaps_of, layer_plan
from lesa.commands.presets import preset_of
from lesa.files import read_object
from lesa.method.fitting import ALL_TRIPLES
from lesa.planning import budget, method_costs, model_costs
from lesa.planning.architecture import Architecture, architecture
from lesa.planning.cost import Cost, added
from lesa.planning.rates import Machine, this_machine
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import LayerPlan, Slot, plan_line


@dataclass(frozen=True)
class Step:
    """A step of the expansion. memory: bytes at its peak. disk: bytes that it leaves. seconds: an
    estimate from rates measured just now."""

    memory: int
    disk: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """layer_plan: in words, see `lesa.upscaling.plan.plan_line`; slots: the same as data.

    trainable_parameters: of what the method trains. memory: bytes at the peak; disk: bytes at the
    fullest moment. lacking: what this machine has too little of, None where it will do.
    """

    method: str
    layers_before: int
    layers_after: int
    layer_plan: str
    slots: list[Slot]
    parameters_before: int
    parameters_after: int
    trainable_parameters: int
    steps: dict[str, Step]
    memory: int
    disk: int
    seconds: float
    lacking: str | None


def plan(
    path: str | Path,
    *,
    method: str = "lesa",
    layers: int | None = None,
    positions: str | None = None,
    preset: str = "paper",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """What `expand` with the same arguments would make of the folder `path`, and what it takes.

    Of the folder config.json alone is read. Raises UserError, one line, for a family that is not
    in the table, and for a method or growth that does not fit.
    """
    where = Path(path) / "config.json"
    a = architecture(read_object(where), str(where))
    how, _ = chosen(method, seed, options or {})
    slots = layer_plan(how, a.num_layers, gaps_of(a.num_layers, layers, positions))
    machine = this_machine()
    costs = step_costs(a, how, slots, preset, machine)
    steps = {
        name: Step(budget.need(cost, machine).memory, cost.output, budget.seconds(cost, machine))
        for name, cost in costs.items()
    }
    disk = sum(step.disk for step in steps.values()) + max(c.scratch for c in costs.values())
    return Plan(
        method=method,
        layers_before=a.num_layers,
        layers_after=len(slots),
        layer_plan=plan_line(slots),
        slots=slots,
        parameters_before=a.parameters(a.num_layers),
        parameters_after=a.parameters(len(slots)),
        trainable_parameters=model_costs.trainable(a, slots),
        steps=steps,
        memory=max(step.memory for step in steps.values()),
        disk=disk,
        seconds=sum(step.seconds for step in steps.values()),
        lacking=budget.lacking(costs, machine, disk),
    )


def step_costs(
    a: Architecture, method: Method, slots: LayerPlan, preset: str, machine: Machine
) -> dict[str, Cost]:
    """The steps that `expand` takes for this method."""
    settings = preset_of(preset)
    found: dict[str, Cost] = {}
    if method.reads_bases:
        found["bases"] = bases_cost(a)
    if method.fits:
        found["predictors"] = method_costs.fit(
            a, settings, ALL_TRIPLES, machine.cores, machine.gpus
        )
    found["checkpoint"] = method_costs.write(a, slots, [settings.hidden_size] * method.fits)
    return found


def bases_cost(a: Architecture) -> Cost:
    """Of a kind after the other the Gram matrix and its decomposition, which no file parts."""
    gram, decomposed = method_costs.extract(a), method_costs.svd(a, "gram")
    # The pipeline's stage also measures the layers' structure; `expand` does not.
    unmeasured = [method_costs.structure_work(*d, -a.num_layers) for d in a.kinds.values()]
    work = added(gram.work, decomposed.work, *unmeasured)
    return Cost(work, max(gram.memory, decomposed.memory), decomposed.output)

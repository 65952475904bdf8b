"""`make plan`: layer plans, parameters and what every stage costs on this machine, before it runs.

From the profile and the model's config alone: no weight is read and params.yaml stays as it is.
Exit status 2, after the tables, when memory or disk will not do.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate

from lesa.errors import UserError, one_line
from lesa.files import gib
from lesa.params import Params, load, parse
from lesa.planning import method_costs, model_costs
from lesa.planning.architecture import Architecture, architecture, find_config
from lesa.planning.budget import disk_peak, duration, lacking, need, seconds
from lesa.planning.cost import Cost
from lesa.planning.launch import launch
from lesa.planning.rates import Machine, this_machine
from lesa.training.processes import share_accumulation
from lesa.upscaling.plan import LayerPlan, plan_line
from pipelines.profile import compose
from pipelines.stage import layer_plans, on_this_machine

T = TypeVar("T")
CONFIGS = Path("conf/models")
ARTIFACTS = Path("artifacts")
FROZEN = "layers below"  # a part of pretrain, by the first layer that trains


def stage_costs(
    params: Params, a: Architecture, plans: Mapping[str, LayerPlan], cores: int, gpus: int
) -> dict[str, Cost]:
    """Cost of each stage of dvc.yaml but those that copy, cut or report text."""
    return {
        "base": method_costs.base(a, params.base.source),
        "extract": method_costs.extract(a),
        "svd": method_costs.svd(a, params.svd.method),
        **fit_costs(params, a, cores, gpus),
        **expand_costs(params, a, plans),
        **pretrain_costs(params, a, plans),
        **evaluate_costs(params, a, plans),
    }


def fit_costs(params: Params, a: Architecture, cores: int, gpus: int) -> dict[str, Cost]:
    settings = params.fit
    return {
        f"fit@{name}": method_costs.fit(
            a, settings.presets[run.preset], settings.heldout_every, cores, gpus
        )
        for name, run in settings.runs.items()
    }


def expand_costs(
    params: Params, a: Architecture, plans: Mapping[str, LayerPlan]
) -> dict[str, Cost]:
    found = {}
    for model, entry in params.methods.items():
        presets = (params.fit.runs[run].preset for run in entry.needs)
        widths = [params.fit.presets[preset].hidden_size for preset in presets]
        found[f"expand@{model}"] = method_costs.expand(a, plans[model], widths)
    return found


def pretrain_costs(
    params: Params, a: Architecture, plans: Mapping[str, LayerPlan]
) -> dict[str, Cost]:
    train, found = params.train, {}
    corpus = params.corpus
    blocks, length = corpus.test_documents * corpus.blocks_per_document, corpus.block_size
    processes = launch(train.launch, "params.yaml: train.launch")
    share_accumulation(train.gradient_accumulation_steps, processes.processes)
    for model, plan in plans.items():
        # The first of those that share their frozen layers computes these layers' output.
        first = model_costs.first_trained(plan)
        if train.prefix_cache and first and f"{FROZEN}@{first}" not in found:
            found[f"{FROZEN}@{first}"] = model_costs.prefix(a, plan, train, blocks, length)
        found[f"pretrain@{model}"] = model_costs.pretrain(a, plan, train, blocks, length, processes)
    return found


def evaluate_costs(
    params: Params, a: Architecture, plans: Mapping[str, LayerPlan]
) -> dict[str, Cost]:
    processes = launch(params.evaluate.launch, "params.yaml: evaluate.launch")
    return {
        f"evaluate_{phase}@{model}": model_costs.evaluate(a, len(plan), params.evaluate, processes)
        for phase in ("init", "trained")
        for model, plan in plans.items()
    }


def by_value(values: Mapping[str, T]) -> list[tuple[list[str], T]]:
    """Names of equal values together, in the order of the first of them."""
    groups: list[tuple[list[str], T]] = []
    for name, value in values.items():
        names = next((names for names, other in groups if other == value), None)
        if names is None:
            groups.append(([name], value))
        else:
            names.append(name)
    return groups


def named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{names[0]} and {len(names) - 1} more"


def layer_table(a: Architecture, plans: Mapping[str, LayerPlan]) -> list[list[str]]:
    rows = [["model", "layers", "parameters before", "after", "of these train", "layer plan"]]
    for names, plan in by_value(plans):
        rows.append(
            [
                named(names),
                f"{a.num_layers} to {len(plan)}",
                f"{a.parameters(a.num_layers):,}",
                f"{a.parameters(len(plan)):,}",
                f"{model_costs.trainable(a, plan):,}",
                plan_line(plan),
            ]
        )
    return rows


def stage_table(found: Mapping[str, Cost], machine: Machine) -> list[list[str]]:
    """A row for every stage, its instances of equal cost on one; the last row is the whole run."""
    rows = [["stage", "runs", "TFLOP", "memory", "output", "scratch", "time"]]
    by_stage = {stage: (stage.partition("@")[0], cost) for stage, cost in found.items()}
    for stages, (stage_name, cost) in by_value(by_stage):
        names = [stage.partition("@")[2] for stage in stages]
        rows.append(
            [
                f"{stage_name}@{named(names)}" if names[0] else stage_name,
                str(len(names)),
                f"{cost.flops / 1e12:,.2f}",
                memory(cost, machine),
                gib(cost.output + cost.outside),
                gib(cost.scratch),
                duration(seconds(cost, machine)),
            ]
        )
    every = list(found.values())
    rows.append(
        [
            "whole run",
            str(len(every)),
            f"{sum(cost.flops for cost in every) / 1e12:,.2f}",
            gib(max(need(cost, machine).memory for cost in every)),
            gib(sum(cost.output + cost.outside for cost in every)),
            gib(max(cost.scratch for cost in every)),
            duration(sum(seconds(cost, machine) for cost in every)),
        ]
    )
    return rows


def memory(cost: Cost, machine: Machine) -> str:
    amount = need(cost, machine)
    if not amount.accelerator:
        return gib(amount.memory)
    each = f"{cost.launch.local} x " if cost.launch.local > 1 else ""
    return f"{gib(amount.memory)} + {each}{gib(amount.accelerator)} GPU"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; numbers, all but the first and a last of words, to the right."""
    sides = ["left"] + ["right"] * (len(rows[0]) - 1)
    if rows[0][-1] == "layer plan":
        sides[-1] = "left"
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=sides)


def machine_text(machine: Machine) -> str:
    def speeds(rates: Mapping[str, float]) -> str:
        return ", ".join(
            f"{unit} {rate / 1e9:.3g} {'GB/s' if unit in ('memory', 'disk') else 'GFLOP/s'}"
            for unit, rate in rates.items()
        )

    text = (
        f"This machine now: {machine.cores} cores, {gib(machine.memory)} of memory and "
        f"{gib(machine.disk)} of disk free; measured {speeds(machine.rates)}."
    )
    if gpu := machine.accelerator:
        text += f"\n{gpu.count} x {gpu.name}: {gib(gpu.memory)} free; measured {speeds(gpu.rates)}."
    return text


def present(params: Params) -> int:
    """Bytes below artifacts if params.yaml, whose run they are of, has the same base."""
    try:
        same = load().base == params.base
    except UserError:
        return 0
    files = (path for path in ARTIFACTS.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files) if same else 0


def report(
    params: Params, a: Architecture, where: str, machine: Machine, already: int
) -> tuple[str, dict[str, Cost], int]:
    """The printed text, the costs it shows, and bytes on disk at the fullest moment."""
    plans = layer_plans(params, a.num_layers)
    found = stage_costs(params, a, plans, machine.cores, machine.gpus)
    total = disk_peak(list(found.values()), machine)
    official = " and official tasks" if params.evaluate.tasks else ""
    parts = [
        f"Profile {params.profile}: {params.base.described}; shapes from {where}.\n"
        f"Base: {a.num_layers} layers, {a.parameters(a.num_layers):,} parameters "
        f"of {a.itemsize} bytes.",
        aligned(layer_table(a, plans)),
        "0-14: copies of base layers. +: new, between its neighbours. +3: new, made of layer 3.",
        aligned(stage_table(found, machine)),
        "Figures are of one run; the last row sums them, and has the largest memory and scratch.\n"
        f"Disk at the fullest moment: {gib(total)}, of which "
        f"{gib(min(already, total))} are there already.\n"
        "Memory is a model (lesa/planning/) of what a stage holds at once, with the libraries.\n"
        "Time is an estimate from rates measured just now, without the stages' start; work beside\n"
        "the matrix products makes it longer. Not counted: inputs, corpus, tasks and report, as\n"
        f"they depend on the text{official}; studies (make study), of which make grid is one.",
        machine_text(machine),
    ]
    return "\n\n".join(parts), found, total


def main() -> None:
    parser = argparse.ArgumentParser(prog="pipelines.plan")
    parser.add_argument("profile")
    name = parser.parse_args().profile
    with one_line():
        params = on_this_machine(parse(compose(name), f"conf/{name}.yaml"))
        config, where = find_config(params.base, CONFIGS, ARTIFACTS / "base")
        a = architecture(config, where)
        machine, already = this_machine(), present(params)
        text, found, total = report(params, a, where, machine, already)
        print(text, flush=True)
        if short := lacking(found, machine, total - already):
            raise UserError(short)


if __name__ == "__main__":
    main()

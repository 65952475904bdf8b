"""The study `official`: benchmark accuracies and their average, paired by example.

A file is one checkpoint's scores, in the form of metrics/evaluate/<phase>/<model>.json; a model of
several seeds, called `<model>-<seed>` as in study `budget`, has several.
"""

from __future__ import annotations

import numpy as np

from reports.measured import Metrics
from reports.paired import Array, Interval, by_task
from reports.tables import PHASE_NAMES, Row, Table
from reports.training_runs import Runs, model_and_seed, schedules, shared_seeds

SOURCES = "metrics/official/*.json"
METRIC = "acc"
PHASES = {**PHASE_NAMES, "longer": "trained longer"}
UNTOUCHED = ("base", "init")


def checkpoints(m: Metrics) -> dict[tuple[str, str], Runs]:
    """Each model's files of a phase, by seed. The untouched base stands beside every seed."""
    found: dict[tuple[str, str], Runs] = {}
    for content in m.official.values():
        model, seed = model_and_seed(str(content["model"]), content)
        found.setdefault((model, str(content["phase"])), Runs(model)).by_seed[seed] = content
    if (base := found.get(UNTOUCHED)) is not None:
        seeds = sorted({seed for scored in found.values() for seed in scored.by_seed})
        found[UNTOUCHED] = Runs("base", dict.fromkeys(seeds, base.first))
    return found


def of_model(m: Metrics, model: str, phase: str) -> Runs | None:
    return checkpoints(m).get((model, phase))


def examples(scored: Runs, seeds: list[int] | None = None) -> dict[str, Array]:
    """Each task's result of every example (seeds, examples), 0 or 1, of tasks scored by accuracy
    that these seeds, or all, were scored on the same examples of."""
    of_seeds = [
        {
            task: np.asarray(of["metrics"][METRIC]["examples"], dtype=np.float64)
            for task, of in scored.by_seed[seed]["tasks"].items()
            if "examples" in of["metrics"].get(METRIC, {})
        }
        for seed in seeds or scored.by_seed
    ]
    return {
        task: np.stack([found[task] for found in of_seeds])
        for task in of_seeds[0]
        if len({len(found.get(task, ())) for found in of_seeds}) == 1
    }


def percents(scored: Runs) -> dict[str, float]:
    """Each task's accuracy in percent."""
    return {task: 100 * float(found.mean()) for task, found in examples(scored).items()}


def average(scored: Runs) -> float:
    """The mean of the tasks' accuracies, in percent."""
    return float(np.mean(list(percents(scored).values())))


def trained_runs(m: Metrics, phase: str = "trained") -> Runs | None:
    """LESA's runs of the schedule whose checkpoints have scores of `phase`: the shortest of
    `budget`, of phase `longer` the longest."""
    found = schedules(m.budget, "lesa")
    return found[-1 if phase == "longer" else 0] if found else None


def difference(ours: Runs, theirs: Runs) -> Interval | None:
    """The average over tasks of accuracy differences, in points, paired by example, over the seeds
    of both; None for two that were not scored on the same examples, or share no seed."""
    if not (seeds := shared_seeds(ours, theirs)):
        return None
    a, b = examples(ours, seeds), examples(theirs, seeds)
    sizes = {task: found.shape[1] for task, found in a.items()}
    if not a or min(sizes.values()) < 2:
        return None
    if sizes != {task: found.shape[1] for task, found in b.items()}:
        return None
    return by_task([100 * (a[task] - b[task]) for task in a])


def tasks_of(m: Metrics) -> list[str]:
    """Every task that a model was scored on."""
    return list(dict.fromkeys(task for of in checkpoints(m).values() for task in examples(of)))


def lengths(m: Metrics) -> str:
    """How long the models of each phase trained, in words."""
    there = {phase for _, phase in checkpoints(m)} - {"init"}
    steps = [
        f"{name}: {runs.max_steps:,} steps"
        for phase, name in PHASES.items()
        if phase in there and (runs := trained_runs(m, phase))
    ]
    return f" ({', '.join(steps)}; study `budget`)" if steps else ""


def table(m: Metrics) -> Table:
    """The shape of the paper's main table: an accuracy a task, in percent, and their average."""
    found = checkpoints(m)
    base, tasks = found.get(UNTOUCHED), tasks_of(m)
    rows: list[Row] = []
    for (model, phase), scored in sorted(
        found.items(), key=lambda of: list(PHASES).index(of[0][1])
    ):
        accuracies = percents(scored)
        lesa = found.get(("lesa", "trained" if phase == "init" else phase))
        row: Row = {
            "model": model,
            "phase": PHASES[phase],
            "seeds": len(scored.by_seed) if (model, phase) != UNTOUCHED else "",
            **{task: accuracies.get(task) for task in tasks},
            "average": average(scored) if len(accuracies) == len(tasks) else None,
            "minus the untouched base's": difference(scored, base) if base else None,
            "minus trained LESA's": difference(scored, lesa) if lesa else None,
        }
        rows.append(row)
    return Table(
        "official",
        f"Benchmarks, accuracy in percent, and their average{lengths(m)}; differences paired by "
        "example over the seeds of both, of a longer run with LESA's of that length",
        SOURCES,
        rows,
    )

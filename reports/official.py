"""The study `official`: benchmark accuracies and their average, paired by example.

A file is one checkpoint's scores, in the form of metrics/evaluate/<phase>/<model>.json.
"""

from __future__ import annotations

import numpy as np

from reports.measured import Json, Metrics
from reports.paired import Array, Interval, by_task
from reports.tables import PHASE_NAMES, Row, Table
from reports.training_runs import Runs, schedules

SOURCES = "metrics/official/*.json"
METRIC = "acc"
PHASES = {**PHASE_NAMES, "longer": "trained longer"}


def examples(content: Json) -> dict[str, Array]:
    """Each task's result of every example (examples,), 0 or 1, of tasks scored by accuracy."""
    return {
        task: np.asarray(c["metrics"][METRIC]["examples"], dtype=np.float64)
        for task, c in content["tasks"].items()
        if "examples" in c["metrics"].get(METRIC, {})
    }


def percents(content: Json) -> dict[str, float]:
    """Each task's accuracy in percent."""
    return {task: 100 * float(found.mean()) for task, found in examples(content).items()}


def trained_runs(m: Metrics, phase: str = "trained") -> Runs | None:
    """LESA's runs of the schedule whose checkpoints have scores of `phase`: the shortest of
    `budget`, of phase `longer` the longest."""
    found = schedules(m.budget, "lesa")
    return found[-1 if phase == "longer" else 0] if found else None


def difference(ours: Json, theirs: Json) -> Interval | None:
    """The average over tasks of accuracy differences, in points, paired by example; None for two
    that were not scored on the same ones."""
    a, b = examples(ours), examples(theirs)
    sizes = {task: len(found) for task, found in a.items()}
    if not a or min(sizes.values()) < 2 or sizes != {task: len(found) for task, found in b.items()}:
        return None
    return by_task([100 * (a[task] - b[task]) for task in a])


def of_model(m: Metrics, model: str, phase: str) -> Json | None:
    found = (c for c in m.official.values() if (c["model"], c["phase"]) == (model, phase))
    return next(found, None)


def tasks_of(contents: list[Json]) -> list[str]:
    """Every task that one of them was scored on."""
    return list(dict.fromkeys(task for content in contents for task in examples(content)))


def lengths(m: Metrics) -> str:
    """How long the models of each phase trained, in words."""
    there = {content["phase"] for content in m.official.values()} - {"init"}
    steps = [
        f"{name}: {runs.max_steps:,} steps"
        for phase, name in PHASES.items()
        if phase in there and (runs := trained_runs(m, phase))
    ]
    return f" ({', '.join(steps)}; one seed of study `budget`)" if steps else ""


def table(m: Metrics) -> Table:
    """The shape of the paper's main table: an accuracy a task, in percent, and their average."""
    base = of_model(m, "base", "init")
    contents = sorted(m.official.values(), key=lambda content: list(PHASES).index(content["phase"]))
    tasks = tasks_of(contents)
    rows: list[Row] = []
    for content in contents:
        found, phase = percents(content), str(content["phase"])
        lesa = of_model(m, "lesa", "trained" if phase == "init" else phase)
        row: Row = {
            "model": str(content["model"]),
            "phase": PHASES[phase],
            **{task: found.get(task) for task in tasks},
            "average": float(np.mean(list(found.values()))) if len(found) == len(tasks) else None,
            "minus the untouched base's": difference(content, base) if base else None,
            "minus trained LESA's": difference(content, lesa) if lesa else None,
        }
        rows.append(row)
    return Table(
        "official",
        f"Benchmarks, accuracy in percent, and their average{lengths(m)}; differences paired by "
        "example, of a longer run with LESA's of that length",
        SOURCES,
        rows,
    )

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


def trained_runs(m: Metrics) -> Runs | None:
    """LESA's runs of the schedule whose checkpoints the study scores, the shortest of `budget`."""
    return next(iter(schedules(m.budget, "lesa")), None)


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


def table(m: Metrics) -> Table:
    """The shape of the paper's main table: an accuracy a task, in percent, and their average."""
    base, lesa = of_model(m, "base", "init"), of_model(m, "lesa", "trained")
    contents = list(m.official.values())
    tasks = tasks_of(contents)
    rows: list[Row] = []
    for content in contents:
        found = percents(content)
        row: Row = {
            "model": str(content["model"]),
            "phase": PHASE_NAMES.get(content["phase"], str(content["phase"])),
            **{task: found.get(task) for task in tasks},
            "average": float(np.mean(list(found.values()))) if len(found) == len(tasks) else None,
            "minus the untouched base's": difference(content, base) if base else None,
            "minus trained LESA's": difference(content, lesa) if lesa else None,
        }
        rows.append(row)
    runs = trained_runs(m)
    of = f" (trained: one seed of study `budget`, {runs.max_steps:,} steps)" if runs else ""
    return Table(
        "official",
        f"Benchmarks, accuracy in percent, and their average{of}; differences paired by example",
        SOURCES,
        rows,
    )

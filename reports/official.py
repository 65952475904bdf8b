"""The study `official`: benchmark accuracies and their average, paired by example.

A file is one checkpoint's scores, in the form of metrics/evaluate/<phase>/<model>.json.
"""

from __future__ import annotations

import numpy as np

from reports.measured import Json, Metrics
from reports.paired import Array, Interval, by_task
from reports.tables import PHASE_NAMES, Cell, Table
from reports.training_runs import schedules

SOURCES = "metrics/official/*.json"
METRIC = "acc"


def examples(content: Json) -> dict[str, Array]:
    """Each task's result of every example (examples,), 0 or 1, of tasks scored by accuracy."""
    return {
        task: np.asarray(c["metrics"][METRIC]["examples"], dtype=np.float64)
        for task, c in content["tasks"].items()
        if "examples" in c["metrics"].get(METRIC, {})
    }


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
    rows: list[dict[str, Cell]] = []
    for content in contents:
        found = examples(content)
        means = {task: 100 * float(found[task].mean()) if task in found else None for task in tasks}
        known = [value for value in means.values() if value is not None]
        row: dict[str, Cell] = {
            "model": str(content["model"]),
            "phase": PHASE_NAMES.get(content["phase"], str(content["phase"])),
            **means,
            "average": float(np.mean(known)) if len(known) == len(tasks) else None,
            "minus the untouched base's": difference(content, base) if base else None,
            "minus trained LESA's": difference(content, lesa) if lesa else None,
        }
        rows.append(row)
    lengths = [runs.max_steps for runs in schedules(m.budget, "lesa")[:1]]
    of = f" (trained: one seed of study `budget`, {lengths[0]:,} steps)" if lengths else ""
    return Table(
        "official",
        f"Benchmarks, accuracy in percent, and their average{of}; differences paired by example",
        SOURCES,
        rows,
    )

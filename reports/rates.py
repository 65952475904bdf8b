"""The study `rates`: learning rates of the longer schedules, sought on validation text."""

from __future__ import annotations

from reports.measured import Metrics
from reports.tables import Cell, Table

SOURCES = "metrics/rates/*.json"


def table(m: Metrics) -> Table:
    """A row a model of a study: the loss at each rate that was tried, and the best."""
    tried = {
        name: {float(run["learning_rate"]): float(run["validation_loss"]) for run in found["runs"]}
        for name, found in m.rates.items()
    }
    ladder = sorted({rate for losses in tried.values() for rate in losses})
    rows: list[dict[str, Cell]] = []
    for name, found in m.rates.items():
        losses, best = tried[name], float(found["best"])
        row: dict[str, Cell] = {"study": found["study"], "model": found["model"]}
        row |= {"steps": int(found["max_steps"]), "tokens": int(found["tokens"])}
        row |= {f"{rate:g}": losses.get(rate, "–") for rate in ladder}
        row["best"] = best
        row["at an edge of what was tried"] = "yes" if best in (min(losses), max(losses)) else "no"
        rows.append(row)
    return Table(
        "rates",
        "Learning rates sought for the longer schedules: validation loss at the end of a try, by "
        "rate (–: not tried), nats a token",
        SOURCES,
        rows,
        lambda row, _: f"metrics/rates/{row['study']}-{row['model']}.json",
    )

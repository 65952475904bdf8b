"""The study `rates`: learning rates of the longer schedules, sought on validation text."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lesa.files import read_json
from reports.measured import Json, Metrics
from reports.tables import Row, Table, counted, loss_of
from reports.training_runs import Runs, shared_seeds

LOG = Path(__file__).with_name("rates_of_a_log.json")
SOURCES = "metrics/rates/*.json, reports/rates_of_a_log.json"


@cache
def of_log() -> list[Json]:
    found: list[Json] = read_json(LOG)["found"]
    return found


def sought(m: Metrics) -> dict[str, tuple[Json, str]]:
    """What the study found and its file, by `<study>-<model>`: beside metrics/rates what LOG has,
    of the profile that it was of and where no file is."""
    names = {name: (found, f"metrics/rates/{name}.json") for name, found in m.rates.items()}
    if m.rates:
        for found in of_log():
            if found["profile"] == m.params.profile:
                names.setdefault(
                    f"{found['study']}-{found['model']}", (found, f"reports/{LOG.name}")
                )
    return dict(sorted(names.items()))


def edge(found: Json) -> str:
    """Whether the best rate is the lowest or the highest that was tried; empty if neither."""
    tried = [float(run["learning_rate"]) for run in found["runs"]]
    return {min(tried): "lowest", max(tried): "highest"}.get(float(found["best"]), "")


def sought_for(m: Metrics, study: str, runs: Runs) -> Json | None:
    """The search for a model and schedule of a study whose best rate the runs have, if there is
    one: runs at another rate than it found are at one that was not sought for them."""
    of_runs = (found for found, _ in sought(m).values() if found["study"] == study)
    own = next((own for own in of_runs if own["run"].rpartition("-")[0] == runs.name), None)
    return own if own and own["best"] == runs.first["learning_rate"] else None


def edge_of(m: Metrics, study: str, runs: Runs) -> str:
    """Whether the runs have the best rate of a search at whose edge it is; empty if not."""
    own = sought_for(m, study, runs)
    return edge(own) if own else ""


def at_edge(m: Metrics, study: str, runs: Runs, name: str = "LESA") -> str:
    """What to add where runs are named whose rate is at an edge of its search."""
    end = edge_of(m, study, runs)
    return f", {name}'s rate the {end} tried" if end else ""


def over_seeds(m: Metrics, study: str, ours: Runs, theirs: Runs) -> str:
    """How many seeds a difference of two models is over, and if our rate is at an edge."""
    return counted(len(shared_seeds(ours, theirs)), "seed") + at_edge(m, study, ours, ours.model)


def table(m: Metrics) -> Table:
    """A row a model of a study: the loss at each rate that was tried, and the best."""
    names = sought(m)
    tried = {
        name: {float(run["learning_rate"]): loss_of(run) for run in found["runs"]}
        for name, (found, _) in names.items()
    }
    ladder = sorted({rate for losses in tried.values() for rate in losses})
    rows: list[Row] = []
    for name, (found, _) in names.items():
        losses = tried[name]
        row: Row = {"study": found["study"], "model": found["model"]}
        row |= {"steps": int(found["max_steps"]), "tokens": int(found["tokens"])}
        row |= {f"{rate:g}": losses.get(rate, "–") for rate in ladder}
        row["best"] = float(found["best"])
        row["at an edge of what was tried"] = "yes" if edge(found) else "no"
        rows.append(row)
    logged = [f"`{name}`" for name, (_, file) in names.items() if file.endswith(LOG.name)]
    of_log = f". Of the log of stages whose files were lost: {', '.join(logged)}" if logged else ""
    return Table(
        "rates",
        "Learning rates sought for the longer schedules: validation loss at the end of a try, by "
        f"rate (–: not tried), nats a token{of_log}",
        SOURCES,
        rows,
        lambda row, _: names[f"{row['study']}-{row['model']}"][1],
    )

"""The studies of other texts: code and SFT (claim C11), and variants of the base (claim C2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from reports.measured import Json, Metrics, files, losses_at
from reports.paired import Array, Interval, exact_share, interval, paired, ratio, shares_apart
from reports.tables import Cell, Row, Table, counted, of_model
from reports.training_runs import Runs, model_and_seed, shared_seeds

GROUPS = 6  # fewer packages or modules are too few to resample: their files or examples are
PASS_AT_1 = "HumanEval, pass@1"
PERCENT = f"{PASS_AT_1}, %"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Domain:
    """A study's measure: held-out nats over the sum of the column `size`, `nats` a unit."""

    name: str
    unit: str
    text: str
    size: str
    nats: float
    groups: str


DOMAINS = {
    "code": Domain(
        "code", "bits a byte", "the packages held out", "bytes", math.log(2), "packages"
    ),
    "sft": Domain("SFT", "nats a token", "the completions held out", "targets", 1.0, "modules"),
}


def by_model(m: Metrics, study: str) -> dict[str, Runs]:
    """The models of a study, which has one schedule."""
    found: dict[str, Runs] = {}
    for name, run in getattr(m, study).items():
        model, seed = model_and_seed(name, run)
        found.setdefault(model, Runs(model)).by_seed[seed] = run
    return found


def files_of(m: Metrics, study: str, models: Collection[str]) -> str:
    """The files of all runs of these models of a study; of one that has none, what it would be."""
    runs: dict[str, Json] = getattr(m, study)
    names = [name for name, run in runs.items() if model_and_seed(name, run)[0] in models]
    return files(study, names or list(models))


def difference(
    ours: Runs | None, theirs: Runs | None, domain: Domain, phases: tuple[str, str] = ("end", "end")
) -> tuple[Interval | None, str]:
    """Our held-out loss minus theirs, in the domain's unit, and what its observations are.

    It is over the seeds of both, and None where there are none. phases: of ours and of theirs,
    "start" or "end" of the training.
    """
    if ours is None or theirs is None or not (seeds := shared_seeds(ours, theirs)):
        return None, ""
    pairs = [(ours.by_seed[seed]["heldout"], theirs.by_seed[seed]["heldout"]) for seed in seeds]
    held = pairs[0][0]
    grouped = len(set(held["groups"])) >= GROUPS
    owners = held["groups"] if grouped else held["ids"]
    order = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    index = [order[owner] for owner in owners]
    excess = [
        np.subtract(own["nats"][phases[0]], other["nats"][phases[1]]) / domain.nats
        for own, other in pairs
    ]
    found = ratio(
        [np.bincount(index, weights=of_seed) for of_seed in excess],
        np.bincount(index, weights=held[domain.size]),
    )
    observed = domain.groups if grouped else "examples"
    return found, f"{observed}, {counted(len(pairs), 'seed')}" if len(pairs) > 1 else observed


def loss(model: Runs, domain: Domain, phase: str) -> float:
    """Held-out loss in the domain's unit, mean over seeds."""
    held = [run["heldout"] for run in model.by_seed.values()]
    nats = fmean(math.fsum(of["nats"][phase]) for of in held)
    return nats / domain.nats / float(sum(held[0][domain.size]))


def table(m: Metrics, study: str) -> Table:
    """Loss on the study's held-out text, and what is forgotten of the run's own."""
    domain, found = DOMAINS[study], by_model(m, study)
    untouched = found["base"].first if "base" in found else None
    rows: list[Row] = []
    for name, model in found.items():
        row: Row = {
            "model": name,
            "seeds": len(model.by_seed),
            "learning rate": float(model.first["learning_rate"]),
            f"{domain.unit}, start": loss(model, domain, "start"),
            f"{domain.unit}, end": loss(model, domain, "end"),
        }
        if untouched:
            phases = ("end", "start")
            start = Runs("base", dict.fromkeys(model.by_seed, untouched))
            row["minus the untouched base's"] = difference(model, start, domain, phases)[0]
        if "lesa" in found:
            row["minus LESA's"] = (
                "" if name == "lesa" else difference(model, found["lesa"], domain)[0]
            )
        if untouched:
            ends = [losses_at(run, -1) for run in model.by_seed.values()]
            forgotten = paired(ends, [losses_at(untouched, 0)] * len(ends))
            row["loss on the run's own text, minus the untouched base's"] = forgotten
        if study == "code":
            row[PERCENT] = solved(m, name)
        rows.append(row)
    rows = without_not_run(rows, PERCENT)
    return Table(
        f"domain_{study}",
        f"Training on {domain.name}{length(list(getattr(m, study).values()))}: loss on "
        f"{domain.text}, {domain.unit}; differences are over the seeds of both",
        files_of(m, study, found) if found else f"metrics/{study}/*.json",
        rows,
        lambda row, column: files_of(
            m, "humaneval" if column == PERCENT else study, [str(row["model"])]
        ),
    )


def without_not_run(rows: list[Row], column: str) -> list[Row]:
    """The rows without a column of HumanEval that was run for none of them."""
    if any(row.get(column) != NOT_RUN for row in rows):
        return rows
    return [{name: row[name] for name in row if name != column} for row in rows]


def length(models: list[Json]) -> str:
    """Steps, tokens and seeds of models that were trained equally long; else nothing."""
    ends = {(model["steps"][-1]["step"], model["steps"][-1]["tokens"]) for model in models}
    if len(ends) != 1:
        return ""
    steps, tokens = ends.pop()
    seeds = sorted({model["seed"] or 0 for model in models})
    return f", {steps:,} steps, {tokens:,} tokens, seed {', '.join(map(str, seeds))}"


def solved(m: Metrics, model: str) -> Cell:
    """Percent of HumanEval's problems that a model of the study code solves."""
    if (content := m.humaneval.get(model)) is None:
        return NOT_RUN
    return exact_share(sum(content["passed"]), len(content["passed"])).scaled(100)


def solved_minus(m: Metrics, ours: str, theirs: str) -> Interval | None:
    """Our percent of the problems solved minus theirs, paired by problem; None without the same."""
    one, other = m.humaneval.get(ours), m.humaneval.get(theirs)
    if not one or not other or one["problems"] != other["problems"]:
        return None
    return shares_apart(one["passed"], other["passed"]).scaled(100)


def humaneval(m: Metrics) -> Table:
    """pass@1 of one greedy sample a problem; no row where no generated code was run."""
    rows: list[Row] = [
        {
            "model": name,
            "problems": len(content["problems"]),
            "pass@1, %": solved(m, name),
            "minus LESA's, points": "" if name == "lesa" else solved_minus(m, name, "lesa"),
        }
        for name, content in m.humaneval.items()
    ]
    return Table(
        "humaneval",
        "HumanEval, problems solved by one greedy sample",
        "metrics/humaneval/*.json",
        rows,
        of_model("humaneval"),
    )


def parities(m: Metrics) -> dict[str, Json]:
    """Of the study variants, what was fitted on each split of the triples, by file."""
    return {name: content for name, content in m.variants.items() if "split" in content}


def over_fits(content: Json, number: Callable[[Json], float]) -> Array:
    """(seeds, kinds): a number of each predictor's scores, {"train", "test"}."""
    kinds = [kind["seeds"] for kind in content["kinds"].values()]
    return np.array([[number(kind[seed]) for kind in kinds] for seed in kinds[0]])


def over_train(scores: Json) -> float:
    return float(scores["test"]["mse"] / scores["train"]["mse"])


def over_zero(scores: Json) -> float:
    return float(scores["test"]["mse"] / scores["test"]["zero_mse"])


def near_copies(content: Json) -> float | None:
    """Error of a test layer's nearest variant in the training set over that of zero, mean of kinds.

    None where no test layer has a variant there.
    """
    kinds = content["kinds"].values()
    if any(kind["nearest_copy_mse"] is None for kind in kinds):
        return None
    zero = [next(iter(kind["seeds"].values()))["test"]["zero_mse"] for kind in kinds]
    copies = [kind["nearest_copy_mse"] for kind in kinds]
    return float(np.mean(np.divide(copies, zero)))


def variants(m: Metrics) -> Table:
    """Parity on pooled triples of variants: a number is the mean over matrix kinds and seeds."""
    rows: list[Row] = []
    for content in parities(m).values():
        explained = over_fits(content, lambda scores: scores["test"]["explained_variance"])
        moved = [list(kind["distance"].values()) for kind in content["kinds"].values()]
        row: Row = {
            "split": str(content["split"]),
            "basis": "each variant's own" if content["basis"] == "own" else "the base's",
            "triples, fitted on": int(content["triples"]["train"]),
            "triples, tested on": int(content["triples"]["test"]),
            "test MSE / training MSE": interval(over_fits(content, over_train)),
            "test MSE / MSE of zero": interval(over_fits(content, over_zero)),
            "explained variance, test": interval(explained),
            "MSE of the nearest variant / MSE of zero": near_copies(content),
            "variants' distance from the base": float(np.mean(moved)),
        }
        rows.append(row)
    return Table(
        "variants",
        "Predictors fitted on triples of variants of the base, split at random or by layer",
        "metrics/variants/parity-*.json",
        rows,
        lambda *_: "metrics/variants/*.json",
    )

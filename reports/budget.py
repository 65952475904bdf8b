"""The study `budget`: training runs of several seeds, compared at equal tokens and at equal loss.

A run is called `<model>-<seed>`, or `<model>` where there is one seed; runs of one name and
schedule differ in their seed alone: that of the data order and, for LESA, of the predictor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from pydantic import TypeAdapter

from lesa.params import Places
from reports.measured import Json, Metrics, files, losses_at, whole_seconds
from reports.paired import Array, Interval, paired, resampled
from reports.tables import Cell, Table

SOURCES = "metrics/budget/*.json"


@dataclass(frozen=True)
class Runs:
    """Runs of one model and schedule by their seed."""

    name: str
    by_seed: dict[int, Json] = field(default_factory=dict)

    @property
    def first(self) -> Json:
        return next(iter(self.by_seed.values()))

    @property
    def max_steps(self) -> int:
        return int(self.first["max_steps"])

    @property
    def points(self) -> dict[int, int]:
        """Index in `steps` of each number of tokens at which every seed was measured."""
        tokens = [[int(s["tokens"]) for s in run["steps"]] for run in self.by_seed.values()]
        shared = set(tokens[0]).intersection(*tokens)
        return {n: i for i, n in enumerate(tokens[0]) if n in shared}

    @property
    def tokens(self) -> int:
        return max(self.points)

    @property
    def final_loss(self) -> float:
        """Mean over seeds and documents at the last point."""
        return float(self.at(self.tokens, list(self.by_seed)).mean())

    def at(self, tokens: int, seeds: list[int]) -> Array:
        """Mean losses (seeds, documents) after so many tokens."""
        found = []
        for seed in seeds:
            run = self.by_seed[seed]
            index = next(i for i, s in enumerate(run["steps"]) if s["tokens"] == tokens)
            found.append(losses_at(run, index))
        return np.stack(found)

    def curve(self, seeds: list[int]) -> Array:
        """Losses (points, seeds, documents) at every number of tokens in `points`."""
        return np.stack([self.at(tokens, seeds) for tokens in self.points])


def groups(m: Metrics) -> list[Runs]:
    """The study's runs by model and schedule; of one name, the longest schedule comes first."""
    found: dict[tuple[str, int], Runs] = {}
    for run in sorted(
        m.budget.values(), key=lambda run: (-run["max_steps"], int(run["seed"] or 0))
    ):
        name, seed = str(run["run"]), int(run["seed"] or 0)
        label = name.removesuffix(f"-{seed}")
        found.setdefault((label, run["max_steps"]), Runs(label)).by_seed[seed] = run
    return sorted(found.values(), key=lambda runs: (runs.name, -runs.max_steps))


def called(m: Metrics, name: str) -> Runs | None:
    """The runs called `name`, of the longest schedule."""
    return next((runs for runs in groups(m) if runs.name == name), None)


def gaps_of(m: Metrics, runs: Runs) -> Places:
    """The gaps that the runs' method was told; the base has no new layers for all that."""
    own = runs.first["gaps"]
    found: Places = TypeAdapter(Places).validate_python(own) if own else m.params.gaps
    return found


def new_layers(m: Metrics, runs: Runs) -> int:
    """How many layers the runs' method was told to add."""
    return gaps_of(m, runs).count


def of_this_growth(m: Metrics) -> list[Runs]:
    """The runs whose models have as many new layers as the params say."""
    return [runs for runs in groups(m) if new_layers(m, runs) == m.params.gaps.count]


def main_runs(m: Metrics) -> list[Runs]:
    """The runs of this growth and of LESA's schedule, or of the longest where LESA has no run."""
    found = of_this_growth(m)
    steps = (
        lesa.max_steps
        if (lesa := called(m, "lesa"))
        else max((r.max_steps for r in found), default=0)
    )
    return [runs for runs in found if runs.max_steps == steps]


def longer_runs(m: Metrics) -> list[Runs]:
    """The runs of this growth and of a longer schedule than LESA's in the comparison of all."""
    lesa = called(m, "lesa")
    return [r for r in of_this_growth(m) if lesa and r.max_steps > lesa.max_steps]


def as_deep_llama_pro(m: Metrics, runs: Runs) -> Runs | None:
    """LLaMA Pro's runs with as many new layers as `runs`, of the schedule nearest in length."""
    found = [
        own
        for own in groups(m)
        if (own.first["method"], own.first["trains"], new_layers(m, own))
        == ("llama_pro", "new", new_layers(m, runs))
    ]
    return min(found, key=lambda own: abs(own.max_steps - runs.max_steps), default=None)


def alike(m: Metrics, lesa: Runs, trains: str, max_steps: int) -> Runs | None:
    """Runs of LESA's method and preset that train other layers, or for other steps."""
    key = (lesa.first["method"], lesa.first["preset"], trains, max_steps)
    for runs in groups(m):
        run = runs.first
        own = (run["method"], run["preset"], run["trains"], run["max_steps"])
        if own == key and runs.name.startswith(lesa.name):
            return runs
    return None


def shared_seeds(ours: Runs, theirs: Runs) -> list[int]:
    return [seed for seed in ours.by_seed if seed in theirs.by_seed]


def difference(
    ours: Runs, theirs: Runs, tokens: int | None = None, at: int | None = None
) -> Interval | None:
    """Loss of `ours` minus loss of `theirs`, over the seeds of both and documents.

    Ours after `tokens`, theirs after `at`; None: their last points. None if they share no seed.
    """
    if not (seeds := shared_seeds(ours, theirs)):
        return None
    end = theirs.tokens if at is None else at
    return paired(ours.at(ours.tokens if tokens is None else tokens, seeds), theirs.at(end, seeds))


def of_other_growths(m: Metrics) -> list[tuple[Runs, Interval]]:
    """Runs with other numbers of new layers than the params', and their final losses minus LLaMA
    Pro's with as many."""
    found = []
    for runs in groups(m):
        llama_pro = as_deep_llama_pro(m, runs)
        if new_layers(m, runs) == m.params.gaps.count or llama_pro is None:
            continue
        if runs.name != llama_pro.name and (gap := difference(runs, llama_pro)) is not None:
            found.append((runs, gap))
    return found


def seconds(runs: Runs) -> float:
    """Median over seeds of the whole seconds, frozen layers below included."""
    return float(np.median([whole_seconds(run) for run in runs.by_seed.values()]))


def crossing(tokens: Array, losses: Array, target: float) -> float:
    """Tokens at which a curve first is at `target` or below, linear in tokens between two points;
    infinity if it never is."""
    if losses[0] <= target:
        return float(tokens[0])
    for (t0, t1), (a, b) in zip(pairwise(tokens), pairwise(losses), strict=True):
        if b <= target:
            return float(t0 + (t1 - t0) * (a - target) / (a - b))
    return float("inf")


def tokens_ratio(ours: Runs, theirs: Runs) -> Interval | None:
    """Tokens after which `ours` is at the final loss of `theirs`, over the tokens of `theirs`."""
    if not (seeds := shared_seeds(ours, theirs)):
        return None
    tokens = np.array(list(ours.points), dtype=np.float64)
    curve, end = ours.curve(seeds), theirs.at(theirs.tokens, seeds)

    def ratio(weights: Array) -> float:
        losses = (curve * weights).sum((1, 2))
        return crossing(tokens, losses, float((end * weights).sum())) / theirs.tokens

    return resampled(ratio, len(seeds), end.shape[1])


def forgotten(runs: Runs, base: Runs | None) -> Interval | None:
    """Loss on the second text at the end minus that of the untouched base, over seeds and blocks;
    None where it was not measured."""
    key = "second_text_block_losses"
    if base is None or not all(key in run["steps"][-1] for run in runs.by_seed.values()):
        return None
    if (untouched := base.first["steps"][0].get(key)) is None:
        return None
    ends = np.array([run["steps"][-1][key] for run in runs.by_seed.values()])
    return paired(ends, np.broadcast_to(untouched, ends.shape))


def source(runs: Runs | None) -> str:
    """The file of a run; of several seeds, the folder's."""
    if runs is None or len(runs.by_seed) > 1:
        return SOURCES
    return files("budget", [str(runs.first["run"])])


def table(m: Metrics) -> Table:
    """A row for each model and schedule: where it ends, and what that took."""
    base = called(m, "base")
    sources = {(runs.name, runs.max_steps): source(runs) for runs in groups(m)}
    rows: list[dict[str, Cell]] = [
        {
            "run": runs.name,
            "new layers": 0 if runs.first["method"] == "base" else new_layers(m, runs),
            "trains": str(runs.first["trains"]),
            "seeds": len(runs.by_seed),
            "steps": runs.max_steps,
            "tokens": runs.tokens,
            "learning rate": float(runs.first["learning_rate"]),
            "final loss": runs.final_loss,
            "minus LLaMA Pro's": difference(runs, llama_pro) if llama_pro else None,
            "minus the trained base's": difference(runs, base) if base else None,
            "Python source, minus the untouched base's": forgotten(runs, base),
            "whole seconds": seconds(runs),
            "tokens to LLaMA Pro's final loss, over its tokens": tokens_ratio(runs, llama_pro)
            if llama_pro
            else None,
        }
        for runs in groups(m)
        for llama_pro in [as_deep_llama_pro(m, runs)]
    ]
    return Table(
        "budget",
        "Every run of the study at its end; differences of losses in nats a token, to LLaMA Pro's "
        "with as many new layers, over the seeds that both have (∞: not reached; linear in tokens "
        "between points). Python source: what is forgotten of another text, its blocks one each "
        "of modules of the standard library",
        SOURCES,
        rows,
        lambda row, _: sources[str(row["run"]), int(str(row["steps"]))],
    )


LONGER_POINTS = 8  # of a run's curve in the table of longer schedules
RIVALS = (
    "llama_pro", "identity", "adept", "opt_deus_code", "opt_deus", "average", "lesa",
    "lesa_official", "solar", "base", "lora", "llama_pro_all",
)  # fmt: skip
COMPARED = (
    "lesa", "lesa_official", "fitted_llama_pro", "fitted_identity", "llama_pro_upper",
    "llama_pro_lora",
)  # fmt: skip


def longer(m: Metrics) -> Table:
    """Longer schedules: each model's loss minus LLaMA Pro's of that schedule, on the way."""
    rows: list[dict[str, Cell]] = []
    for runs in longer_runs(m):
        llama_pro = as_deep_llama_pro(m, runs)
        for tokens in list(runs.points)[:: max(1, len(runs.points) // LONGER_POINTS)]:
            row: dict[str, Cell] = {"run": runs.name, "tokens": tokens}
            row["loss"] = float(runs.at(tokens, list(runs.by_seed)).mean())
            if llama_pro is not None and llama_pro.max_steps == runs.max_steps:
                own = llama_pro.name == runs.name
                row["minus LLaMA Pro's"] = (
                    None if own else difference(runs, llama_pro, tokens, tokens)
                )
            rows.append(row)
    return Table(
        "budget_longer",
        "The longer schedules: held-out loss after so many tokens, nats a token, and minus LLaMA "
        "Pro's of that schedule",
        SOURCES,
        rows,
        lambda row, _: source(called(m, str(row["run"]))),
    )


def gaps(m: Metrics) -> Table:
    """At every number of tokens: does LESA overtake a rival, is this project's own ahead of all?"""
    rows: list[dict[str, Cell]] = []
    for name in COMPARED:
        if (runs := called(m, name)) is None:
            continue
        for rival in RIVALS:
            if rival == name or (other := called(m, rival)) is None:
                continue
            row: dict[str, Cell] = {"run": name, "minus": rival}
            for tokens in runs.points:
                shared = tokens in other.points
                row[f"{tokens:,}"] = difference(runs, other, tokens, tokens) if shared else None
            rows.append(row)
    return Table(
        "budget_gaps",
        "Loss of LESA and of this project's own models, minus that of others after equally many "
        "tokens, nats a token; the tokens of a fit count",
        SOURCES,
        rows,
        lambda row, _: source(called(m, str(row["run"]))),
    )

"""Training runs of several seeds, compared at equal tokens and at equal loss.

A run is called `<model>-<seed>`, or `<model>` where there is one seed; runs of one name and
schedule differ in their seed alone: that of the data order and, for LESA, of the predictor. Of a
study's second schedule a model's name ends in its steps, `lesa_256`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from pydantic import TypeAdapter

from lesa.params import Places
from reports.claims import Verdict, above, below
from reports.measured import Json, Metrics, losses_at, whole_seconds
from reports.paired import Array, Interval, document_means, paired, resampled
from reports.tables import Row, Table, series

SECOND = "second_text_block_losses"
IDENTITY_STARTS = ("llama_pro", "identity", "llama_pro_upper", "opt_deus_code")


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
    def model(self) -> str:
        """The name without the steps that a study's second schedule has in it."""
        return self.name.removesuffix(f"_{self.max_steps}")

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
        return self.loss(self.tokens)

    def loss(self, tokens: int) -> float:
        """Mean over seeds and documents after so many tokens."""
        return float(self.at(tokens, list(self.by_seed)).mean())

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


def groups(found: Mapping[str, Json]) -> list[Runs]:
    """A study's runs by model and schedule; of one name, the longest schedule comes first."""
    by_name: dict[tuple[str, int], Runs] = {}
    for run in sorted(found.values(), key=lambda run: (-run["max_steps"], int(run["seed"] or 0))):
        label, seed = model_and_seed(str(run["run"]), run)
        by_name.setdefault((label, run["max_steps"]), Runs(label)).by_seed[seed] = run
    return sorted(by_name.values(), key=lambda runs: (runs.name, -runs.max_steps))


def model_and_seed(name: str, run: Json) -> tuple[str, int]:
    """Of which model a run is by its name, and of which seed; 0 where it says none."""
    seed = int(run.get("seed") or 0)
    return name.removesuffix(f"-{seed}"), seed


def called(found: Mapping[str, Json], name: str) -> Runs | None:
    """The runs called `name`, of the longest schedule."""
    return next((runs for runs in groups(found) if runs.name == name), None)


def schedules(found: Mapping[str, Json], model: str) -> list[Runs]:
    """A model's runs, the shortest schedule first."""
    own = (runs for runs in groups(found) if runs.model == model)
    return sorted(own, key=lambda runs: runs.max_steps)


def of_steps(found: Mapping[str, Json], model: str, max_steps: int) -> Runs | None:
    """A model's runs of one schedule."""
    return next((runs for runs in schedules(found, model) if runs.max_steps == max_steps), None)


NONE_ADDED = ("base", "original_layers")  # methods


def gaps_of(m: Metrics, runs: Runs) -> Places:
    """The gaps that the runs' method was told; the base has no new layers for all that."""
    own = runs.first["gaps"]
    found: Places = TypeAdapter(Places).validate_python(own) if own else m.params.gaps
    return found


def new_layers(m: Metrics, runs: Runs) -> int:
    """How many layers the runs' method was told to add."""
    return gaps_of(m, runs).count


def added(m: Metrics, runs: Runs) -> int:
    """How many layers the runs' models have more than the base."""
    return 0 if runs.first["method"] in NONE_ADDED else new_layers(m, runs)


def nearest(found: list[Runs], runs: Runs) -> Runs | None:
    """Of `found`, the runs of the schedule nearest in length to that of `runs`."""
    return min(found, key=lambda own: abs(own.max_steps - runs.max_steps), default=None)


def beside(m: Metrics, study: list[Runs], runs: Runs, method: str, trains: str) -> Runs | None:
    """A method's runs that train `trains`, with as many new layers as `runs` unless it has none, of
    the schedule nearest in length."""
    return nearest(
        [
            own
            for own in study
            if (own.first["method"], own.first["trains"]) == (method, trains)
            and (method == "base" or new_layers(m, own) == new_layers(m, runs))
        ],
        runs,
    )


# What of a run says which start was trained, its seed apart.
START = ("method", "options", "gaps", "preset", "settings", "signs", "raw")


def trained_otherwise(
    found: Mapping[str, Json], lesa: Runs, trains: str, max_steps: int
) -> Runs | None:
    """Runs of the same start that train other layers, or for other steps."""
    key = [*(lesa.first.get(name) for name in START), trains, max_steps]
    for runs in groups(found):
        if [runs.first.get(name) for name in (*START, "trains", "max_steps")] == key:
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


def on_the_way(ours: Runs, theirs: Runs) -> dict[int, Interval]:
    """The difference after every number of tokens at which both were measured."""
    gaps = {n: difference(ours, theirs, n, n) for n in ours.points if n in theirs.points}
    return {n: gap for n, gap in gaps.items() if gap is not None}


def told_apart(ours: Runs, theirs: Runs) -> tuple[list[int], list[int], int]:
    """At how many tokens after the start ours is below, and above; and of how many points."""
    gaps = {n: gap for n, gap in on_the_way(ours, theirs).items() if n}
    lower, higher = (
        [n for n, gap in gaps.items() if side(gap) is Verdict.HOLDS] for side in (below, above)
    )
    return lower, higher, len(gaps)


def median_seconds(runs: Runs) -> float:
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


def second_text_at(run: Json, index: int) -> Array:
    """Mean loss of each document of the second text (documents,) at `steps[index]`."""
    return document_means(run["second_text_documents"], run["steps"][index][SECOND])


def forgotten(runs: Runs, base: Runs | None) -> Interval | None:
    """Loss on the second text at the end minus that of the untouched base, over seeds and
    documents; None where it was not measured."""
    if base is None or SECOND not in base.first["steps"][0]:
        return None
    if not all(SECOND in run["steps"][-1] for run in runs.by_seed.values()):
        return None
    ends = np.stack([second_text_at(run, -1) for run in runs.by_seed.values()])
    return paired(ends, np.broadcast_to(second_text_at(base.first, 0), ends.shape))


def file_of(study: str, runs: Runs | None) -> str:
    """The file of a run of a study; of several seeds, the folder's."""
    name = "*" if runs is None or len(runs.by_seed) > 1 else runs.first["run"]
    return f"metrics/{study}/{name}.json"


# Whose final loss is subtracted from a run's, by its method and what it trains.
LLAMA_PRO = {"LLaMA Pro's": ("llama_pro", "new")}
BASE = {"the trained base's": ("base", "all")}
LORA = {"LoRA's": ("base", "lora")}


def ends(
    m: Metrics, name: str, study: list[Runs], rivals: Mapping[str, tuple[str, str]], second: str
) -> list[Row]:
    """A row for each model and schedule of the study `name`: where it ends, and what that took.

    rivals: as LLAMA_PRO. second: what the text is called whose loss tells what is forgotten.
    """
    rows: list[Row] = []
    for runs in study:
        # The base of another schedule may be of another machine, which rounds in its own way.
        untouched = nearest([own for own in study if own.first["method"] == "base"], runs)
        llama_pro = beside(m, study, runs, *LLAMA_PRO["LLaMA Pro's"])
        alike = [own for own in study if new_layers(m, own) == new_layers(m, runs)]
        lesa = nearest([own for own in alike if own.model == "lesa"], runs)
        row: Row = {
            "run": runs.name,
            "new layers": added(m, runs),
            "trains": str(runs.first["trains"]),
            "seeds": len(runs.by_seed),
            "steps": runs.max_steps,
            "tokens": runs.tokens,
            "learning rate": float(runs.first["learning_rate"]),
            "final loss": runs.final_loss,
        }
        for whose, (method, trains) in rivals.items():
            other = beside(m, study, runs, method, trains)
            row[f"minus {whose}"] = difference(runs, other) if other else None
        row |= {
            f"{second}, minus the untouched base's": forgotten(runs, untouched),
            # Runs on a GPU shared it with others.
            "whole seconds": median_seconds(runs) if on_the_cpu(m, name, runs) else None,
            **{
                f"tokens to {whose} final loss, over its tokens": tokens_ratio(runs, other)
                if other and other is not runs
                else None
                for whose, other in (("LLaMA Pro's", llama_pro), ("LESA's", lesa))
            },
        }
        rows.append(row)
    return rows


COLUMNS = 9  # of points in a table that has one for each


def spread(points: list[int]) -> list[int]:
    """At most COLUMNS of the points, the first and the last among them."""
    indices = np.linspace(0, len(points) - 1, min(COLUMNS, len(points))).round()
    return [points[int(i)] for i in indices]


def on_one_machine(
    m: Metrics, study: str, by_model: Mapping[str, Runs], model: str, other: Runs
) -> Runs:
    """The runs of `model` to compare `other` with: where `other` has one seed, which a CPU trained,
    those of `<model>_again`, trained on one, too. Each machine rounds in its own way, and so fits
    other predictors of one seed."""
    again = by_model.get(f"{model}_again")
    one_seed = len(other.by_seed) == 1 and on_the_cpu(m, study, other)
    return again if again is not None and one_seed and other is not again else by_model[model]


def minus_llama_pro(m: Metrics, name: str, caption: str, study: str, found: list[Runs]) -> Table:
    """A row a model of one schedule: its loss minus LLaMA Pro's on the way, a column a point; first
    LLaMA Pro's loss itself. No rows without LLaMA Pro."""
    by_model = {runs.model: runs for runs in found}
    rows: list[Row] = []
    if (llama_pro := by_model.get("llama_pro")) is not None:
        shown = spread(list(llama_pro.points))
        rows.append({"model": "llama_pro", **{f"{n:,}": llama_pro.loss(n) for n in shown}})
        for model, runs in by_model.items():
            if runs is not llama_pro:
                beside = on_one_machine(m, study, by_model, "llama_pro", runs)
                gaps = on_the_way(runs, beside)
                rows.append({"model": model, **{f"{n:,}": gaps.get(n) for n in shown}})
    there = "; those of one seed that a CPU trained are minus `llama_pro_again`, trained on one"
    return Table(
        name,
        f"{caption}: held-out loss minus LLaMA Pro's after equally many tokens, nats a token; in "
        f"the first row LLaMA Pro's loss itself{there if 'llama_pro_again' in by_model else ''}",
        f"metrics/{study}/*.json",
        rows,
        lambda row, _: file_of(study, by_model[str(row["model"])]),
    )


def on_the_cpu(m: Metrics, study: str, runs: Runs) -> bool:
    """Whether every run was measured on a CPU, as the rest of the report, or nothing says where."""
    names = (f"{study}-{run['run']}" for run in runs.by_seed.values())
    origins = (m.provenance[name] for name in names if name in m.provenance)
    return all(origin["machine"]["device"] == "cpu" for origin in origins)


def machines(m: Metrics, study: str) -> str:
    """On which machines a study's runs were measured, as a sentence; nothing if all ran on a CPU,
    as the rest of the report did, or if it is not known."""
    names: dict[str, dict[int, list[str]]] = {}  # of runs, by device and steps
    for name, run in sorted(getattr(m, study).items()):
        if (origin := m.provenance.get(f"{study}-{name}")) is not None:
            of_device = names.setdefault(origin["machine"]["device"], {})
            of_device.setdefault(int(run["max_steps"]), []).append(f"`{name}`")
    if not set(names) - {"cpu"}:
        return ""

    def ran(device: str, steps: int) -> str:
        """Of steps that several devices ran, the runs of all but the one with most are named."""
        sharing = [other for other in names if steps in names[other]]
        if device == max(sharing, key=lambda other: len(names[other][steps])):
            return f"the {'other ' if sharing[1:] else ''}runs of {steps:,} steps"
        return f"the runs {series(names[device][steps])} of {steps:,} steps"

    said = [
        f"on {'a CPU' if device == 'cpu' else device}: "
        f"{series([ran(device, steps) for steps in sorted(names[device])])}"
        for device in sorted(names, key=lambda device: min(names[device]))
    ]
    return f"Measured {'; '.join(said)} (metrics/provenance/*.json)."

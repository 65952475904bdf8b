"""The paper's tables in its own shape: what it publishes, and beside it what was measured here.

Published values stand in columns of their own; "not stated" where no source states one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports import budget, domains, official, start
from reports.claims import RIVALS, c09_without_freezing
from reports.measured import (
    Json,
    Metrics,
    files,
    index_at,
    perplexity_at,
    whole_seconds,
    with_error,
)
from reports.paired import of_the_mean
from reports.speed import STEPS_FILE, time_ratio
from reports.tables import Cell, Measured, Row, Table, counted
from reports.training_runs import (
    Runs,
    called,
    difference,
    file_of,
    median_seconds,
    of_steps,
    schedules,
    shared_seeds,
    trained_otherwise,
)

NAMES = {"lesa": "LESA", **RIVALS, "base": "untouched base"}
STARTED = ("base", "lesa", "solar")  # whose perplexities before training the paper compares
PUBLISHED = "reports/published.yaml"
PASS_AT_1_HERE = "HumanEval pass@1 here, %"


def stated(value: str | None) -> str:
    return "not stated" if value is None else value


def all_of(m: Metrics, published: Json) -> dict[str, Table]:
    """Every table by its name, in the paper's order."""
    made: tuple[Callable[[Metrics, Any], Table], ...] = (
        main,
        initial,
        without_svd,
        freezing,
        norm_weight,
        sft_and_code,
    )
    return {f"paper_{of.__name__}": of(m, published[of.__name__]) for of in made}


@dataclass(frozen=True)
class Ends:
    """What a method's training run says at a share of its schedule."""

    perplexity: Cell
    seconds: float
    model: str
    source: str


def studied(m: Metrics) -> bool:
    """Whether the longer runs have the methods of the paper's main table."""
    return all(called(m.budget, name) for name in ("lesa", *RIVALS))


def of_study(m: Metrics, method: str, share: float) -> Ends | None:
    """The study's runs: the mean loss over seeds as a perplexity, with its error over seeds."""
    if (runs := called(m.budget, method)) is None:
        return None
    tokens = int(runs.tokens * share)
    if tokens not in runs.points:
        return None
    losses = runs.at(tokens, list(runs.by_seed)).mean(1)
    perplexity = Measured(*with_error(float(np.exp(losses.mean())), losses))
    return Ends(perplexity, share * median_seconds(runs), method, file_of("budget", runs))


def of_run(m: Metrics, method: str, share: float) -> Ends | None:
    """This run's model of a method, at a step that was measured."""
    if (model := m.model_of(method)) is None:
        return None
    run = m.pretrain[model]
    if (index := index_at(run, share)) is None:
        return None
    perplexity, seconds = Measured(*perplexity_at(run, index)), share * whole_seconds(run)
    return Ends(perplexity, seconds, model, files("pretrain", [model]))


def own_tasks(m: Metrics, model: str, phase: str) -> dict[str, Json]:
    """What this run's model scored on the tasks of the params, by task."""
    scored = m.evaluate.get(phase, {}).get(model, {}).get("tasks", {})
    return {task: scored[task] for task in m.params.evaluate.tasks if task in scored}


def average(m: Metrics, model: str, phase: str) -> Measured | None:
    """Mean accuracy over the benchmarks, in percent: of the study, else of this run's tasks."""
    if (scored := official.of_model(m, model, phase)) is not None:
        scores = official.examples(scored)
        if not scores or scores.keys() != set(official.tasks_of(m)):
            return None
        variance, _ = of_the_mean([100 * results for results in scores.values()])
        return Measured(official.average(scored), variance**0.5)
    listed = [task["metrics"] for task in own_tasks(m, model, phase).values()]
    known = [metrics["acc"] for metrics in listed if "acc" in metrics]
    if not (found := [Measured(float(acc["value"]), acc.get("stderr")) for acc in known]):
        return None
    error = float(np.sqrt(sum((one.stderr or 0.0) ** 2 for one in found))) / len(found)
    return Measured(100 * float(np.mean([one.value for one in found])), 100 * error)


def main(m: Metrics, published: list[Json]) -> Table:
    """Perplexity, benchmarks and time: LESA at half and at all of its steps, and its rivals."""
    find, sources = (
        (of_study, budget.SOURCES) if studied(m) else (of_run, files("pretrain", m.models))
    )
    whole, timed = find(m, "lesa", 1), time_ratio(m, "lesa") is not None
    rows: list[Row] = []
    found: dict[Cell, Ends | None] = {NAMES["base"]: find(m, "base", 0)}
    for said in published:
        method, share = said["method"], said["share"]
        found[NAMES[method]] = here = find(m, method, share)
        rows.append(
            {
                "model": NAMES[method],
                "steps, published": said["steps"],
                "steps here": "half" if share < 1 else "all",
                "perplexity, published": stated(said["perplexity"]),
                "perplexity here": here.perplexity if here else None,
                "average, published": stated(said["average"]),
                "average here": average(m, here.model, "trained") if here and share == 1 else None,
                "time, published": stated(said["hours"]),
                "seconds here": here.seconds if here else None,
                "relative time, published": stated(said["relative"]),
                "relative time here, %": relative(m, method, share, here, whole),
            }
        )
    rows.append(untouched(m, rows[0], found[NAMES["base"]]))

    def origin(row: Row, column: str) -> str:
        here = found[row["model"]]
        if here is None:
            return ""
        if column == "average here":
            phase = "init" if row["model"] == NAMES["base"] else "trained"
            own = official.of_model(m, here.model, phase) is None
            return f"metrics/evaluate/{phase}/{here.model}.json" if own else official.SOURCES
        return STEPS_FILE if timed and column.startswith("relative") else here.source

    lesa = called(m.budget, "lesa") if studied(m) else None
    study = ""
    if lesa is not None:
        study = f", study `budget`: {lesa.max_steps:,} steps, {lesa.tokens:,} tokens, "
        study += counted(len(lesa.by_seed), "seed")
    return Table(
        "paper_main",
        f"The paper's main result, published (Llama-3-8B to 11.5B) and here{study}; time with the "
        "frozen layers, relative to all of LESA's steps",
        ", ".join([PUBLISHED, sources, *([STEPS_FILE] if timed else [])]),
        rows,
        origin,
    )


def relative(m: Metrics, method: str, share: float, here: Ends | None, whole: Ends | None) -> Cell:
    """Time over that of all of LESA's steps: by the benchmark that takes the methods' steps in
    turn, else by the seconds of runs that stood apart in time."""
    if here is None or whole is None:
        return None
    if (ratio := time_ratio(m, method)) is not None:
        scale = 100 * share
        if method == "lesa":  # over itself: by definition, not by measurement
            return scale
        return ratio.scaled(scale)
    return 100 * here.seconds / whole.seconds if whole.seconds else None


def untouched(m: Metrics, like: Row, here: Ends | None) -> Row:
    """The row of the base before any training, which the paper's table does not have."""
    row: Row = {name: "not stated" if "published" in name else None for name in like}
    row |= {"model": NAMES["base"], "steps, published": "none", "steps here": "none"}
    if here is not None:
        row |= {"perplexity here": here.perplexity, "average here": average(m, here.model, "init")}
        row |= {"seconds here": 0, "relative time here, %": 0}
    return row


def initial(m: Metrics, published: list[Json]) -> Table:
    """Perplexity before training over the paper's models; this run's model beside them."""
    own = m.params.profile
    models = {f"{NAMES[method]} here": m.model_of(method) for method in STARTED}
    rows = [initial_row(m, said["model"], said, own == said["profile"]) for said in published]
    if own not in [said["profile"] for said in published]:
        rows.append(initial_row(m, m.base_name, None, True))
    return Table(
        "paper_initial",
        "Perplexity before training at 1.5 times the layers, published and here",
        f"{PUBLISHED}, {files('pretrain', m.models)}",
        rows,
        lambda _, column: f"metrics/pretrain/{models[column]}.json",
    )


def initial_row(m: Metrics, name: str, said: Json | None, measured: bool) -> Row:
    row: Row = {
        "model": name,
        "perplexities, published": "not stated",
        "order, published": said["order"] if said else "not stated",
    }
    for method in STARTED:
        found = of_run(m, method, 0) if measured else None
        row[f"{NAMES[method]} here"] = found.perplexity if found else None
    row["what measures it"] = command(said["profile"] if said else m.params.profile)
    return row


def command(profile: str | None) -> str:
    if profile is None:
        return "a GPU; a profile of it in conf/ first: docs/own-model.md"
    return f"`make profile PROFILE={profile}`, `make report`"


def without_svd(m: Metrics, published: Json) -> Table:
    """LESA, LESA on raw weights and LLaMA Pro, before training and at the end."""
    lesa = next((one for preset in m.params.fit.presets if (one := start.of_lesa(m, preset))), None)
    every_raw = (one for one in start.starts(m) if one.raw)
    raw = next((one for one in every_raw if lesa is None or one.preset == lesa.preset), None)
    found = {"lesa": lesa, "lesa_raw": raw, "llama_pro": start.of_method(m, "llama_pro")}
    names = NAMES | {"lesa_raw": "LESA without SVD"}
    longest = next((one.max_steps for one in schedules(m.budget, "lesa_raw")[::-1]), 0)
    ends = {key: of_steps(m.budget, key, longest) for key in found}
    rows: list[Row] = [
        {
            "model": names[key],
            "published": stated(published.get(key)),
            "draws": len(one.rows) if one else None,
            "perplexity before training here": float(np.median(one.perplexities)) if one else None,
            "loss minus LESA's": of_both(one, lesa, start.difference),
            "draws compared": of_both(one, lesa, lambda *both: len(start.matched(*both))),
            "steps to the end": longest or None,
            "seeds": len(end.by_seed) if (end := ends[key]) else None,
            "loss at the end, minus LESA's": at_end(ends, key, "lesa"),
            "loss at the end, minus LLaMA Pro's": at_end(ends, key, "llama_pro"),
        }
        for key, one in found.items()
    ]
    return Table(
        "paper_without_svd",
        "Without SVD, published and here: median perplexity of the draws, losses in nats",
        f"{PUBLISHED}, {start.SOURCES}, {budget.SOURCES}",
        rows,
        lambda _, column: budget.SOURCES if "at the end" in column else start.SOURCES,
    )


def of_both(
    one: start.Start | None,
    other: start.Start | None,
    found: Callable[[start.Start, start.Start], Cell],
) -> Cell:
    """Nothing of a start beside itself; None where one was not measured."""
    if one is not None and one is other:
        return ""
    return found(one, other) if one and other else None


def at_end(found: dict[str, Runs | None], ours: str, theirs: str) -> Cell:
    """Difference of the final losses of two models."""
    a, b = found.get(ours), found.get(theirs)
    return "" if ours == theirs else difference(a, b) if a and b else None


def freezing(m: Metrics, published: Json) -> Table:
    """LESA's new layers trained alone, every layer, and new layers first; of a longer schedule
    what was measured."""
    rows: list[Row] = []
    sources: dict[tuple[Cell, Cell], str] = {}
    budgets: list[Runs | None] = [*schedules(m.budget, "lesa")]
    for frozen in budgets or [None]:
        for trains, words in {"new": "new layers alone", **c09_without_freezing.OTHERS}.items():
            runs = frozen
            if frozen and trains != "new":
                runs = trained_otherwise(m.budget, frozen, trains, frozen.max_steps)
            if runs is None and frozen in budgets[1:]:
                continue
            steps = frozen.max_steps if frozen else None
            sources[words, steps] = file_of("budget", runs)
            row: Row = {
                "trained": words,
                "published": stated(published.get(trains)),
                "steps": steps,
                "seeds": len(runs.by_seed) if runs else None,
                "final loss here": runs.final_loss if runs else None,
                "minus that of new layers alone": "" if trains == "new" else None,
                "fluctuation, times": "" if trains == "new" else None,
            }
            if frozen and runs and trains != "new" and shared_seeds(runs, frozen):
                row["minus that of new layers alone"] = difference(runs, frozen)
                both = c09_without_freezing.residuals(runs, frozen)
                row["fluctuation, times"] = c09_without_freezing.fluctuation(*both)
            rows.append(row)
    return Table(
        "paper_freezing",
        "Which layers train, published and here: held-out loss in nats, and the standard deviation "
        "of the training loss around its line over the last half of the steps",
        f"{PUBLISHED}, {budget.SOURCES}",
        rows,
        lambda row, _: sources[row["trained"], row["steps"]],
    )


def norm_weight(m: Metrics, published: Json) -> Table:
    """λ, the weight of the norm term, against the size of the predictions and the loss."""
    rows: list[Row] = []
    for preset in m.first_runs:
        settings, lesa = m.params.fit.presets[preset], start.of_lesa(m, preset)
        others = start.by_norm_weight(m, preset)
        own = [(settings.norm_weight, lesa)] if lesa or not others else []
        for weight, one in [*own, *others.items()]:
            own_said = published.get(preset) if one is lesa else None
            said = published["without"] if weight == 0 else own_said
            rows.append(
                {
                    "λ here": weight,
                    "preset": preset,
                    "epochs": settings.epochs,
                    "published": stated(f"λ {said}" if said and weight else said),
                    "norm ratio of predictions": ratio_of(m, preset, one),
                    "draws": len(one.rows) if one else None,
                    "perplexity before training": float(np.median(one.perplexities))
                    if one
                    else None,
                    "loss, minus the preset's own λ": of_both(one, lesa, start.difference),
                }
            )
    rows.sort(key=lambda row: (float(str(row["λ here"])), str(row["preset"])))
    return Table(
        "paper_norm_weight",
        "The norm term's weight λ, published and here: ‖prediction‖ / ‖target‖ as a mean over "
        "matrix kinds, median perplexity of the draws",
        f"{PUBLISHED}, {files('fit', list(m.fit))}, {start.SOURCES}",
        rows,
        lambda row, column: (
            "params.yaml"
            if column in ("λ here", "epochs")
            else start.SOURCES
            if row["draws"]
            else files("fit", [m.first_runs[str(row["preset"])]])
        ),
    )


def ratio_of(m: Metrics, preset: str, one: start.Start | None) -> Cell:
    """Mean over kinds of the predictions' norm over the target's: of draws, else of the fit."""
    if one is not None:
        known = [list(row["norm_ratio"].values()) for row in one.rows if row["norm_ratio"]]
        return float(np.mean(known)) if known else None
    kinds = m.fit[m.first_runs[preset]]["kinds"].values()
    return float(np.mean([kind["train"]["norm_ratio"] for kind in kinds]))


def sft_and_code(m: Metrics, published: list[Json]) -> Table:
    """After supervised fine-tuning, and after pre-training on code."""
    rows: list[Row] = [
        {
            "model": NAMES[said["method"]],
            "SFT average, published": stated(said["average"]),
            "share of LESA's, published": stated(said["share"]),
            "SFT loss here, minus LESA's": minus_lesa(m, "sft", said["method"]),
            "HumanEval pass@1, published, %": stated(said["pass_at_1"]),
            PASS_AT_1_HERE: domains.solved(m, said["method"]),
            "bits a byte of code here, minus LESA's": minus_lesa(m, "code", said["method"]),
        }
        for said in published
    ]
    rows = domains.without_not_run(rows, PASS_AT_1_HERE)
    methods: dict[Cell, str] = {NAMES[said["method"]]: said["method"] for said in published}
    stages = {"SFT": "sft", "HumanEval": "humaneval", "bits": "code"}  # by a column's first word
    return Table(
        "paper_sft_and_code",
        "After SFT, and after pre-training on code (BigCode there), published and here: nats a "
        "token of held-out completions, bits a byte of held-out packages",
        f"{PUBLISHED}, metrics/sft/*.json, metrics/code/*.json",
        rows,
        lambda row, column: domains.files_of(m, stages[column.split()[0]], [methods[row["model"]]]),
    )


def minus_lesa(m: Metrics, study: str, method: str) -> Cell:
    if method == "lesa":
        return ""
    models = domains.by_model(m, study)
    return domains.difference(models.get(method), models.get("lesa"), domains.DOMAINS[study])[0]


def recipe(published: list[Json]) -> Table:
    rows: list[Row] = [{key: stated(value) for key, value in row.items()} for row in published]
    return Table("recipe", "Where the paper and its code disagree, or are silent", PUBLISHED, rows)

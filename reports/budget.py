"""The study `budget`: training runs of several seeds on this run's own text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from reports.claims import RIVALS
from reports.measured import Metrics
from reports.paired import Interval
from reports.tables import Row, Table
from reports.training_runs import (
    BASE,
    LLAMA_PRO,
    Runs,
    beside,
    called,
    difference,
    ends,
    file_of,
    groups,
    minus_llama_pro,
    new_layers,
    of_steps,
    on_one_machine,
    on_the_way,
    schedules,
    shared_seeds,
    spread,
)

SOURCES = "metrics/budget/*.json"


def of_this_growth(m: Metrics) -> list[Runs]:
    """The runs whose models have as many new layers as the params say."""
    return [runs for runs in groups(m.budget) if new_layers(m, runs) == m.params.gaps.count]


def main_runs(m: Metrics) -> list[Runs]:
    """The runs of this growth and of LESA's schedule, or of the longest where LESA has no run."""
    found = of_this_growth(m)
    steps = (
        lesa.max_steps
        if (lesa := called(m.budget, "lesa"))
        else max((r.max_steps for r in found), default=0)
    )
    return [runs for runs in found if runs.max_steps == steps]


def longer_runs(m: Metrics) -> list[Runs]:
    """The runs of this growth and of the longest schedule, where it is longer than LESA's in the
    comparison of all."""
    found, lesa = of_this_growth(m), called(m.budget, "lesa")
    steps = max((runs.max_steps for runs in found), default=0)
    return [runs for runs in found if lesa and runs.max_steps == steps > lesa.max_steps]


def of_other_growths(m: Metrics) -> list[tuple[Runs, Interval]]:
    """Runs with other numbers of new layers than the params', and their final losses minus LLaMA
    Pro's with as many."""
    found, study = [], groups(m.budget)
    for runs in study:
        llama_pro = beside(m, study, runs, "llama_pro", "new")
        if new_layers(m, runs) == m.params.gaps.count or llama_pro is None:
            continue
        if runs.name != llama_pro.name and (gap := difference(runs, llama_pro)) is not None:
            found.append((runs, gap))
    return found


def table(m: Metrics) -> Table:
    """A row for each model and schedule: where it ends, and what that took."""
    study = groups(m.budget)
    sources = {(runs.name, runs.max_steps): file_of("budget", runs) for runs in study}
    return Table(
        "budget",
        "Every run of the study at its end; differences of losses in nats a token, to LLaMA Pro's "
        "with as many new layers and to the base's, of the schedule nearest in length, over the "
        "seeds that both have (∞: not reached; linear in tokens between points). Python source: "
        "what is forgotten of another text, its blocks one each of modules of the standard library",
        SOURCES,
        ends(m, "budget", study, LLAMA_PRO | BASE, "Python source"),
        lambda row, _: sources[str(row["run"]), int(str(row["steps"]))],
    )


COMPARED_WITH = (
    "llama_pro", "llama_pro_upper", "identity", "adept", "opt_deus_code", "opt_deus", "average",
    "noise", "lesa", "lesa_official", "solar", "base", "lora", "llama_pro_lora", "llama_pro_all",
)  # fmt: skip
LESA = ("lesa", "lesa_official")
TEXTS = {"budget": "", "scale": "Python source"}  # where it is not this run's own
OWN = {  # this project's own models, which no paper names
    "fitted_llama_pro": "LLaMA Pro's start with fitted outputs",
    "fitted_identity": "`identity` with fitted outputs",
    "fitted_llama_pro_lora": "LLaMA Pro's start with fitted outputs and adapters beside all layers",
    "llama_pro_upper": "LLaMA Pro's places, copies of the layer above",
    "llama_pro_lora": "LLaMA Pro's start with adapters beside all layers",
}


def longer(m: Metrics) -> Table:
    """The longer schedule: each model's loss minus LLaMA Pro's, on the way."""
    return minus_llama_pro(m, "budget_longer", "The longer schedule", "budget", longer_runs(m))


def gaps(m: Metrics) -> Table:
    """Does LESA overtake a rival at any number of tokens?"""
    return beside_rivals(m, "budget_gaps", "Loss of LESA", LESA, by_name(m))


def longer_gaps(m: Metrics) -> Table:
    """Does LESA overtake a rival at any number of tokens of the longer schedule?"""
    found = {runs.model: runs for runs in longer_runs(m)}
    title = "The longer schedule: loss of LESA"
    return beside_rivals(m, "budget_longer_gaps", title, LESA, found)


def own_gaps(m: Metrics) -> Table:
    """Are this project's own models ahead of all at any number of tokens?"""
    title = "Loss of this project's own models"
    return beside_rivals(m, "budget_own", title, OWN, by_name(m))


def of_lesa(m: Metrics) -> Iterator[tuple[str, str, Runs]]:
    """The studies' LESAs, with the study and `of` its text: first those on this run's text, of one
    name the longest schedule first."""
    for study, text in TEXTS.items():
        for name in LESA:
            for lesa in schedules(getattr(m, study), name)[::-1]:
                yield study, f" of {text}" if text else "", lesa


def equally_long(m: Metrics, study: str, lesa: Runs) -> dict[str, Runs]:
    """The paper's rivals that a study trained for as many steps and tokens, by method."""
    found = {name: of_steps(getattr(m, study), name, lesa.max_steps) for name in RIVALS}
    return {n: runs for n, runs in found.items() if runs and runs.tokens == lesa.tokens}


def by_name(m: Metrics) -> dict[str, Runs]:
    """The study's runs by name; of one name those of the longest schedule."""
    return {runs.name: runs for runs in reversed(groups(m.budget))}


def beside_rivals(
    m: Metrics, table_name: str, title: str, compared: Iterable[str], found: Mapping[str, Runs]
) -> Table:
    """A row a pair of one of `compared` and a rival, of the models `found`."""
    rows: list[Row] = []
    sources: dict[tuple[str, str], str] = {}
    for name, rival in product(compared, COMPARED_WITH):
        if name == rival or name not in found or rival not in found:
            continue
        runs = on_one_machine(m, "budget", found, name, found[rival])
        gaps = on_the_way(runs, found[rival])
        by_tokens = {f"{tokens:,}": gaps.get(tokens) for tokens in spread(list(runs.points))}
        rows.append({"run": runs.model, "minus": rival, **by_tokens})
        sources[runs.model, rival] = file_of("budget", runs)
    return Table(
        table_name,
        f"{title}, minus that of others after equally many tokens, nats a token; the tokens of a "
        "fit count",
        SOURCES,
        rows,
        lambda row, _: sources[str(row["run"]), str(row["minus"])],
    )


PLACES = {
    "identity_bottom": "at the bottom",
    "identity_middle": "in the middle",
    "identity": "at the top, LESA's own gaps",
    "llama_pro": "spread over the depth",
    "adept": "after the layers that the base misses least",
}


def places(m: Metrics) -> Table:
    """What the place of new layers is worth: copies with zeroed outputs, which all start as the
    base."""
    found, later = by_name(m), {runs.model: runs for runs in longer_runs(m)}
    schedules = [runs for runs in (found, later) if "llama_pro" in runs]
    rows: list[Row] = []
    for name, place in PLACES.items():
        row: Row = {"place": place, "model": name}
        for spread_out, own in ((runs["llama_pro"], runs.get(name)) for runs in schedules):
            after = f"{spread_out.tokens:,} tokens"
            row[f"seeds, {after}"] = len(shared_seeds(own, spread_out)) if own else None
            row[f"minus LLaMA Pro's after {after}"] = (
                "" if own is spread_out else difference(own, spread_out) if own else None
            )
        if schedules and name in found:
            rows.append(row)
    return Table(
        "places",
        "Copies with zeroed outputs by place: held-out loss minus that of LLaMA Pro's places, nats "
        "a token",
        SOURCES,
        rows,
        lambda row, _: file_of("budget", found[str(row["model"])]),
    )

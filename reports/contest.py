"""Which model ends lowest at each budget, and what that says of LESA and of depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from reports import controls, rates
from reports.budget import OWN, TEXTS, longer_runs, main_runs
from reports.claims import FEWEST, in_order
from reports.measured import Json, Metrics
from reports.paired import Interval
from reports.tables import NOT_MEASURED, counted, listed, series, show_interval
from reports.training_runs import (
    IDENTITY_STARTS,
    NONE_ADDED,
    Runs,
    called,
    difference,
    forgotten,
    groups,
    shared_seeds,
    told_apart,
)

# What trains without a new layer, by what its study says that it trains.
SHALLOW = {"all": "the base trained whole", "lora": "LoRA without a new layer"}
NOT_APART = "not told apart from"
TOO_FEW = f"fewer than {FEWEST} seeds tell no order"
FEWEST_DOCUMENTS = 6  # of another text: fewer leave an interval that says nothing


@dataclass(frozen=True)
class Contest:
    """Models that were trained on equally many tokens of one text, by name. study: their folder of
    metrics; empty for this run's own."""

    study: str
    runs: dict[str, Runs]

    @property
    def folder(self) -> str:
        """Below metrics/."""
        return self.study or "pretrain"

    @property
    def tokens(self) -> int:
        return max(runs.tokens for runs in self.runs.values())

    def where(self, *models: str) -> str:
        """Tokens, text and study, and how many seeds these models have."""
        if not self.study:
            return self.read
        return f"{self.read} (study `{self.study}`, {seeds([self.runs[n] for n in models])})"

    @property
    def text(self) -> str:
        """What another text than this run's is called."""
        return TEXTS.get(self.study, "")

    @property
    def read(self) -> str:
        """What was read in training: this run's own text is not named."""
        return f"{self.tokens:,} tokens" + (f" of {self.text}" if self.text else "")

    @property
    def deep(self) -> dict[str, Runs]:
        return {n: r for n, r in self.runs.items() if r.first["method"] not in NONE_ADDED}

    @property
    def shallow(self) -> dict[str, Runs]:
        return {n: r for n, r in self.runs.items() if r.first["method"] in NONE_ADDED}


def seeds(found: list[Runs]) -> str:
    """How many seeds models have: `3 seeds`, `1 to 2 seeds`."""
    counts = sorted({len(runs.by_seed) for runs in found})
    said = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{said} seed{'' if counts[-1] == 1 else 's'}"


def enough(found: Iterable[Runs]) -> bool:
    """Whether all have the seeds that it takes to tell an order."""
    return all(len(runs.by_seed) >= FEWEST for runs in found)


def of_equal_tokens(study: str, found: list[Runs]) -> list[Contest]:
    """The runs that saw the most tokens; none where there are fewer than two."""
    most = max((runs.tokens for runs in found), default=0)
    last = {runs.model: runs for runs in found if runs.tokens == most}
    return [Contest(study, last)] if len(last) > 1 else []


def of_this_run(m: Metrics) -> list[Contest]:
    """The models of the pipeline's own training, as runs of one seed."""

    def entry(model: str) -> Json:
        method, gaps = m.params.methods[model].method, m.params.gaps_of(model).model_dump()
        trains = "all" if method == "base" else "by its plan"
        return {"run": model, "method": method, "trains": trains, "gaps": gaps}

    found = {n: Runs(n, {0: {**run, **entry(n), "max_steps": 0}}) for n, run in m.pretrain.items()}
    return of_equal_tokens("", list(found.values()))


def of_own_text(m: Metrics) -> list[Contest]:
    """This run's text: the study's schedules that LESA is in, the longest last; else this run."""
    found = [
        *of_equal_tokens("budget", main_runs(m) if called(m.budget, "lesa") else []),
        *of_equal_tokens("budget", longer_runs(m)),
    ]
    return found or of_this_run(m)


def of_other_text(m: Metrics) -> list[Contest]:
    """Study `scale`, whose text is Python source."""
    return of_equal_tokens("scale", groups(m.scale))


def longest(m: Metrics) -> list[Contest]:
    """Of each text the longest."""
    return [*of_own_text(m)[-1:], *of_other_text(m)]


def nats(gap: Interval) -> str:
    return f"({show_interval(gap)} nats)"


def named(model: str) -> str:
    return f"`{model}` ({OWN[model]})" if model in OWN else f"`{model}`"


def lowest(found: dict[str, Runs]) -> str:
    return min(found, key=lambda name: found[name].final_loss)


def advice(m: Metrics) -> str:
    """Which model to take at the longest budgets measured."""
    said = [which(contest) for contest in longest(m) if len(contest.deep) > 1]
    if not said:
        said = ["Too few deepened models were trained on equally many tokens"]
    return f"**Which to take:** {'. '.join(said)}."


def level_with(best: str, found: dict[str, Runs]) -> list[str]:
    """Models whose final loss is not told apart from that of `best`."""
    gaps = {name: difference(runs, found[best]) for name, runs in found.items() if name != best}
    words = {name: in_order(gap, "below", "above", "level") for name, gap in gaps.items() if gap}
    return [name for name, word in words.items() if word == "level"]


def which(contest: Contest) -> str:
    """Of models of enough seeds those that end lowest; of fewer, what an end is moves with the
    seed, and an interval over documents alone does not know that."""
    ordered = Contest(contest.study, {n: r for n, r in contest.runs.items() if enough([r])})
    if len(ordered.deep) < 2 or not ordered.shallow:
        return unordered(contest)
    best, deepest = lowest(ordered.runs), lowest(ordered.deep)
    level = level_with(best, ordered.runs)
    deep = level_with(deepest, ordered.deep) if deepest != best else []
    said = f"After {ordered.where(best, deepest, *level, *deep)} {named(best)} has the lowest loss"
    if deepest == best:
        return said + depth(ordered) + too_near(level)
    said += f"{too_near(level)}. Of deepened models it is {named(deepest)}"
    return said + depth(ordered) + too_near(deep)


def unordered(contest: Contest) -> str:
    """Where too few seeds end, by their means."""
    best, deepest = lowest(contest.runs), lowest(contest.deep)
    said = f"After {contest.where(*contest.runs)} {named(best)} has the lowest mean loss"
    if deepest != best:
        said += f"; of deepened models {named(deepest)}"
        pair = contest.runs[deepest], contest.runs[best]
        if (gap := difference(*pair)) is not None:
            said += f", {gap.estimate:.3f} nats above it"
            some = len(shared_seeds(*pair)) < max(len(runs.by_seed) for runs in pair)
            said += " on the seeds of both" if some else ""
    return f"{said}; {TOO_FEW}"


def too_near(models: list[str]) -> str:
    return f"; not told apart from it: {listed(models)}" if models else ""


def depth(contest: Contest) -> str:
    """Does depth pay: is the lowest deepened model below all that trains without a new layer?"""
    best = contest.deep[lowest(contest.deep)]
    gaps = {
        SHALLOW[runs.first["trains"]]: gap
        for runs in contest.shallow.values()
        if runs.first["trains"] in SHALLOW and (gap := difference(best, runs)) is not None
    }
    said = sides((f"{words} {nats(gap)}", gap) for words, gap in gaps.items())
    if {placed(gap) for gap in gaps.values()} == {"below"}:
        missing = [words for words in SHALLOW.values() if words not in gaps]
        said += f"; {series(missing)} was not measured" if missing else ": depth pays"
    return f", which is {said}" if said else ""


def worth(m: Metrics) -> list[str]:
    """What LESA's layers are worth after training, a line a budget: beside the baselines, and
    beside what can stand in for its predictions."""
    lines = []
    for contest in longest(m):
        lesa, llama_pro = contest.runs.get("lesa"), contest.runs.get("llama_pro")
        if not contest.study or lesa is None or llama_pro is None:
            continue
        if shared_seeds(lesa, llama_pro):
            few = [] if enough([lesa, llama_pro]) else [f"{TOO_FEW[0].upper()}{TOO_FEW[1:]}"]
            said = [*few, *ahead(contest), *place_and_start(contest)]
            said += controls.ends(m, contest.study, contest.runs)
            said += [*other_text(contest), *at_an_edge(m, contest)]
            where = contest.where("lesa", "llama_pro")
            lines.append(f"**LESA up to {where}:** {'. '.join(said)}.")
    return lines


def placed(gap: Interval) -> str:
    return in_order(gap, "below", "above", NOT_APART)


def by_side(gaps: Iterable[tuple[str, Interval]]) -> dict[str, list[str]]:
    """Words by the side on which their differences lie, as `placed` calls it, in their order."""
    sides: dict[str, list[str]] = {}
    for words, gap in gaps:
        sides.setdefault(placed(gap), []).append(words)
    return sides


def phrase(found: Mapping[str, list[str]]) -> str:
    """What `by_side` found, in one phrase."""
    return series([f"{side} {series(words)}" for side, words in found.items()])


def sides(gaps: Iterable[tuple[str, Interval]]) -> str:
    return phrase(by_side(gaps))


def at_an_edge(m: Metrics, contest: Contest) -> list[str]:
    """Of LESA and noise the models for which a rate beyond those tried may be better."""
    found: dict[str, list[str]] = {}
    for model in ("lesa", "noise"):
        runs = contest.runs.get(model)
        if runs and (edge := rates.edge_of(m, contest.study, runs)):
            found.setdefault(edge, []).append(model)
    return [
        f"A {edge.removesuffix('est')}er rate may do better for {listed(models)}: the {edge} that "
        "was tried was best"
        for edge, models in found.items()
    ]


def ahead(contest: Contest) -> list[str]:
    """At how many points after the start LESA is above or below each identity start."""
    found, below = dict[str, list[str]](), False
    for name in IDENTITY_STARTS:
        if (other := contest.runs.get(name)) is None:
            continue
        lower, higher, points = told_apart(contest.runs["lesa"], other)
        if points:
            at = f" and below at {len(lower)}, first after {lower[0]:,} tokens" if lower else ""
            found.setdefault(f"{len(higher)} of {points} points{at}", []).append(name)
            below = below or bool(lower)
    parts = [f"that of {listed(names)} at {words}" for words, names in found.items()]
    none = "" if below else ", and below none of them at any"
    return [f"After the start its loss is above {', '.join(parts)}{none}"] if parts else []


def place_and_start(contest: Contest) -> list[str]:
    """Where `identity` ends, which has copies of layers, as LLaMA Pro has, in LESA's gaps: from
    LLaMA Pro it differs in the place of its layers, from LESA in their start."""
    lesa, identity, llama_pro = (contest.runs.get(n) for n in ("lesa", "identity", "llama_pro"))
    if lesa is None or identity is None or llama_pro is None:
        return []
    gaps = (difference(a, b) for a, b in pairwise((lesa, identity, llama_pro)))
    of_start, of_place = (show_interval(gap) if gap else NOT_MEASURED for gap in gaps)
    own = [f"{of.first['learning_rate']:g}" for of in (llama_pro, identity, lesa)]
    at = f"; rates {', '.join(own)}" if len(set(own)) > 1 else ""
    return [
        f"Between them `identity`, copies in LESA's gaps: minus LLaMA Pro, whose layers stand "
        f"elsewhere, {of_place} nats; LESA minus it, which starts elsewhere, {of_start}{at}"
    ]


def other_text(contest: Contest) -> list[str]:
    """What LESA forgets: its loss on a text that it was not trained on, beside the untouched base's
    and LLaMA Pro's; nothing of a text too short to tell."""
    base, lesa, llama_pro = (contest.runs.get(n) for n in ("base", "lesa", "llama_pro"))
    if lesa is None or (gap := forgotten(lesa, base)) is None or gap.n < FEWEST_DOCUMENTS:
        return []
    text = "Wikipedia" if contest.study == "scale" else "Python source"
    said = f"On {text}, not trained on ({counted(gap.n, 'document')}), it is {placed(gap)} the "
    said += "untouched base"
    other = forgotten(llama_pro, base) if llama_pro else None
    beside = f"; LLaMA Pro {show_interval(other)}" if other else ""
    return [f"{said} ({show_interval(gap)} nats{beside})"]

"""Sentences that follow from the numbers: each one is chosen by a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reports import budget, domains, start
from reports.claims import in_order
from reports.measured import TRAINING_STUDIES, Json, Metrics
from reports.paired import Interval, interval
from reports.tables import counted, minus_untouched, number, show_interval
from reports.training_runs import IDENTITY_STARTS, called, new_layers, told_apart

# What stands in for LESA's prediction, or for what its predictor is fitted on.
CONTROLS = ("noise", "spectrum", "constant_row", "lesa_permuted", "ridge")


def controls(m: Metrics) -> list[str]:
    """LESA against its controls before training, as it was and as it was fitted again: the same
    seeds and signs, documents paired."""
    out = []
    for lesa in [*start.lesa_starts(m), *start.lesa_starts(m, start.AGAIN)]:
        others = [
            other
            for other in start.starts(m)
            if other.preset in (lesa.preset, None)
            and other.name != lesa.name
            and (
                other.method in CONTROLS
                or other.settings.startswith("fitted_on")
                or other.settings == start.AGAIN
            )
        ]
        gaps = [(other.name, start.difference(lesa, other)) for other in others]
        out += by_verdict(f"`{lesa.name}` minus its controls, before training", gaps)
    return out


def against_base(m: Metrics) -> list[str]:
    """What training each deepened model gains over the base that was left as it is."""
    found = [(name, minus_untouched(m, run, -1)) for name, run in m.pretrain.items()]
    gaps = [(name, gap) for name, gap in found if gap is not None]
    return by_verdict("After training, held-out loss against the untouched base's", gaps)


def by_verdict(title: str, gaps: Iterable[tuple[str, Interval]]) -> list[str]:
    """One sentence that sorts differences in nats by what their intervals say."""
    found: dict[str, list[str]] = {"lower": [], "higher": [], "not decided": []}
    for name, gap in gaps:
        word = in_order(gap, "lower", "higher", "not decided")
        found[word].append(f"`{name}` {show_interval(gap)}")
    said = [f"{word}: {', '.join(names)}" for word, names in found.items() if names]
    return [f"{title}: {'; '.join(said)} nats."] if said else []


def overtaking(study: Mapping[str, Json]) -> list[str]:
    """Whether LESA is below an identity start at any point of training in a study."""
    if (lesa := called(study, "lesa")) is None:
        return []
    out = []
    for name in IDENTITY_STARTS:
        if (other := called(study, name)) is None:
            continue
        lower, higher, points = told_apart(lesa, other)
        if points:
            first = f", first after {number(min(lower))} tokens" if lower else ""
            out.append(
                f"Over {lesa.max_steps:,} steps LESA is below `{name}` at {len(lower)} of "
                f"{counted(points, 'point')} after the start{first}, above it at {len(higher)}."
            )
    return out


def other_growths(m: Metrics) -> list[str]:
    """Models with other numbers of new layers than the params' against LLaMA Pro with as many."""
    found: dict[int, list[tuple[str, Interval]]] = {}
    for runs, gap in budget.of_other_growths(m):
        found.setdefault(new_layers(m, runs), []).append((runs.name, gap))
    return [
        line
        for new, gaps in found.items()
        for line in by_verdict(f"With {new} new layers, final loss minus LLaMA Pro's", gaps)
    ]


def predictors(m: Metrics) -> list[str]:
    out = []
    for preset, run in m.first_runs.items():
        kinds = m.fit[run]["kinds"]
        held = [c["heldout"]["explained_variance"] for c in kinds.values() if c["heldout"]]
        if held:
            out.append(
                f"With preset `{preset}`, {sum(v > 0 for v in held)} of {len(held)} "
                f"predictors explain any variance of held-out layers ({number(min(held))} "
                f"to {number(max(held))}; 0 is what predicting the mean does)."
            )
    return out


def precisions(m: Metrics) -> list[str]:
    """Whether numbers of two machines, with bfloat16 and without, stand side by side: a sentence
    for this run and for each study whose numbers are compared with one another."""
    stages = {"pretrain": m.pretrain}
    stages |= {f"evaluate/{phase}": of_models for phase, of_models in m.evaluate.items()}
    said = mixed(stages, "`dvc repro --force` measures all on one machine")
    for study in ("start", *TRAINING_STUDIES, "code", "sft", "official"):
        said += mixed({study: getattr(m, study)}, "the precision alone moves a loss, a little")
    return said


def mixed(stages: Mapping[str, Mapping[str, Json]], advice: str) -> list[str]:
    """Which files of these stages were computed in another precision than most."""
    found: dict[str, list[str]] = {}
    for stage, contents in stages.items():
        for name, content in contents.items():
            if "dtype" in content:
                found.setdefault(content["dtype"], []).append(f"{stage}/{name}")
    if len(found) < 2:
        return []
    fewest = min(found, key=lambda dtype: len(found[dtype]))
    return [
        f"Numbers of two precisions stand side by side: {', '.join(found[fewest])} in {fewest}, "
        f"the others not; {advice}."
    ]


def rates(m: Metrics) -> list[str]:
    """What the trainings warned of their learning rates, this run's and those of the studies that
    read the same grid."""
    found: dict[str, list[str]] = {}
    for study, contents in (("", m.pretrain), ("code", m.code), ("sft", m.sft)):
        for name, content in contents.items():
            for line in content.get("rate_warnings") or []:
                found.setdefault(line, []).append(f"{study}/{name}" if study else name)
    return [f"{', '.join(runs)}: {line}" for line, runs in found.items()]


def tasks(m: Metrics) -> list[str]:
    """Which offline tasks the held-out text does not fit, or fits less than asked for."""
    left_out = [f"`{name}` is left out: {why}" for name, why in m.tasks["left_out"].items()]
    return left_out + [f"`{name}`: {note}" for name, note in m.tasks.get("notes", {}).items()]


def parity(m: Metrics) -> list[str]:
    """What the parity of claim C2 is worth: what the predictors know of triples of variants."""
    out = []
    for content in domains.parities(m).values():
        copies = domains.near_copies(content)
        if content["split"] != "random" or copies is None:
            continue
        zero = domains.over_fits(content, domains.over_zero)
        against = in_order(interval(zero - 1), "below", "above", "not told apart from")
        line = (
            "Split at random, the variant nearest to a test layer, which was fitted on, is off by "
            f"{number(copies)} times the error of predicting zero; the predictors' error is "
            f"{against} that of predicting zero, {show_interval(interval(zero))} times it"
        )
        if against == "above":
            line += ": test and training loss are on par where neither is learned"
        of_basis = "each variant's own" if content["basis"] == "own" else "the base's"
        out.append(f"{line} ({of_basis} basis).")
    return out

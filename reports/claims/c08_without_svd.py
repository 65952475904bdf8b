"""C8: LESA without the SVD: the predictor reads raw weights."""

from __future__ import annotations

from dataclasses import replace

from reports import rates, start
from reports.claims import FEWEST, Finding, above, below, cannot, of_enough
from reports.measured import Metrics, files
from reports.paired import Interval
from reports.tables import counted, show_interval
from reports.training_runs import difference, of_steps, schedules, shared_seeds

CLAIM = "Without SVD LESA is worse, but still beats LLaMA Pro"
SHORT = "without SVD it is worse, but beats LLaMA Pro"
SECTION = "Ablations"
RULE = (
    "loss minus LESA's above 0, and minus LLaMA Pro's below 0, each by its interval; not decided "
    f"by fewer than {FEWEST} draws, or seeds of training"
)
PAPER = "not stated"


def findings(m: Metrics) -> list[Finding]:
    return [*at_end(m), *at_start(m)]  # LLaMA Pro's start is the base: hardly to be beaten


def both(when: str, worse: Interval | None, better: Interval | None, study: str) -> list[Finding]:
    """The claim's two halves."""
    found = []
    for gap, order, other, side in (
        (worse, "worse than", "LESA", above),
        (better, "better than", "LLaMA Pro", below),
    ):
        subject = f"{order} {other} {when}"
        if gap is None:
            found.append(cannot(subject, "not measured", f"make study NAME={study}"))
        else:
            said = f"without SVD minus {other} {show_interval(gap)} nats"
            found.append(Finding(subject, said, side(gap), files(study, ["*"])))
    return found


def at_start(m: Metrics) -> list[Finding]:
    found = []
    llama_pro = start.of_method(m, "llama_pro")
    for raw in (one for one in start.starts(m) if one.raw):
        lesa = start.of_lesa(m, raw.preset)
        halves = both(
            f"at the start, preset {raw.preset}",
            start.difference(raw, lesa) if lesa else None,
            start.difference(raw, llama_pro) if llama_pro else None,
            "start",
        )
        found += [
            of_several(half, len(start.matched(raw, other)), "draw") if other else half
            for half, other in zip(halves, (lesa, llama_pro), strict=True)
        ]
    return found or [cannot("the start", "not measured", "make study NAME=start")]


def of_several(finding: Finding, count: int, noun: str, rate: str = "") -> Finding:
    return of_enough(replace(finding, said=f"{finding.said}, {counted(count, noun)}{rate}"), count)


def at_end(m: Metrics) -> list[Finding]:
    found = []
    for raw in schedules(m.budget, "lesa_raw")[::-1]:
        others = [of_steps(m.budget, name, raw.max_steps) for name in ("lesa", "llama_pro")]
        worse, better = (difference(raw, other) if other else None for other in others)
        own = rates.sought_for(m, "budget", raw)
        rate = f", rate {raw.first['learning_rate']:g}{'' if own else ', not sought for it'}"
        halves = both(f"after {raw.max_steps} steps", worse, better, "budget")
        found += [
            of_several(half, len(shared_seeds(raw, other)), "seed", rate) if other else half
            for half, other in zip(halves, others, strict=True)
        ]
    return found or [cannot("the end of training", "not measured", "make study NAME=budget")]

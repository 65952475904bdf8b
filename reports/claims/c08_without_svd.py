"""C8: LESA without the SVD: the predictor reads raw weights."""

from __future__ import annotations

from dataclasses import replace

from reports import start
from reports.claims import Finding, Verdict, above, below, cannot
from reports.measured import Metrics, files
from reports.paired import Interval
from reports.tables import counted, show_interval
from reports.training_runs import difference, of_steps, schedules

RAW = "without SVD"
CLAIM = "Without SVD LESA is worse, but still beats LLaMA Pro"
SHORT = "without SVD it is worse, but beats LLaMA Pro"
SECTION = "Ablations"
FEWEST = 3  # draws of seed and signs
RULE = (
    "loss minus LESA's above 0, and minus LLaMA Pro's below 0, each by its interval; not decided "
    f"by fewer than {FEWEST} draws"
)
PAPER = "not stated"


def findings(m: Metrics) -> list[Finding]:
    return [*at_end(m), *at_start(m)]


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
    llama_pro, every = start.of_method(m, "llama_pro"), start.starts(m)
    for raw in every:
        if raw.method != "lesa" or (raw.settings, raw.options) != (RAW, ""):
            continue
        lesa = next(
            (s for s in every if (s.method, s.preset) == ("lesa", raw.preset) and s.plain), None
        )
        halves = both(
            f"at the start, preset {raw.preset}",
            start.difference(raw, lesa) if lesa else None,
            start.difference(raw, llama_pro) if llama_pro else None,
            "start",
        )
        found += [
            of_draws(half, len(start.matched(raw, other))) if other else half
            for half, other in zip(halves, (lesa, llama_pro), strict=True)
        ]
    return found or [cannot("the start", "not measured", "make study NAME=start")]


def of_draws(finding: Finding, draws: int) -> Finding:
    """An interval over documents says little of other draws of seed and signs."""
    said = f"{finding.said}, {counted(draws, 'draw')}"
    verdict = finding.verdict if draws >= FEWEST else Verdict.UNDECIDED
    return replace(finding, said=said, verdict=verdict)


def at_end(m: Metrics) -> list[Finding]:
    found = []
    for raw in schedules(m.budget, "lesa_raw"):
        others = (of_steps(m.budget, name, raw.max_steps) for name in ("lesa", "llama_pro"))
        worse, better = (difference(raw, other) if other else None for other in others)
        found += both(f"after {raw.max_steps} steps", worse, better, "budget")
    return found or [cannot("the end of training", "not measured", "make study NAME=budget")]

"""C5: LESA's loss at half of its steps against the baselines' last, and the cost of both."""

from __future__ import annotations

import math

from reports import budget, rates
from reports.claims import (
    FEWEST,
    RIVALS,
    Finding,
    Verdict,
    attempted,
    below,
    cannot,
    every,
    of_enough,
    three_of_equal_tokens,
)
from reports.measured import Metrics, files, fit_seconds, index_at, losses_at, whole_seconds
from reports.paired import Interval, paired
from reports.speed import STEPS_FILE, time_ratio
from reports.tables import number, show_interval
from reports.training_runs import (
    Runs,
    difference,
    median_seconds,
    shared_seeds,
    trained_otherwise,
)

CLAIM = "LESA at half the steps beats both baselines at full steps: under half the cost"
SHORT = "half of LESA's steps beat both baselines at half the cost"
SECTION = "Main results"
RULE = (
    "loss at half of the steps minus each baseline's final one below 0 by its interval, at under "
    "half of its whole time (frozen layers included; the predictors' fit, which does not grow with "
    f"the steps, stands beside it in this run); a study decides it by {FEWEST} seeds or more"
)
PAPER = "perplexity 5.27 at 3k steps against 5.44 and 8.09 at 6k; its time is not stated"


def findings(m: Metrics) -> list[Finding]:
    return [*studied(m), *attempted(default_run, m)]


def cost(m: Metrics, name: str, ours: float, theirs: float, fit: float) -> tuple[str, Verdict]:
    """Whether half of LESA's steps take under half of a baseline's time, as a sentence and verdict.

    By the benchmark that alternates steps, where half of the steps cost half of LESA's time: under
    half of the other's if its step takes longer. Else by the seconds of stages that ran apart. The
    seconds of the predictors' fit stand beside, where they are known.
    """
    whole = f"s of its {number(theirs)} s, stages that ran apart"
    beside = f"; with the fit {number(ours + fit)} {whole}" if fit else ""
    if (ratio := time_ratio(m, name)) is not None:
        most = 0.5 / ratio.low if ratio.low else math.inf
        share = Interval(0.5 / ratio.estimate, 0.5 / ratio.high, most, ratio.n)
        said = f"{show_interval(share)} of its whole time ({STEPS_FILE})"
        return said + beside, below(share, 0.5)
    verdict = Verdict.HOLDS if ours < theirs / 2 else Verdict.FAILS
    return f"{number(ours)} {whole}{beside}", verdict


def judged(
    m: Metrics,
    name: str,
    gap: Interval,
    half: str,
    times: tuple[float, float],
    sources: str,
    limits: str = "",
    fit: float = 0.0,
) -> Finding:
    """times: seconds of half of LESA's steps and of the other's whole training. limits: the seeds
    that the difference is over, and what else bounds it. fit: seconds of the predictors' fit."""
    spent, cheap = cost(m, name, *times, fit)
    said = f"loss minus the final one of {name} {show_interval(gap)} nats{limits}, in {spent}"
    verdict = every([below(gap), cheap])
    short = f"LESA minus the other's end {show_interval(gap)} nats{limits}"
    of, rival = f"{half} against {name}", RIVALS.get(name, name)
    return Finding(of, said, verdict, sources, number=short, case=half, rival=rival)


def studied(m: Metrics) -> list[Finding]:
    """Runs of the studies, first those on this run's text, as the claim is no claim of code, the
    longest schedule first: LESA's own of half the steps, else the point at half of it."""
    found = [finding for of in budget.of_lesa(m) for finding in of_schedule(m, *of)]
    return found or [cannot("a longer run", "not measured", "make study NAME=budget")]


def of_schedule(m: Metrics, study: str, text: str, lesa: Runs) -> list[Finding]:
    """text: what the study's own text is called, where it is not this run's."""
    found, trains = [], str(lesa.first["trains"])
    short = trained_otherwise(getattr(m, study), lesa, trains, lesa.max_steps // 2)
    ours = lesa if short is None else short
    for other, theirs in budget.equally_long(m, study, lesa).items():
        if short is not None:
            gap, seconds = difference(short, theirs), median_seconds(short)
            half = f"{lesa.model}'s own schedule of {short.max_steps} steps{text}"
        elif lesa.tokens // 2 in lesa.points:
            gap = difference(lesa, theirs, lesa.tokens // 2)
            seconds = median_seconds(lesa) / 2
            half = f"{lesa.model} at half of {lesa.max_steps} steps{text}"
        else:
            continue
        if gap is not None:
            times = seconds, median_seconds(theirs)
            limits = f", {rates.over_seeds(m, study, ours, theirs)}"
            finding = judged(m, other, gap, half, times, files(study, ["*"]), limits)
            found.append(of_enough(finding, len(shared_seeds(ours, theirs))))
    return found


def default_run(m: Metrics) -> list[Finding]:
    """The models of this run: the point at half of LESA's schedule."""
    models = three_of_equal_tokens(m)
    lesa = models["lesa"]
    total = m.pretrain[lesa]["steps"][-1]["step"]
    index = index_at(m.pretrain[lesa], 0.5)
    if index is None:
        why = f"no held-out loss was measured at half of the {total} steps"
        return [cannot("this run", why, "dvc repro pretrain")]
    half = f"{lesa} at half of {total} steps"
    found = []
    for name in (models[method] for method in RIVALS):
        gap = paired(losses_at(m.pretrain[lesa], index), losses_at(m.pretrain[name], -1))
        times = whole_seconds(m.pretrain[lesa]) / 2, whole_seconds(m.pretrain[name])
        source = files("pretrain", [lesa, name])
        found.append(judged(m, name, gap, half, times, source, fit=fit_seconds(m, lesa)))
    return found

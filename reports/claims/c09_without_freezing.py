"""C9: LESA with every layer trained, against new layers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import signal, stats

from reports import budget, rates
from reports.claims import FEWEST, CannotTestError, Finding, Verdict, above, cannot, of_enough
from reports.measured import Metrics
from reports.paired import LEVEL, Array, Interval
from reports.tables import counted, show_interval
from reports.training_runs import Runs, difference, schedules, shared_seeds, trained_otherwise

MORE = 1.05  # times as large a standard deviation
FEWEST_STEPS = 8
OTHERS = {"all": "every layer", "new_then_all": "new layers first, then every layer"}
CLAIM = "Without freezing the original layers the loss falls more slowly and fluctuates"
SHORT = "without freezing the loss falls more slowly and fluctuates"
SECTION = "Ablations"
RULE = (
    "final held-out loss minus that of training new layers alone above 0 by its interval; the "
    "training loss around its line over the last half of the steps has a standard deviation more "
    f"than {MORE - 1:.0%} larger, by Pitman and Morgan's test of paired variances: less is no "
    f"fluctuation that a curve shows; not decided by fewer than {FEWEST} seeds, nor refuted at a "
    "lower rate that was not sought, which makes a curve smoother"
)
PAPER = "training-loss curves alone; no number stated"


def findings(m: Metrics) -> list[Finding]:
    found = []
    for name in budget.LESA:
        for frozen in schedules(m.budget, name)[::-1]:
            steps = frozen.max_steps
            for trains, words in OTHERS.items():
                if (free := trained_otherwise(m.budget, frozen, trains, steps)) is not None:
                    found += compared(m, f"{name}, {words} trained, {steps} steps", free, frozen)
    if not found:
        raise CannotTestError("no run trains LESA's other layers", "make study NAME=budget")
    return found


def compared(m: Metrics, subject: str, free: Runs, frozen: Runs) -> list[Finding]:
    if (gap := difference(free, frozen)) is None:
        return []
    seeds = len(shared_seeds(free, frozen))
    of, favours, smoother = counted(seeds, "seed"), "", False
    if (rate := free.first["learning_rate"]) != (own := frozen.first["learning_rate"]):
        of += f", rate {rate:g} against {own:g}"
        if rates.sought_for(m, "budget", free) is None:
            of, favours = f"{of}, not sought for it", ", which favours the claim"
            smoother = rate < own
    slower = f"final loss minus that of new layers alone {show_interval(gap)} nats, {of}{favours}"
    found = Finding(f"slower: {subject}", slower, above(gap), budget.SOURCES)
    fluctuating = fluctuates(f"fluctuates: {subject}", free, frozen, of)
    if smoother and fluctuating.verdict is Verdict.FAILS:
        said = f"{fluctuating.said}, which makes it smoother"
        fluctuating = replace(fluctuating, said=said, verdict=Verdict.UNDECIDED)
    return [of_enough(found, seeds), fluctuating]


def fluctuates(subject: str, free: Runs, frozen: Runs, of: str) -> Finding:
    """of: how many seeds, and at which rates."""
    a, b = residuals(free, frozen)
    if (ratio := fluctuation(a, b)) is None:
        why = f"fewer than {FEWEST_STEPS} training losses in the second half"
        return cannot(subject, why, "make study NAME=budget")
    said = (
        "standard deviation of the training loss around its line, "
        f"{show_interval(ratio)} times ({b.std():.3f} nats with new layers alone, nearly all of it "
        f"the batches' own: that of the difference of both is {(a - b).std():.3f}), {of}"
    )
    found = Finding(subject, said, above(ratio, MORE), budget.SOURCES)
    return of_enough(found, len(shared_seeds(free, frozen)))


def residuals(*both: Runs) -> list[Array]:
    """Training losses over the last half of the steps, less their least-squares line, of the seeds
    that all have, one after another (seeds · steps / 2,)."""
    found: list[list[Array]] = [[] for _ in both]
    for seed in shared_seeds(*both):
        for runs, own in zip(both, found, strict=True):
            losses = [float(step["loss"]) for step in runs.by_seed[seed]["train"]]
            own.append(np.asarray(signal.detrend(losses[len(losses) // 2 :]), dtype=np.float64))
    return [np.concatenate(own) for own in found]


def fluctuation(a: Array, b: Array) -> Interval | None:
    """Ratio of standard deviations of two runs' residuals; None where there are too few.

    Both see the same batches in the same order, so their residuals are paired: of paired a and b,
    var(a) = w var(b) if and only if a + sqrt(w) b and a - sqrt(w) b do not correlate; the interval
    has each w of which the test does not reject that (Pitman, Biometrika 31, 1939; Morgan, ibid.).
    """
    if len(a) < FEWEST_STEPS:
        return None
    ratio, r = float(a.var() / b.var()), float(np.corrcoef(a, b)[0, 1])
    t = float(stats.t.ppf((1 + LEVEL) / 2, len(a) - 2))
    k = 1 + 2 * (1 - r**2) * t**2 / (len(a) - 2)
    low, high = (np.sqrt(ratio * (k + side * np.sqrt(k**2 - 1))) for side in (-1, 1))
    return Interval(ratio**0.5, float(low), float(high), len(a))

"""C6: time of a training step, measured in turn for each method in one run."""

from __future__ import annotations

import statistics

from reports.claims import RIVALS, CannotTestError, Finding, Verdict, above, three_of_equal_tokens
from reports.measured import Metrics, files, fit_seconds, whole_seconds
from reports.speed import STEPS_FILE, step_seconds, time_ratio
from reports.tables import number, show_interval

CLAIM = "LESA's training time is the lowest"
SHORT = "LESA's training takes less time than both baselines'"
SECTION = "Main results"
RULE = (
    "whole time of a step, frozen layers included and the predictors' fit left out, over LESA's: "
    "above 1 by its interval for both baselines, in a benchmark that alternates their steps"
)
PAPER = "LLaMA Pro 124%, SOLAR 166% of LESA's time"


def findings(m: Metrics) -> list[Finding]:
    if not step_seconds(m):
        raise CannotTestError(f"{STEPS_FILE} was not measured on this model", "make bench")
    found = []
    for name in RIVALS:
        whole, cached = (time_ratio(m, name, prefix) for prefix in (True, False))
        if whole is None or cached is None:
            raise CannotTestError(f"{STEPS_FILE} has no steps of {name}", "make bench")
        said = (
            f"{show_interval(whole)} of LESA's time, {show_interval(cached)} with the cache of "
            f"frozen layers off the clock{place(m) if name == 'llama_pro' else ''}{stages(m, name)}"
        )
        short = f"{show_interval(whole)} times LESA's without its fit{with_fit(m, name)}"
        found.append(
            Finding(name, said, above(whole, 1.0), STEPS_FILE, number=short, rival=RIVALS[name])
        )
    return [*found, *same_place(m)]


def with_fit(m: Metrics, name: str) -> str:
    """After how many steps LESA has saved the seconds that its fit took in this run."""
    steps, lesa = step_seconds(m), m.model_of("lesa")
    saved = statistics.median(steps[name]) - statistics.median(steps["lesa"])
    if lesa is None or saved <= 0 or not (fit := fit_seconds(m, lesa)):
        return ""
    return f"; its fit of {number(fit)} s is made up for after about {fit / saved:,.0f} steps"


def same_place(m: Metrics) -> list[Finding]:
    """Copies in LESA's own gaps: what they do not take longer, LESA's predictions do not save."""
    if (ratio := time_ratio(m, "identity")) is None:
        return []
    verdict = above(ratio, 1.0)
    said = f"{show_interval(ratio)} of LESA's time"
    if verdict is not Verdict.HOLDS:
        said += ": of LESA's steps nothing is seen to be saved but by the place of its layers"
    return [Finding("identity, copies in LESA's gaps", said, verdict, STEPS_FILE, beside=True)]


def place(m: Metrics) -> str:
    """What share of LLaMA Pro's time the place of its layers costs.

    It adds as many layers as LESA does, of the same size, all through the depth: what its step
    takes longer than that of layers in LESA's gaps is the way back through the layers between.
    `identity` has LLaMA Pro's layers in LESA's gaps; without it LESA's own step stands for them.
    """
    steps = step_seconds(m)
    there = "identity" if "identity" in steps else "lesa"
    own, elsewhere = (statistics.median(steps[name]) for name in ("llama_pro", there))
    return f"; the place of its layers costs {100 * (1 - elsewhere / own):.0f}% of its time"


def stages(m: Metrics, name: str) -> str:
    """The seconds of this run's stages, which ran one after another: the machine's moods too."""
    try:
        models = three_of_equal_tokens(m)
    except CannotTestError:
        return ""
    own, lesa = (whole_seconds(m.pretrain[models[key]]) for key in (name, "lesa"))
    with_fit = lesa + fit_seconds(m, models["lesa"])
    fits = m.params.methods[models["lesa"]].needs
    return (
        f"; the stages of this run, apart in time, took {number(own)} s against {number(lesa)} s, "
        f"{number(with_fit)} s with LESA's fit "
        f"({files('pretrain', [models['lesa'], models[name]])}, {files('fit', fits)})"
    )

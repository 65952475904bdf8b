"""C10: norm ratios of predictions fitted with and without the norm term."""

from __future__ import annotations

import numpy as np

from reports import start
from reports.claims import CannotTestError, Finding, above, below
from reports.measured import Json, Metrics
from reports.paired import Array, interval
from reports.tables import number, show_interval

COLLAPSE = 0.5
WITHOUT = "norm_weight=0.0"  # how the study `start` says it
CLAIM = "Without the norm term the predicted parameters collapse towards zero"
SHORT = "without the norm term predictions collapse"
SECTION = "Ablations"
RULE = (
    f"norm ratio at λ = 0 over that at λ > 0, all else equal: its mean over kinds below {COLLAPSE} "
    "by its interval, for each seed of both"
)
PAPER = "not stated"


def findings(m: Metrics) -> list[Finding]:
    fits = of_fits(m)
    found = [*fits, *of_starts(m, {finding.subject for finding in fits})]
    if not found:
        raise CannotTestError(
            "no two fits differ in λ = 0 and λ > 0 alone", "make study NAME=start"
        )
    return found


def compared(subject: str, zero: Array, some: Array, sources: str) -> Finding:
    """zero, some: ‖pred‖ / ‖target‖ (kinds,) of predictors without and with the norm term."""
    quotient = interval(zero / some)
    said = (
        f"norm ratio {number(float(zero.mean()))} against {number(float(some.mean()))} with the "
        f"term; quotient {show_interval(quotient)} over {len(zero)} kinds"
    )
    short = f"norm without the term over that with it {show_interval(quotient)}"
    return Finding(subject, said, below(quotient, COLLAPSE), sources, number=short)


def norm_ratios(fit: Json) -> Array:
    return np.array([float(c["train"]["norm_ratio"]) for c in fit["kinds"].values()])


def pairs(m: Metrics) -> list[tuple[str, str]]:
    """(without, with): names of two fitted presets that differ in λ alone."""
    presets = {preset: m.params.fit.presets[preset] for preset in m.seeds_by_preset}
    return [
        (a, b)
        for a, zero in presets.items()
        for b, some in presets.items()
        if zero.norm_weight == 0 < some.norm_weight
        and zero == some.model_copy(update={"norm_weight": 0.0})
    ]


def of_fits(m: Metrics) -> list[Finding]:
    """Presets of this run, seed by seed, with the seeds of the study `fits`."""
    found = []
    for without, with_term in pairs(m):
        for zero_name, zero in m.seeds_by_preset[without].items():
            for name, some in m.seeds_by_preset[with_term].items():
                if zero["seed"] == some["seed"]:
                    subject = f"preset {with_term}, seed {some['seed']}"
                    ratios = norm_ratios(zero), norm_ratios(some)
                    found.append(compared(subject, *ratios, m.fit_files([zero_name, name])))
    return found


def of_starts(m: Metrics, fitted: set[str]) -> list[Finding]:
    """Draws of the study: the ratios of those that are no fit of this run, whose subjects are
    `fitted`, and what a model of such predictions loses."""
    lesa = [s for s in start.starts(m) if s.method == "lesa" and not s.options]
    found = []
    for without in (s for s in lesa if s.settings == WITHOUT):
        for with_term in (s for s in lesa if s.plain and s.preset == without.preset):
            gap = start.difference(without, with_term)
            said = f"loss before training minus LESA's {show_interval(gap)} nats"
            subject = f"worse as a model: preset {with_term.preset}"
            found.append(Finding(subject, said, above(gap), start.SOURCES, beside=True))
            for rows in start.pairs(without, with_term):
                draw = f"preset {with_term.preset}, seed {rows[1]['seed']}"
                if rows[1]["signs"] == "largest" and draw in fitted:
                    continue
                zero, some = (np.array(list(row["norm_ratio"].values())) for row in rows)
                subject = f"{draw}, signs {rows[1]['signs']}, study start"
                found.append(compared(subject, zero, some, start.SOURCES))
    return found

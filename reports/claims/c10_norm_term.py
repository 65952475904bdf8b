"""C10: norm ratios of predictions fitted with and without the norm term."""

from __future__ import annotations

import numpy as np

from reports import start
from reports.claims import CannotTestError, Finding, above, below
from reports.measured import Json, Metrics
from reports.paired import Array, interval
from reports.tables import number, show_interval

COLLAPSE = 0.5
CLAIM = "Without the norm term the predicted parameters collapse towards zero"
RULE = (
    f"norm ratio at λ = 0 over that at λ > 0, all else equal: its mean over kinds below {COLLAPSE} "
    "by its interval, for each seed of both"
)
PAPER = "not stated"


def norm_ratios(fit: Json) -> Array:
    """‖pred‖ / ‖target‖ of each kind's predictor (kinds,)."""
    return np.array([float(c["train"]["norm_ratio"]) for c in fit["kinds"].values()])


def pairs(m: Metrics) -> list[tuple[str, str]]:
    """(without, with): names of two presets that differ in λ alone."""
    presets = {p: m.params.fit.presets[p] for p in m.fits_by_preset if p in m.params.fit.presets}
    return [
        (a, b)
        for a, zero in presets.items()
        for b, some in presets.items()
        if zero.norm_weight == 0 < some.norm_weight
        and zero == some.model_copy(update={"norm_weight": 0.0})
    ]


def findings(m: Metrics) -> list[Finding]:
    found = []
    for without, with_term in pairs(m):
        fits, names = m.fits_by_preset, {}
        for preset in (without, with_term):
            names[preset] = {fit["seed"]: name for name, fit in fits[preset].items()}
        for seed in sorted(set(names[without]) & set(names[with_term])):
            runs = [names[preset][seed] for preset in (without, with_term)]
            zero, some = norm_ratios(fits[without][runs[0]]), norm_ratios(fits[with_term][runs[1]])
            quotient = interval(zero / some)
            said = (
                f"norm ratio {number(zero.mean())} against {number(some.mean())} with the term; "
                f"quotient {show_interval(quotient)} over {len(zero)} kinds"
            )
            subject = f"preset {with_term}, seed {seed}"
            found.append(Finding(subject, said, below(quotient, COLLAPSE), m.fit_files(runs)))
    if not found:
        raise CannotTestError(
            "no two fits differ in λ = 0 and λ > 0 alone", "make study NAME=start"
        )
    return [*found, *as_model(m)]


def as_model(m: Metrics) -> list[Finding]:
    """What a model of these predictions loses at the start, against the one with the norm term."""
    found = []
    every = {s.preset: s for s in start.starts(m) if s.method == "lesa" and not s.options}
    for without, with_term in pairs(m):
        if without in every and with_term in every:
            gap = start.difference(every[without], every[with_term])
            said = f"loss at the start minus that of preset {with_term} {show_interval(gap)} nats"
            subject = f"worse as a model: preset {without}"
            found.append(Finding(subject, said, above(gap), start.SOURCES, beside=True))
    return found

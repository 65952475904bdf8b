"""C10: norm ratios of predictions fitted with and without the norm term."""

from __future__ import annotations

import numpy as np

from reports.claims import NotTestedError, first_fit_files
from reports.measured import Metrics
from reports.tables import number

COLLAPSE = 0.5  # norm ratio without the term over the one with it
CLAIM = "Without the norm term the predicted parameters collapse towards zero"
RULE = f"mean norm ratio at λ = 0 below {COLLAPSE} × the one at λ > 0"


def evidence(m: Metrics) -> tuple[str, bool]:
    """Of several presets with λ = 0, or with λ > 0, the first one counts."""
    weights = {preset: m.params.fit.presets[preset].norm_weight for preset in m.first_runs}
    ratios = {
        preset: float(np.mean([c["train"]["norm_ratio"] for c in m.fit[run]["kinds"].values()]))
        for preset, run in m.first_runs.items()
    }
    listed = ", ".join(f"{name} (λ {w:g}) {number(ratios[name])}" for name, w in weights.items())
    said = f"mean norm ratio of the predictions: {listed}; {first_fit_files(m)}"
    without = [ratios[name] for name, weight in weights.items() if weight == 0]
    with_term = [ratios[name] for name, weight in weights.items() if weight > 0]
    if not without or not with_term:
        raise NotTestedError(f"no pair of presets with λ = 0 and λ > 0; {said}")
    return said, without[0] < COLLAPSE * with_term[0]

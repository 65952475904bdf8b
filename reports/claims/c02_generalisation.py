"""C2: held-out loss over training loss of every predictor, of each preset's first seed."""

from __future__ import annotations

from reports.claims import NotTestedError, first_fit_files
from reports.measured import Metrics
from reports.tables import number

ON_PAR = 1.10  # held-out loss over training loss
CLAIM = "The predictor's test loss is on par with its training loss"
RULE = f"held-out loss at most {ON_PAR:.2f} × training loss, for every kind and preset"


def evidence(m: Metrics) -> tuple[str, bool]:
    fits = (m.fit[run] for run in m.first_runs.values())
    measured = [c for fit in fits for c in fit["kinds"].values() if c["heldout"]]
    if not measured:
        raise NotTestedError("no held-out predictor errors were measured")
    ratios = [c["heldout"]["loss"] / max(c["train"]["loss"], 1e-300) for c in measured]
    explained = [c["heldout"]["explained_variance"] for c in measured]
    within = sum(ratio <= ON_PAR for ratio in ratios)
    nothing = ": none predicts better than the mean, so parity alone says little"
    return (
        f"{within} of {len(ratios)} predictors; ratio {number(min(ratios))} to "
        f"{number(max(ratios))}. Held-out explained variance {number(min(explained))} to "
        f"{number(max(explained))}{nothing if max(explained) <= 0 else ''}. "
        f"Triples of this one model only; {first_fit_files(m)}"
    ), within == len(ratios)

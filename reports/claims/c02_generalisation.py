"""C2: one predictor's error on triples it did not see, over its error on those it was fitted on."""

from __future__ import annotations

import numpy as np

from reports.claims import CannotTestError, Finding, below, cannot
from reports.measured import Json, Metrics, files
from reports.paired import Array, interval
from reports.tables import show_interval

ON_PAR = 1.10
CLAIM = "The predictor's test loss is on par with its training loss"
SHORT = "the predictors' test loss is on par with their training loss"
SECTION = "The predictors"
RULE = (
    f"mean over kinds and seeds of test MSE / training MSE of one predictor, below {ON_PAR:.2f} by "
    "its interval; beside it, its test MSE over that of predicting zero, below 1"
)
PAPER = "curves alone: 150 triples of Llama-3 variants, split 120/30; no number stated"


def ratios(runs: list[Json], over: str) -> Array:
    """(seeds, kinds): test MSE over the training MSE (`fitted`) or that of zero (`zero`)."""

    def denominator(heldout: Json) -> float:
        return float(heldout["fitted"]["mse"] if over == "fitted" else heldout["zero_mse"])

    kinds = [[c["heldout"] for c in run["kinds"].values()] for run in runs]
    return np.array([[c["mse"] / denominator(c) for c in of_run] for of_run in kinds])


def findings(m: Metrics) -> list[Finding]:
    found = []
    for preset, runs in m.fits_by_preset.items():
        blind = {n: r for n, r in runs.items() if all(c["heldout"] for c in r["kinds"].values())}
        if not blind:
            continue
        of = f"preset {preset}, {len(blind)} seed{'s' if len(blind) > 1 else ''}"
        sources = files("fit", list(blind))
        parity, zero = (interval(ratios(list(blind.values()), over)) for over in ("fitted", "zero"))
        said = f"test MSE / training MSE {show_interval(parity)}; triples of this one model"
        found.append(
            Finding(of, said, below(parity, ON_PAR), sources, number=show_interval(parity))
        )
        said = f"test MSE / MSE of predicting zero {show_interval(zero)}"
        found.append(Finding(f"{of}: better than zero", said, below(zero, 1.0), sources, True))
    if not found:
        raise CannotTestError("no held-out predictor errors were measured", "dvc repro fit")
    return [*found, *variants(m)]


def variants(m: Metrics) -> list[Finding]:
    """Parity on pooled triples of variants of the base, split at random and by layer."""
    if not m.variants:
        return [cannot("triples of variants", "no variants were made", "make study NAME=variants")]
    found = []
    for name, content in m.variants.items():
        for split, kinds in content["splits"].items():
            values = [c["test"]["mse"] / c["train"]["mse"] for c in kinds.values()]
            zero = [c["test"]["mse"] / c["test"]["zero_mse"] for c in kinds.values()]
            said = (
                f"test MSE / training MSE {show_interval(interval(values))}; / MSE of predicting "
                f"zero {show_interval(interval(zero))}"
            )
            verdict = below(interval(values), ON_PAR)
            source = files("variants", [name])
            found.append(Finding(f"triples of variants, split {split}", said, verdict, source))
    return found

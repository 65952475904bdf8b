"""C3: seconds to fit the predictors of all kinds once, here and at the paper's size."""

from __future__ import annotations

import numpy as np

from reports.claims import Finding, Verdict, cannot
from reports.measured import Json, Metrics, files
from reports.tables import counted, number

FIT_SECONDS = 300.0
LAYERS = 32  # of Llama-3-8B
CLAIM = "Fitting the predictors takes under 5 minutes"
SHORT = "fitting takes under 5 minutes"
SECTION = "The predictors"
RULE = f"all kinds one after another under {FIT_SECONDS:.0f} s, for every preset and seed"
PAPER = "under 5 minutes; the GPU is not stated"


def verdict(seconds: float) -> Verdict:
    return Verdict.HOLDS if seconds < FIT_SECONDS else Verdict.FAILS


def extrapolated(depth: Json, epochs: int) -> tuple[float, float]:
    """Seconds of a preset's fit at Llama-3-8B's depth and widths, and the line's largest residual.

    The benchmark fits for one epoch at three depths: a line through the triples of a kind, of which
    a model of L layers has L - 2, taken at 30, times the epochs.
    """
    triples = np.array([d["layers"] - 2 for d in depth["depths"]], dtype=np.float64)
    seconds = np.array(
        [sum(d["fit_seconds"].values()) / d["fit"]["epochs"] for d in depth["depths"]]
    )
    line = np.polynomial.Polynomial.fit(triples, seconds, 1)
    residual = float(np.abs(line(triples) / seconds - 1).max())
    return epochs * float(line(LAYERS - 2)), residual


def findings(m: Metrics) -> list[Finding]:
    found, depth = [], m.benchmarks.get("depth", {})
    enough = len([d for d in depth.get("depths", []) if "fit_seconds" in d]) > 1
    machine = "{cores} cores of {processor}".format(**depth["machine"]) if enough else ""
    presets = m.params.fit.presets
    far = {p: extrapolated(depth, presets[p].epochs) for p in m.first_runs} if enough else {}
    for preset, runs in m.fits_by_preset.items():
        seconds = [sum(float(c["seconds"]) for c in r["kinds"].values()) for r in runs.values()]
        brief = f"{number(max(seconds))} s for {m.base['parameters']:,} parameters"
        if preset in far:
            brief += f"; extrapolated to Llama-3-8B on {machine} {number(far[preset][0])} s"
        said = (
            f"{number(max(seconds))} s for the slowest of {counted(len(runs), 'seed')}, "
            f"{m.base['num_hidden_layers']} layers and {m.base['parameters']:,} parameters"
        )
        found.append(
            Finding(
                f"preset {preset}",
                said,
                verdict(max(seconds)),
                files("fit", list(runs)),
                number=brief,
            )
        )
    if found and m.base["num_hidden_layers"] < LAYERS:
        there = "make profile PROFILE=llama3-8b && dvc repro fit"
        found.append(cannot("Llama-3-8B on a GPU", "not measured", there))
    if not enough:
        return [*found, cannot("Llama-3-8B", "two depths were not measured", "make bench", True)]
    for preset, (seconds_there, residual) in far.items():
        said = (
            f"extrapolated, not measured: {number(seconds_there)} s, by "
            f"a line through {len(depth['depths'])} depths at its widths (points at most "
            f"{100 * residual:.0f}% off it)"
        )
        subject = f"preset {preset} at Llama-3-8B's {LAYERS} layers on {machine}"
        found.append(
            Finding(
                subject,
                said,
                verdict(seconds_there),
                files("benchmarks", ["depth"]),
                beside=True,  # a CPU cannot refute what is said of a GPU
            )
        )
    return found

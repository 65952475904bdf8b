"""C2: one predictor's error on triples it did not see, over its error on those it was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from reports import domains
from reports.claims import CannotTestError, Finding, below, cannot
from reports.measured import Json, Metrics, files
from reports.paired import Array, interval
from reports.tables import counted, show_interval

ON_PAR = 1.10
SPLITS = {"random": "at random", "layer": "by layer, this project's harder test"}
CLAIM = "The predictor's test loss is on par with its training loss"
SHORT = "the predictors' test loss is on par with their training loss"
SECTION = "The predictors"
RULE = (
    f"mean over kinds and seeds of test MSE / training MSE of one predictor, below {ON_PAR:.2f} by "
    "its interval; beside it, its test MSE over that of predicting zero, below 1. A run's presets "
    "are fitted on triples of the base alone, those of the study variants on triples of five models"
)
PAPER = "curves alone: 150 triples of Llama-3 variants, split 120/30; no number stated"


NUMBERS = (domains.over_train, domains.over_zero)


def ratios(runs: Mapping[str, Json], number: Callable[[Json], float]) -> Array:
    """(seeds, kinds): one of NUMBERS of each predictor, scored on layers that it did not see."""
    kinds = [[c["heldout"] for c in run["kinds"].values()] for run in runs.values()]
    return np.array([[number({"train": c["fitted"], "test": c}) for c in of] for of in kinds])


def judged(of: str, sources: str, over_train: Array, over_zero: Array) -> list[Finding]:
    """Test MSE / training MSE and, beside it, test MSE / that of zero; both (seeds, kinds)."""
    parity, zero = interval(over_train), interval(over_zero)
    on_par, of_zero = below(parity, ON_PAR), f"{of}: better than zero"
    of_train = f"test MSE / training MSE {show_interval(parity)}"
    ratio = f"MSE of predicting zero {show_interval(zero)}"
    return [
        Finding(of, of_train, on_par, sources, number=f"{of_train}, / {ratio}"),
        Finding(of_zero, f"test MSE / {ratio}", below(zero, 1.0), sources, beside=True),
    ]


def blind_fits(m: Metrics) -> dict[str, dict[str, Json]]:
    """Of each preset the fits that were scored on layers that they did not see, by name."""
    return {
        preset: blind
        for preset, runs in m.seeds_by_preset.items()
        if (
            blind := {
                name: run
                for name, run in runs.items()
                if all(kind["heldout"] for kind in run["kinds"].values())
            }
        )
    }


def findings(m: Metrics) -> list[Finding]:
    found = []
    for preset, blind in blind_fits(m).items():
        of = f"preset {preset}, {counted(len(blind), 'seed')}"
        both = [ratios(blind, number) for number in NUMBERS]
        found += judged(of, m.fit_files(blind), *both)
    if not found:
        raise CannotTestError("no held-out predictor errors were measured", "dvc repro fit")
    return [*found, *variants(m)]


def variants(m: Metrics) -> list[Finding]:
    """Parity on pooled triples of variants of the base, split at random and by layer."""
    measured = domains.parities(m)
    if not measured:
        return [cannot("triples of variants", "no variants were made", "make study NAME=variants")]
    found = []
    for name, content in measured.items():
        of = f"triples of variants, split {SPLITS[content['split']]}, basis {content['basis']}"
        both = [domains.over_fits(content, number) for number in NUMBERS]
        found += judged(of, files("variants", [name]), *both)
    return found

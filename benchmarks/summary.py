"""Comparisons made of others: other numbers of the same runs, and sums over several."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Comparison = dict[str, Any]  # what `measure.compare` returns
Medians = Mapping[str, Mapping[str, float]]


def own_side(comparison: Comparison) -> str:
    """This project's side: the one that `ratios` compares the others with."""
    (own,) = comparison["medians"].keys() - comparison["ratios"].keys()
    return str(own)


def compared(medians: Medians, own: str, repetitions: int) -> Comparison:
    """A comparison without runs: `ratios` divide every side's medians by those of `own`."""
    return {
        "repetitions": repetitions,
        "medians": medians,
        "ratios": {
            side: {what: value / medians[own][what] for what, value in values.items()}
            for side, values in medians.items()
            if side != own
        },
    }


def by_result(comparison: Comparison, key: str) -> Comparison:
    """The same runs, with what their result calls `key` (seconds) in place of their whole time."""
    medians = {
        side: {
            "seconds": statistics.median(run["result"][key] for run in runs),
            "peak_bytes": comparison["medians"][side]["peak_bytes"],
        }
        for side, runs in comparison["runs"].items()
    }
    return compared(medians, own_side(comparison), comparison["repetitions"])


def total(parts: Sequence[Comparison]) -> Comparison:
    """Work done in parts, one after another: seconds add up, of the peaks the largest counts."""
    medians = {
        side: {
            "seconds": sum(part["medians"][side]["seconds"] for part in parts),
            "peak_bytes": max(part["medians"][side]["peak_bytes"] for part in parts),
        }
        for side in parts[0]["medians"]
    }
    return compared(medians, own_side(parts[0]), parts[0]["repetitions"])

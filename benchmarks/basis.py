"""The basis of a kind: the Gram matrix against an SVD of the concatenation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure, summary
from benchmarks.base import default_base, random_checkpoint, run, work_folder
from benchmarks.shapes import DEFAULT, QWEN, Shape, matrices
from benchmarks.summary import Comparison

OWN, PEER = "gram", "concat"


@dataclass(frozen=True)
class Case:
    """A model, the kinds measured on it unless others are asked for, and how often."""

    shape: Shape
    kinds: tuple[str, ...]
    repetitions: int


CASES = {
    "default": Case(DEFAULT, tuple(matrices(DEFAULT)), repetitions=5),
    # An SVD at this size takes minutes. k_proj and v_proj are small, o_proj has q_proj's shape and
    # up_proj gate_proj's: the three left carry the comparison.
    "qwen2.5-1.5b": Case(QWEN, ("q_proj", "gate_proj", "down_proj"), repetitions=1),
}


def difference(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Largest relative difference of two lists of singular values, in the second's units."""
    if len(found) != len(wanted):
        raise RuntimeError(f"{len(found)} singular values against {len(wanted)}")
    return max(abs(a - b) / b for a, b in zip(found, wanted, strict=True))


def agree(comparison: Comparison) -> Comparison:
    """Put the difference of the singular values in place of the values themselves."""
    values = {
        side: [run["result"].pop("singular_values") for run in runs]
        for side, runs in comparison["runs"].items()
    }
    differences = [difference(a, b) for a, b in zip(values[OWN], values[PEER], strict=True)]
    return {**comparison, "largest_relative_difference": max(differences)}


def compare_kinds(
    name: str, checkpoint: Path, kinds: Sequence[str], repetitions: int
) -> dict[str, Comparison]:
    """A comparison per kind, and their sum."""
    argv = [sys.executable, "-m", "benchmarks.sides.basis"]
    found = {}
    for kind in kinds:
        sides = {way: [*argv, way, str(checkpoint), kind] for way in (OWN, PEER)}
        found[kind] = agree(measure.compare(f"{name} {kind}", sides, repetitions))
    together = summary.total(list(found.values()))
    worst = max(part["largest_relative_difference"] for part in found.values())
    return {**found, "all of these": {**together, "largest_relative_difference": worst}}


def measured(name: str, kinds: Sequence[str] | None, repetitions: int | None) -> dict[str, Any]:
    case = CASES[name]
    chosen = tuple(kinds or case.kinds)
    with work_folder() as work:
        if name == "default":
            checkpoint, origin = default_base(work)
        else:
            checkpoint, origin = random_checkpoint(case.shape, work / "base"), "random weights"
        found = compare_kinds(f"basis {name}", checkpoint, chosen, repetitions or case.repetitions)
    return {
        "weights": origin,
        "shape": asdict(case.shape),
        "kinds_left_out": [kind for kind in matrices(case.shape) if kind not in chosen],
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.basis", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kinds", nargs="+", choices=matrices(DEFAULT))
    parser.add_argument("--repetitions", type=int)
    args = parser.parse_args()
    for name in args.models:
        measure.save(f"basis-{name}", measured(name, args.kinds, args.repetitions))


if __name__ == "__main__":
    run(main)

"""Continual pre-training of the new layers, against a plain Trainer in float32."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import measure, summary
from benchmarks.base import deepened, default_base, run, work_folder
from benchmarks.shapes import DEFAULT, layer_bytes
from benchmarks.summary import Comparison

STEPS = 14  # of a run: three to warm up, the others timed


def loss_differences(comparison: Comparison) -> list[float]:
    """|relative difference| of the two sides' losses at every step of the first run."""
    ours, theirs = (comparison["runs"][side][0]["result"]["losses"] for side in ("lesa", "trainer"))
    return [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]


def compare(folder: Path, steps: int, repetitions: int) -> dict[str, Any]:
    """The median step, and the whole run with loading, caching and evaluation counted in."""
    argv = [sys.executable, "-m", "benchmarks.sides.pretrain"]
    sides = {side: [*argv, side, str(folder), str(steps)] for side in ("lesa", "trainer")}
    whole = measure.compare("pretrain", sides, repetitions)
    one = summary.by_result(whole, "step_seconds")
    for side, ratio in one["ratios"].items():
        print(f"pretrain: tokens/s, {summary.own_side(one)} over {side}: {ratio['seconds']:.2f}")
    first = whole["runs"]["lesa"][0]["result"]
    tokens = first["tokens_per_step"]
    bound = measure.side("benchmarks.sides.pretrain", "profile", str(folder), str(steps)).result
    # What is left of the peer's step if everything but its matrix products took none.
    bound["most_times_as_fast"] = one["medians"]["trainer"]["seconds"] / bound["products_seconds"]
    print(f"pretrain: {bound}")
    speeds = {side: tokens / values["seconds"] for side, values in one["medians"].items()}
    return {
        "dtype": first["dtype"],
        "one step": {**one, "largest_loss_difference": max(loss_differences(whole))},
        "whole run": whole,
        "tokens_per_second": speeds,
        "profile": bound,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pretrain", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    with work_folder(needed_bytes=4 * DEFAULT.layers * layer_bytes(DEFAULT)) as work:
        base, origin = default_base(work)
        # Each new layer its neighbours' mean: weights change no work.
        folder = deepened(base, "average", work / "deepened")
        found = compare(folder, args.steps, args.repetitions)
    # Machines with bfloat16 and those without measure different things.
    name = f"pretrain-{found['dtype']}"
    measure.save(name, {"weights": origin, "shape": asdict(DEFAULT), **found})


if __name__ == "__main__":
    run(main)

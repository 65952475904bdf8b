"""LESA end to end at Llama-3-8B's widths and growing depth: is time linear, is memory flat?"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import measure
from benchmarks.base import random_checkpoint, run, work_folder
from benchmarks.shapes import Shape, layer_bytes, llama_8b, matrices

DEPTHS = (4, 8, 16)


def needed_bytes(shape: Shape) -> int:
    """Disk for a base, its deepened checkpoint, the bases and at most every coefficient."""
    layers = shape.layers + (shape.layers + shape.layers // 2)
    bases = sum(4 * d1 * d1 for d1, _ in matrices(shape).values())
    coefficients = sum(4 * shape.layers * d1 * d2 for d1, d2 in matrices(shape).values())
    return layers * layer_bytes(shape) + bases + coefficients


def line(points: Mapping[int, float]) -> dict[str, float] | None:
    """Least-squares line through depth -> seconds; None for fewer than two depths.

    `largest_residual` is the largest distance of a point from the line, relative to the point.
    """
    if len(points) < 2:
        return None
    slope, intercept = statistics.linear_regression(list(points), list(points.values()))
    residuals = [abs(intercept + slope * n - t) / t for n, t in points.items()]
    return {
        "seconds_per_layer": slope,
        "seconds_at_no_depth": intercept,
        "largest_residual": max(residuals),
    }


def lines(depths: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    """A line for the whole, for what depends on the depth, and for each stage.

    The eigenvectors (svd) depend on the width, and on whether float32 finds them
    (`lesa.method.basis.well_conditioned`).
    """
    seconds = {d["layers"]: d["seconds"] for d in depths}
    without = {d["layers"]: d["seconds"] - d["seconds_by_stage"]["svd"] for d in depths}
    found = {"all stages": line(seconds), "all stages but svd": line(without)}
    for stage in depths[0]["seconds_by_stage"]:
        found[stage] = line({d["layers"]: d["seconds_by_stage"][stage] for d in depths})
    return found


def measured(shape: Shape) -> dict[str, Any]:
    """One depth, in a fresh process, on a checkpoint made for it and removed afterwards."""
    with work_folder(needed_bytes(shape)) as work:
        base = random_checkpoint(shape, work / "base")
        found = measure.side("benchmarks.sides.depth", str(base), str(work))
    by_stage = found.result["peak_anonymous_bytes_by_stage"].values()
    anonymous = None if None in by_stage else max(by_stage)
    said = "not measured here" if anonymous is None else f"{anonymous / 2**20:.0f} MiB"
    print(
        f"depth {shape.layers}: {found.seconds:.0f} s, {found.peak_bytes / 2**20:.0f} MiB "
        f"resident at most, without pages of files {said}",
        flush=True,
    )
    return {
        **found.result,
        "seconds": found.seconds,
        "seconds_per_layer": found.seconds / shape.layers,
        "peak_bytes": found.peak_bytes,
        "peak_anonymous_bytes": anonymous,
        "base_bytes": shape.layers * layer_bytes(shape),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.depth", description=__doc__)
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    args = parser.parse_args()
    depths: list[dict[str, Any]] = []
    for layers in args.depths:
        depths.append(measured(llama_8b(layers)))
        # After every depth: the next one takes long and may not fit.
        measure.save(
            "depth",
            {
                "weights": "random weights, vocabulary of 1,024",
                "shape": asdict(llama_8b(layers)),
                "repetitions": 1,
                "depths": depths,
                "lines": lines(depths),
            },
        )


if __name__ == "__main__":
    run(main)

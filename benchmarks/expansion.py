"""SOLAR and LLaMA Pro expansion of the default model, against mergekit's passthrough merge."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from baselines import table
from benchmarks import measure
from benchmarks.base import ROOT, default_base, run, work_folder
from benchmarks.shapes import DEFAULT, layer_bytes, upper_gaps
from benchmarks.summary import Comparison
from lesa.checkpoints.writer import SHARD_BYTES
from lesa.errors import UserError
from lesa.files import write_text
from lesa.upscaling.plan import LayerPlan, Slot

MERGEKIT = ROOT / "benchmarks" / ".venv-mergekit" / "bin" / "python"
PASSTHROUGH = ROOT / "benchmarks" / "sides" / "passthrough.py"
METHODS = ("solar", "llama_pro")
# Substrings of tensor names; the first that is found in a name decides its scale.
ZEROED = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}]


def stretches(plan: LayerPlan) -> list[list[Slot]]:
    """Stretches of consecutive copies of consecutive layers; a new layer is one by itself."""
    found: list[list[Slot]] = []
    for slot in plan:
        layers = [last.copy_of for last in found[-1]] if found else []
        follows = bool(layers) and layers[-1] is not None and slot.copy_of == layers[-1] + 1
        if follows and not slot.new and not found[-1][-1].new:
            found[-1].append(slot)
        else:
            found.append([slot])
    return found


def merge_config(plan: LayerPlan, base: Path) -> dict[str, Any]:
    """mergekit's configuration of a plan of copies; new ones have their output projections zeroed.

    No `dtype`: what is stored stays as it is.
    """

    def one(stretch: list[Slot]) -> dict[str, Any]:
        first = stretch[0].copy_of
        if first is None:
            raise ValueError("a passthrough merge can only copy layers")
        source: dict[str, Any] = {
            "model": str(base),
            "layer_range": [first, first + len(stretch)],
        }
        if stretch[0].new:
            source["parameters"] = {"scale": ZEROED}
        return {"sources": [source]}

    return {"merge_method": "passthrough", "slices": [one(part) for part in stretches(plan)]}


def fresh(argv: Sequence[str], out: Path) -> measure.Measurement:
    """Measure a side that writes `out`: without an old one to remove, or to wait for the disk."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    return measure.command(argv)


def check(one: Path, other: Path) -> dict[str, Any]:
    """What `sides.same` found; RuntimeError if the two sides did different work."""
    found = measure.side("benchmarks.sides.same", str(one), str(other)).result
    if found["different"]:
        raise RuntimeError(f"the outputs differ: {', '.join(found['different'][:5])} …")
    return found


def compare_method(method: str, base: Path, work: Path, repetitions: int) -> Comparison:
    gaps, config = upper_gaps(DEFAULT.layers), work / f"{method}.yml"
    plan = table()[method].plan(DEFAULT.layers, gaps)
    write_text(config, yaml.safe_dump(merge_config(plan, base.resolve())))
    own, peer = work / "lesa", work / "mergekit"
    ours = [sys.executable, "-m", "benchmarks.sides.expansion", method, gaps.model_dump_json()]
    # mergekit, too, holds a shard before it writes one: equal shards are equal terms.
    theirs = [str(MERGEKIT), "-P", str(PASSTHROUGH), str(config), str(peer), str(SHARD_BYTES)]
    sides = {
        "lesa": lambda: fresh([*ours, str(base), str(own)], own),
        "mergekit": lambda: fresh(theirs, peer),
    }
    found = measure.compare(f"expansion {method}", sides, repetitions)
    return {**found, **check(own, peer)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.expansion", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    if not MERGEKIT.is_file():
        raise UserError(f"{MERGEKIT.relative_to(ROOT)}: not there; `make bench` makes it")
    with work_folder(needed_bytes=5 * DEFAULT.layers * layer_bytes(DEFAULT)) as work:
        base, origin = default_base(work)
        found = {m: compare_method(m, base, work, args.repetitions) for m in METHODS}
    measure.save("expansion", {"weights": origin, "shard_bytes": SHARD_BYTES, **found})


if __name__ == "__main__":
    run(main)

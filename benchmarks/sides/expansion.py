"""Expand a checkpoint: `python -m benchmarks.sides.expansion <method> <plan.json> <base> <out>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import baselines  # noqa: F401  (registers the baselines)
from benchmarks.measure import report
from lesa.checkpoints.reader import Checkpoint
from lesa.files import read_json
from lesa.upscaling import methods
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source
from lesa.upscaling.plan import from_json


def expansion(method: str, plan: Path, folder: Path, out: Path) -> dict[str, Any]:
    """By a method that reads the base alone."""
    base = Checkpoint(folder)
    source = Source(base, svd=folder, needs=folder, unpredicted="copied", seed=0)
    return {"parameters": expand(source, methods.get(method), from_json(read_json(plan)), out)}


if __name__ == "__main__":
    _, method, *paths = sys.argv
    plan, folder, out = map(Path, paths)
    report(lambda: expansion(method, plan, folder, out))

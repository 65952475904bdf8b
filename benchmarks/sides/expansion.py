"""Expand a checkpoint: `python -m benchmarks.sides.expansion <method> <gaps> <base> <out>`.

`<gaps>` is a `Gaps` as JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from baselines import table
from benchmarks.measure import report
from benchmarks.sides import opened
from lesa.checkpoints.reader import Checkpoint
from lesa.params import Gaps
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import NoOptions, Source


def expansion(name: str, gaps: Gaps, base: Checkpoint, out: Path) -> dict[str, Any]:
    """By a method that reads the base alone."""
    expand(Source(base, base.folder, (), NoOptions()), name, table()[name], gaps, out)
    return {"parameters": Checkpoint(out).parameters()}


if __name__ == "__main__":
    _, name, gaps, folder, out = sys.argv
    base, where = opened(Path(folder)), Gaps.model_validate_json(gaps)
    report(lambda: expansion(name, where, base, Path(out)))

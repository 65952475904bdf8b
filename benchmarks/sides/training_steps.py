"""Train a step at a time, each when asked for by a line on stdin:
`python -m benchmarks.sides.training_steps <checkpoint> <steps>`.

A step's seconds go to stdout as it ends, and then the process waits.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import report
from benchmarks.sides.pretrain import BATCH, StepLog, lesa_side, random_blocks, settings
from lesa.files import read_json


class InTurn(StepLog):
    """The time from one line on stdin to the end of the step that it asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.perf_counter()

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        super().__call__(numbers, step)
        if "loss" in numbers:
            print(json.dumps({"seconds": time.perf_counter() - self.started}), flush=True)
            sys.stdin.readline()
            self.started = time.perf_counter()


def measured(folder: Path, steps: int) -> dict[str, Any]:
    blocks = random_blocks(read_json(folder / "config.json")["vocab_size"], steps * BATCH)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        return lesa_side(folder, blocks, settings(steps), Path(work), InTurn())


if __name__ == "__main__":
    _, folder, steps = sys.argv
    report(lambda: measured(Path(folder), int(steps)))

"""Where the benchmarks work, and the checkpoints they start from."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil

from benchmarks import measure
from benchmarks.shapes import DEFAULT, Shape, sizes, upper_gaps
from lesa.errors import UserError, one_line
from lesa.files import read_json

ROOT = Path(__file__).parents[1]
PIPELINE_BASE = ROOT / "artifacts" / "base"


def run(main: Callable[[], None]) -> None:
    """A benchmark as a command: exit status 2 and one line for bad input, as the stages do."""
    with one_line():
        main()


@contextmanager
def work_folder(needed_bytes: int = 0) -> Iterator[Path]:
    """An empty folder below artifacts/work, removed afterwards; what a killed run left goes first.

    Not the system's temporary folder: that may be in memory, and checkpoints of gigabytes go here.
    """
    parent = ROOT / "artifacts" / "work" / "benchmarks"
    parent.mkdir(parents=True, exist_ok=True)
    own = str(os.getpid())
    for left in parent.iterdir():
        if left.name == own or not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left)
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise UserError(
            f"{parent.relative_to(ROOT)}: {free / 1e9:.1f} GB free on its disk; "
            f"the benchmark needs {needed_bytes / 1e9:.1f} GB"
        )
    folder = parent / own
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def random_checkpoint(shape: Shape, folder: Path) -> Path:
    """Write random weights, in another process: this one must stay small (measure.py)."""
    argv = [sys.executable, "-m", "benchmarks.sides.checkpoint"]
    measure.command([*argv, json.dumps(asdict(shape)), str(folder)])
    return folder


def has_shape(folder: Path, shape: Shape) -> bool:
    """Whether a checkpoint is there and every size of it is `shape`'s."""
    path = folder / "config.json"
    found = read_json(path) if path.is_file() else {}
    return all(found.get(key) == value for key, value in sizes(shape).items())


def default_base(work: Path) -> tuple[Path, str]:
    """The default model's checkpoint and what it is: the pipeline's, else one of its shape."""
    if has_shape(PIPELINE_BASE, DEFAULT):
        return PIPELINE_BASE, str(PIPELINE_BASE.relative_to(ROOT))
    return random_checkpoint(DEFAULT, work / "base"), "random weights of the default model's shape"


def deepened(base: Path, method: str, out: Path) -> Path:
    """`out`, with the default's 15 new layers by a method that reads the base alone."""
    gaps = upper_gaps(DEFAULT.layers).model_dump_json()
    measure.side("benchmarks.sides.expansion", method, gaps, str(base), str(out))
    return out

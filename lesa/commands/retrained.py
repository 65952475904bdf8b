"""A checkpoint that a deepened one becomes by reading a text, checked before it appears."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesa import __version__
from lesa.checkpoints.check import check
from lesa.checkpoints.writer import PLAN_FILE
from lesa.commands.evaluate import Score, check_text, evaluate
from lesa.commands.expand import check_out
from lesa.commands.workshop import check_made
from lesa.errors import UserError
from lesa.files import key_of, read_json, sha256, tree_digest, work_folder
from lesa.upscaling.plan import LayerPlan, from_json


@dataclass(frozen=True)
class Retrained:
    """tokens: read; seconds: of the reading alone; before, after: scores on the held-out text, if
    there was one."""

    out: str
    tokens: int
    seconds: float
    before: Score | None
    after: Score | None


def plan_of(start: Path) -> LayerPlan:
    """The plan of a deepened checkpoint. Raises UserError for another."""
    if not (start / PLAN_FILE).is_file():
        raise UserError(f"{start}: has no {PLAN_FILE}; give a folder that `lesa expand` made")
    return from_json(read_json(start / PLAN_FILE))


def retrained(
    start: Path,
    out: Path,
    texts: tuple[Path, Path | None],
    settings: dict[str, Any],
    make: Callable[[Path, Path], int],
) -> Retrained:
    """Have `make(work, made)` write the checkpoint `made`, and move it to `out` once it loads.

    texts: read, and held out. `settings` and the files decide whether what a stopped run left in
    `work` is used. `make` returns how many tokens it read.
    """
    train, heldout = texts
    check(start)
    key = key_of(__version__, tree_digest(start), sha256(train), settings)
    with work_folder(out.with_name(f".{out.name}.work"), key) as folder:
        made, begun = folder / "checkpoint", time.perf_counter()
        tokens = make(folder, made)
        seconds = time.perf_counter() - begun
        check_made(made)
        before, after = (evaluate(path, heldout) if heldout else None for path in (start, made))
        made.rename(out)
    return Retrained(str(out), tokens, seconds, before, after)


def check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{name}: {value}: must be a finite number above 0")


def check_paths(start: Path, out: Path, *texts: Path | None) -> None:
    """Refuse in one line what would fail later. Raises UserError."""
    check_out(start, out)
    for path in filter(None, texts):
        check_text(path)

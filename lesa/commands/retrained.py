"""A checkpoint that a deepened one becomes by reading a text, checked before it appears."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesa import __version__
from lesa.checkpoints.check import check
from lesa.commands.evaluate import Score, evaluate
from lesa.commands.output import alone, work_of
from lesa.commands.workshop import check_made
from lesa.files import key_of, sha256, tree_digest, work_folder


@dataclass(frozen=True)
class Retrained:
    """tokens: read; seconds: of making the checkpoint in this call, without its check and scores;
    before, after: scores on the held-out text, if there was one."""

    out: str
    tokens: int
    seconds: float
    before: Score | None
    after: Score | None


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
    _, heldout = texts
    with alone(out):
        check(start)
        digests = [sha256(text) if text else None for text in texts]
        key = key_of(__version__, tree_digest(start), digests, settings)
        with work_folder(work_of(out), key) as folder:
            made, begun = folder / "checkpoint", time.perf_counter()
            tokens = make(folder, made)
            seconds = time.perf_counter() - begun
            check_made(made, start)
            before, after = (evaluate(path, heldout) if heldout else None for path in (start, made))
            made.rename(out)
    if digests[0] == digests[1]:
        note = f"text: {heldout} is what was trained on: its loss says little of other texts"
        print(note, file=sys.stderr)
    return Retrained(str(out), tokens, seconds, before, after)

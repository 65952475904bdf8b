"""The report made again from the committed metrics, beside the committed one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.image import imread

from lesa.errors import UserError
from lesa.params import Params
from reports import first
from reports.render import write

CONTEXT = 50  # characters that a message shows of a line on either side of a difference


def rebuild(params: Params, root: Path, again: Path) -> None:
    """Write below `again` what the report's stages write below `root`; raises UserError as they."""
    metrics, out = root / "metrics", again / "reports"
    again.mkdir(exist_ok=True)
    shutil.copy(root / "README.md", again)
    write(params, metrics, out, again / "README.md")
    first.write(params, metrics, out)


def changed(params: Params, root: Path) -> Iterator[str]:
    """A line for each file of the report, README's results among them, that is not as rebuilt."""
    with TemporaryDirectory() as scratch:
        try:
            rebuild(params, root, Path(scratch))
        except UserError as error:
            yield str(error)
            return
        yield from compare_folders(root, Path(scratch))


def compare_folders(root: Path, again: Path) -> Iterator[str]:
    """A line for each file below `again` that differs below `root`, and for each file that only
    `root` has in a folder that holds nothing but rebuilt files, such as reports/tables."""
    rebuilt = {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    for name in sorted(rebuilt):
        if not (root / name).is_file():
            yield f"{name}: not there, but the metrics give it"
        elif said := difference(root / name, again / name):
            yield f"{name}: {said}"
    for folder in sorted({name.parent for name in rebuilt if len(name.parts) > 2}):
        for path in sorted((root / folder).iterdir()):
            if path.is_file() and path.relative_to(root) not in rebuilt:
                yield f"{path.relative_to(root)}: there, but the metrics do not give it"


def difference(committed: Path, rebuilt: Path) -> str | None:
    """How two files differ; None where they are the same: of a PNG, the same pixels."""
    if committed.read_bytes() == rebuilt.read_bytes():
        return None
    if committed.suffix == ".png":
        return pixels(committed, rebuilt)
    try:
        texts = [path.read_text(encoding="utf-8") for path in (committed, rebuilt)]
    except UnicodeDecodeError:
        return "not the bytes that the metrics give"
    return first_line(*texts)


def pixels(committed: Path, rebuilt: Path) -> str | None:
    """How many pixels differ; None if none does."""
    try:
        one, other = imread(committed), imread(rebuilt)
    except (SyntaxError, OSError, ValueError) as error:  # what the decoder says of a broken file
        return f"not a PNG ({error})"
    if one.shape != other.shape:
        return (
            f"{one.shape[1]} x {one.shape[0]} pixels; rebuilt {other.shape[1]} x {other.shape[0]}"
        )
    count = int(np.any(one != other, axis=-1).sum())
    return f"{count} of {one.shape[0] * one.shape[1]} pixels differ" if count else None


def first_line(committed: str, rebuilt: str) -> str:
    """Number and text of the first line that differs, cut to the place where it does."""
    pairs = zip_longest(committed.split("\n"), rebuilt.split("\n"))
    for number, (one, other) in enumerate(pairs, 1):
        if one is None or other is None:
            return (
                f"line {number}: {'missing' if one is None else 'one more than the metrics give'}"
            )
        if one != other:
            at = next(i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b)
            start, end = max(0, at - CONTEXT), at + CONTEXT
            return f"line {number}: {one[start:end]!r}; rebuilt {other[start:end]!r}"
    return "other line ends than the metrics give"

"""Outputs that appear whole or not at all, and digests of what was read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesa.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

GIB = 2**30


def named_folder(path: str, key: str) -> Path:
    """The folder that the parameter `key` names, `~` its user's home. Raises UserError for none."""
    try:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"{key}: {path}: no such folder")
    except (OSError, RuntimeError) as error:  # too long a name, a home that is not known
        raise UserError(f"{key}: {path}: cannot be read ({error})") from None
    return folder


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it to `path` on success, remove it on error."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial, path)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to, beside `path`; rename it to `path` on success, else remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically, making parent folders."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, sorted and indented; NaN and infinities raise ValueError."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, values: Iterable[Any]) -> None:
    """Write each value as JSON in a line of its own, atomically."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises UserError, one line, where it cannot be read or is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _finite(number: str) -> float:
    """Python reads NaN and infinities, which JSON does not have."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number")
    return value


def read_object(path: str | Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises UserError, one line, for anything else."""
    if not isinstance(value := read_json(path), dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value


def sha256(path: str | Path) -> str:
    """Hex digest of one file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: str | Path) -> str:
    """Hex digest of every file's name and content below `folder`, in name order."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{sha256(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def work_folder(path: str | Path, key: str) -> Iterator[Path]:
    """A folder for unfinished work, kept when the work is stopped and removed when it is done, or
    if nothing of it is.

    `key` names everything the work depends on: with another key than the one it was left with,
    the folder is emptied first, so nothing stale is resumed. Raises UserError for a link, and for
    a folder that holds anything and was not left here.
    """
    path = Path(path)
    marker = path / "KEY"
    if path.is_symlink():
        raise UserError(f"{path}: is a link; unfinished work is kept in a folder; remove the link")
    if not marker.is_file():
        if path.is_dir() and any(found.name != ".KEY.partial" for found in path.iterdir()):
            raise UserError(f"{path}: is kept for unfinished work; move what is there away")
        write_text(marker, key)
    elif marker.read_bytes() != key.encode():
        _remove(path, marker)
        write_text(marker, key)
    try:
        yield path
    except BaseException:
        if list(path.iterdir()) == [marker]:
            shutil.rmtree(path)
        raise
    _remove(path, marker)


def _remove(folder: Path, last: Path) -> None:
    """Remove a folder, of its content the file `last` after all else. It is emptied first: what a
    stop in between leaves is no work of any key."""
    os.truncate(last, 0)
    for path in set(folder.iterdir()) - {last}:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(folder)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """safetensors' `save_file`, with what the system refuses as the OSError of Python's writes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # here, as torch takes seconds to import

    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        if (said := re.search(r"os error (\d+)", str(error))) is None:
            raise
        number = int(said[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def key_of(*parts: Any) -> str:
    """Hex digest of JSON-like values, for `work_folder`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def gib(size: float) -> str:
    """Bytes in GiB, or in MiB where they are less than one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"

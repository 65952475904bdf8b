"""Where a command's result goes: refused before anything is read, and made by one run at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesa.commands.evaluate import check_text
from lesa.errors import UserError


def work_of(out: Path) -> Path:
    """Where a command leaves what is to become `out` while it is unfinished."""
    return out.with_name(f".{out.name}.work")


def check_new(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: is there already; name a new folder, or remove it first")


def check_out(base: Path, out: Path, *texts: Path | None) -> None:
    """`out` is a new folder's name, in a folder that is there, and not inside of the base; nothing
    that is read lies where the unfinished work is emptied, and `texts` can be read."""
    check_new(out)
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} is not there; make it first")
    if base.resolve() in out.resolve().parents:
        raise UserError(f"{out}: lies in the base's folder {base}; name a folder outside of it")
    work = work_of(out).resolve()
    for path in filter(None, (base, *texts)):
        if path.resolve().is_relative_to(work):
            raise UserError(f"{path}: lies where unfinished work for {out} is kept; move it away")
    for path in filter(None, texts):
        check_text(path)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs from making `out` at the same time, by a lock that a kill frees.

    Raises UserError where one does or has, and where nothing can be written beside `out`.
    """
    path = out.with_name(f".{out.name}.lock")
    try:
        file = locked(path)
    except BlockingIOError:
        raise UserError(f"{out}: another run is making it; wait for it, or end it") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be made there ({error.strerror})") from None
    try:
        check_new(out)  # a run that has just ended may have made it
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is free: what is opened later is a new file
        os.close(file)


def locked(path: Path) -> int:
    """A descriptor of the file `path` with its lock. Raises BlockingIOError if another has it."""
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # of a run that ended in between, which has removed it

"""What a killed DVC leaves cut off: it writes its files of locks in place, and reads no broken one.

A stage that is forgotten by this is not run again: DVC's cache of runs knows its outputs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lesa.errors import UserError
from lesa.files import read_json
from pipelines.locks import git, lock_files, read_lock

RUNNING = ".dvc/tmp/rwlock"  # JSON: what running stages read and write


def committed(root: Path, name: str) -> bytes | None:
    """A file of git's last commit, if it has one of that name."""
    try:
        return git(root, "show", f"HEAD:{name}")
    except subprocess.CalledProcessError:
        return None


def mend(root: Path) -> Iterator[str]:
    """Put what git's last commit has in place of each broken file below `root`, or remove it where
    that has none; a line for each."""
    running = root / RUNNING
    for path in [*filter(Path.is_file, [running]), *lock_files(root)]:
        name = path.relative_to(root).as_posix()
        before = committed(root, name)
        if path.read_bytes() == before:
            continue  # as most are: to read them all takes two seconds
        try:
            read_json(path) if path == running else read_lock(path)
        except UserError:
            path.unlink() if before is None else path.write_bytes(before)
            end = "removed" if before is None else "the last commit's is back"
            yield f"{name}: cut off by a kill; {end}"


if __name__ == "__main__":
    for line in mend(Path()):
        print(line, file=sys.stderr)

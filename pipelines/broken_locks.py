"""What a killed DVC leaves cut off: it writes its files of locks in place, and reads no broken one.

A stage that is forgotten by this is not run again: DVC's cache of runs knows its outputs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from pipelines.locks import MAIN, STUDIES, read_yaml

RUNNING = ".dvc/tmp/rwlock"  # JSON: what running stages read and write


def read(path: Path) -> Any:
    if path.name == Path(RUNNING).name:
        return json.loads(path.read_bytes())
    return COMPILED_LOCKFILE_SCHEMA(read_yaml(path))


def mend(root: Path) -> Iterator[str]:
    """Put what git's last commit has in place of each broken file below `root`, or remove it where
    that has none; a line for each."""
    locks = [root / RUNNING, root / MAIN, *sorted((root / STUDIES).glob("*/dvc.lock"))]
    for path in filter(Path.is_file, locks):
        name = path.relative_to(root).as_posix()
        committed = subprocess.run(
            ["git", "show", f"HEAD:{name}"], cwd=root, check=False, capture_output=True
        )
        if not committed.returncode and path.read_bytes() == committed.stdout:
            continue  # as most are: to read them all takes two seconds
        try:
            read(path)
        except (ValueError, YAMLError, Invalid):
            if committed.returncode:
                path.unlink()
            else:
                path.write_bytes(committed.stdout)
            end = "removed" if committed.returncode else "the last commit's is back"
            yield f"{name}: cut off by a kill; {end}"


if __name__ == "__main__":
    for line in mend(Path()):
        print(line, file=sys.stderr)

"""Stage inputs: digests of the files outside of this repository that the parameters name.

It runs every time; the stages that read those files depend on the digests, so that an edited text
or checkpoint is noticed. Files that have not changed since are not read again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from lesa.errors import UserError
from lesa.files import named_folder, read_json, sha256, write_json
from lesa.params import FileText, Params, PathBase
from lesa.text.documents import text_files
from lesa.text.rows import readable
from pipelines.folders import WORK
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

FOLDER = Path("artifacts/inputs")
KNOWN = WORK / "inputs.json"


def named_files(params: Params) -> dict[str, list[Path]]:
    """The files that each reader names: the base's folder, the corpus's text, the mirror."""
    base, text, mirror = params.base, params.corpus.text, params.evaluate.mirror
    folder = named_folder(base.path, "base.path") if isinstance(base, PathBase) else None
    tasks = named_folder(mirror, "evaluate.mirror") if mirror and params.evaluate.tasks else None
    paths = text_files(text) if isinstance(text, FileText) else []
    return {"base": below(folder), "corpus": paths, "mirror": below(tasks)}


def below(folder: Path | None) -> list[Path]:
    """All files in a folder and in those that it links to, in name order."""
    seen: set[str] = set()  # a link may lead back
    found: list[Path] = []
    for where, folders, names in os.walk(folder, followlinks=True) if folder else ():
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [path for name in names if (path := Path(where) / name).is_file()]
    return sorted(found)


def digest(path: Path, known: dict[str, list[str]]) -> str:
    """Hex sha256 of a file's content, from `known` where size and time of change are the same."""
    with readable(path):
        stat = path.stat()
        seen = f"{stat.st_size} {stat.st_mtime_ns}"
        if known.get(str(path), [""])[0] != seen:
            known[str(path)] = [seen, sha256(path)]
    return known[str(path)][1]


def record(files: Mapping[str, list[Path]]) -> None:
    """Write the digests of each reader's files, by path, to artifacts/inputs/<reader>.json."""
    try:
        known: dict[str, list[str]] = read_json(KNOWN)
    except UserError:
        known = {}
    for reader, paths in files.items():
        found = {str(path): digest(path, known) for path in paths}
        write_json(FOLDER / f"{reader}.json", found)
    write_json(KNOWN, known)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    record(named_files(params))


if __name__ == "__main__":
    run_stage("inputs", work, measures=False)

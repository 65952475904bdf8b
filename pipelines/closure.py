"""The project's source files that a stage runs, and unfinished work that is of just these."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from lesa.files import key_of, tree_digest, work_folder
from pipelines.folders import WORK

ROOT = Path(__file__).parent.parent
PACKAGES = ("lesa", "baselines", "eval", "reports", "pipelines")
TABLES = {"baselines", "reports/claims"}  # folders that import all of their files
# Files of which neither the code nor what they alone import changes an output, and why.
WITHOUT_EFFECT = {
    "lesa/__init__.py": "loads the commands, which no stage runs, when it is asked for them",
    "lesa/errors.py": "exceptions: what the terminal is told",
    "lesa/redaction.py": "hides secrets in what is said",
    "lesa/params.py": "refuses what is wrong; the values that a stage reads are its params",
    "pipelines/closure.py": "tells what code there is",
    "pipelines/folders.py": "paths, which the stages' own files name, too",
    "pipelines/found.py": "says on the terminal what metrics hold",
    "pipelines/model_card.py": "writes to MLflow, and into releases, which are no stage's",
    "pipelines/provenance.py": "says where numbers come from",
    "pipelines/stage.py": "starts a stage and reports its errors; params go through as they are",
    "pipelines/tracking.py": "writes to MLflow alone",
}


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a source file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def source_of(name: str) -> Path | None:
    """The file of a dotted name; None where it is not a module of the project."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def closure(module: str) -> tuple[str, ...]:
    """Files with an effect that `module` runs, relative to the repository, sorted.

    The tables of methods and of claims import every file of their folder, which no statement says.
    Packages' empty files are left out.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = source_of(waiting.pop())
        if path is None or path in found or path.relative_to(ROOT).as_posix() in WITHOUT_EFFECT:
            continue
        found.add(path)
        waiting.extend(imported(path))
        folder = path.parent.relative_to(ROOT).as_posix()
        if path.name == "__init__.py" and folder in TABLES:
            dotted = folder.replace("/", ".")
            waiting.extend(f"{dotted}.{other.stem}" for other in path.parent.glob("*.py"))
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in found if path.stat().st_size))


def resumable(
    place: str, module: str, read: Iterable[Path], settings: Any
) -> AbstractContextManager[Path]:
    """`work_folder` artifacts/work/<place> of what `module` makes of the folders `read` and of
    JSON-like `settings`."""
    key = key_of(settings, [tree_digest(folder) for folder in read], code_digest(module))
    return work_folder(WORK / place, key)


def code_digest(module: str) -> str:
    """Hex digest of the content of `closure(module)`: part of the key of unfinished work."""
    digest = hashlib.sha256()
    for name in closure(module):
        digest.update(name.encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()

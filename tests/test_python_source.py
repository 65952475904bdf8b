"""Python source as text: pinned wheels and the standard library, split by package."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

import pytest

import lesa.downloads as module
from lesa.downloads import take_wheel
from lesa.errors import UserError
from lesa.text.python_source import (
    Package,
    PythonSource,
    heldout_texts,
    python_files,
    standard_library,
)
from tests.conftest import write_wheel


def wheel(folder: Path, name: str, files: dict[str, str]) -> Package:
    path = write_wheel(folder / f"{name}-1.0-py3-none-any.whl", files)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(requirement=f"{name}==1.0", sha256=digest, license="MIT")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose wheels a download returns, and pip any other; the working directory is
    empty."""
    served, here = tmp_path / "served", tmp_path / "here"
    served.mkdir()
    here.mkdir()

    pip = module.download

    def download(requirement: str, folder: Path, key: str) -> Path:
        name = f"{requirement.replace('==', '-')}-py3-none-any.whl"
        if not (served / name).is_file():
            return pip(requirement, folder, key)
        folder.mkdir()
        (folder / name).write_bytes((served / name).read_bytes())
        return folder / name

    monkeypatch.setattr(module, "download", download)
    monkeypatch.chdir(here)
    return served


def source(train: Package, heldout: Package, **changes: int) -> PythonSource:
    settings = {"min_characters": 10, "files_per_package": 2, "file_characters": 30}
    return PythonSource(
        train=[train], heldout=[heldout], block_size=8, seed=0, **(settings | changes)
    )


def test_packages_are_split_and_short_files_dropped(registry: Path) -> None:
    train = wheel(registry, "ours", {"ours/a.py": "x = 1\n" * 9, "ours/data.txt": "no " * 90})
    texts = {f"theirs/{i}.py": f"y = {i}\n" * 9 for i in range(4)} | {"theirs/short.py": "y"}
    files = python_files(source(train, wheel(registry, "theirs", texts)), "code.text")
    assert [f["id"] for f in files["heldout"]] == [f"theirs/theirs/{i}.py" for i in range(4)]
    assert {f["title"] for f in files["train"]} == {"python", "ours"}
    assert sum(f["title"] == "ours" for f in files["train"]) == 1
    theirs = train.model_copy(update={"requirement": "theirs==1.0"})
    beginnings = heldout_texts(source(train, theirs), files["heldout"], "key")
    assert [f["id"] for f in beginnings] == ["theirs/theirs/0.py", "theirs/theirs/2.py"]
    assert beginnings[1]["text"] == ("y = 2\n" * 9)[:30]


def test_copies_of_held_out_and_earlier_files_are_not_trained_on(registry: Path) -> None:
    code = "y = 1\n" * 9
    files = {"ours/new.py": "z = 1\n" * 9, "ours/again.py": "z = 1\n\n" * 9, "ours/theirs.py": code}
    train, heldout = wheel(registry, "ours", files), wheel(registry, "theirs", {"a.py": code})
    found = python_files(source(train, heldout), "code.text")
    assert [f["id"] for f in found["train"] if f["title"] == "ours"] == ["ours/ours/again.py"]
    assert [f["id"] for f in found["heldout"]] == ["theirs/a.py"]


def test_a_wheel_that_is_not_the_pinned_one_is_refused(registry: Path) -> None:
    package = wheel(registry, "ours", {"a.py": "x"})
    other = package.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(UserError, match=r"^code\.text\.train\.0\.sha256: ours-1\.0") as error:
        take_wheel(other.requirement, other.sha256, "code.text.train.0")
    assert "\n" not in str(error.value)
    assert not list(Path("artifacts").rglob("*.whl"))


def test_a_wheel_is_downloaded_once(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = wheel(registry, "ours", {"a.py": "x"})
    first = take_wheel(package.requirement, package.sha256, "key")
    monkeypatch.setattr(module, "download", None)
    assert take_wheel(package.requirement, package.sha256, "key") == first
    assert hashlib.sha256(first.read_bytes()).hexdigest() == package.sha256


def test_a_package_in_both_splits_and_too_few_files_are_told(registry: Path) -> None:
    package = wheel(registry, "ours", {"a.py": "x = 1\n" * 9})
    with pytest.raises(UserError, match=r"^key\.heldout: ours is in train, too"):
        python_files(source(package, package), "key")
    other = wheel(registry, "theirs", {"a.py": "x = 1\n" * 9})
    files = python_files(source(package, other), "key")["heldout"]
    with pytest.raises(
        UserError, match=r"^key\.files_per_package: 2, but theirs==1\.0 has 1 files"
    ):
        heldout_texts(source(package, other), files, "key")


def test_the_standard_library_has_its_modules_and_no_package() -> None:
    files = {file["id"]: file["text"] for file in standard_library()}
    root = Path(sysconfig.get_path("stdlib"))
    assert files["python/json/decoder.py"] == (root / "json/decoder.py").read_text()
    assert not [name for name in files if "site-packages" in name or "/test/" in name]

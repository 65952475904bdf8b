"""Outputs appear whole or not at all; digests see every change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lesa import files
from lesa.errors import UserError


def write_and_fail(folder: Path, error: type[BaseException] = RuntimeError) -> None:
    (folder / "half").write_text("x")
    raise error


def test_whole_folder_appears_at_its_end(tmp_path: Path) -> None:
    with files.whole_folder(tmp_path / "a" / "out") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whole_folder_leaves_nothing_on_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), files.whole_folder(tmp_path / "out") as partial:
        write_and_fail(partial, error)
    assert list(tmp_path.iterdir()) == []


def test_whole_folder_keeps_the_old_one_on_error_and_replaces_it_on_success(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files.whole_folder(out) as partial:
        (partial / "old").write_text("x")
    with pytest.raises(RuntimeError), files.whole_folder(out):
        raise RuntimeError
    assert [p.name for p in out.iterdir()] == ["old"]
    with files.whole_folder(out) as partial:
        (partial / "new").write_text("y")
    assert [p.name for p in out.iterdir()] == ["new"]


def test_whole_folder_starts_empty_after_a_kill(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "stale").write_text("x")
    with files.whole_folder(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_work_folder_is_kept_when_stopped_and_removed_when_done(tmp_path: Path) -> None:
    path = tmp_path / "work" / "a"
    with pytest.raises(RuntimeError), files.work_folder(path, "one") as work:
        write_and_fail(work)
    with files.work_folder(path, "one") as work:
        assert (work / "half").read_text() == "x"
    assert not path.exists()


def test_work_folder_that_nothing_was_done_in_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.work_folder(tmp_path / "a", "one"):
        raise RuntimeError
    assert not (tmp_path / "a").exists()


def test_work_folder_is_emptied_for_another_key(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.work_folder(tmp_path / "a", "one") as work:
        write_and_fail(work)
    with files.work_folder(tmp_path / "a", "two") as work:
        assert not (work / "half").exists()


def test_work_folder_that_is_another_s_is_left_alone(tmp_path: Path) -> None:
    """What a kill while the folder was made has left in it is not another's."""
    work = tmp_path / "a"
    work.mkdir()
    (work / ".KEY.partial").write_text("ke")
    with files.work_folder(work, "key"):
        pass
    assert not work.exists()
    work.mkdir()
    (work / "notes").write_text("mine")
    with pytest.raises(UserError, match="kept for unfinished work"), files.work_folder(work, "key"):
        pass
    assert (work / "notes").read_text() == "mine"


def test_a_work_folder_keeps_its_key_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it is removed, it is still a work folder, and what is left is not resumed."""

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    def work_that_is_killed() -> None:
        with files.work_folder(tmp_path / "a", "key") as work:
            (work / "part").mkdir()
            monkeypatch.setattr("shutil.rmtree", killed)

    with pytest.raises(KeyboardInterrupt):
        work_that_is_killed()
    monkeypatch.undo()
    assert (tmp_path / "a" / "KEY").is_file()
    with files.work_folder(tmp_path / "a", "key") as again:
        assert list(again.iterdir()) == [again / "KEY"]


def test_a_work_folder_of_another_s_bytes_or_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "KEY").write_bytes(b"\xff\xfe")
    with files.work_folder(tmp_path / "a", "key") as work:
        assert (work / "KEY").read_text() == "key"
    (tmp_path / "roomy").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "roomy")
    with (
        pytest.raises(UserError, match="link: is a link; unfinished work"),
        files.work_folder(tmp_path / "link", "key"),
    ):
        pass


def test_key_of_sees_values_and_not_the_order_of_keys() -> None:
    assert files.key_of({"a": 1, "b": [2]}, 3) == files.key_of({"b": [2], "a": 1}, 3)
    assert files.key_of({"a": 1}, 3) != files.key_of({"a": 1}, 4)
    assert files.key_of(1, 2) != files.key_of([1, 2])


def test_json_is_sorted_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"b": 0.1, "a": [1, None]})
    assert path.read_text().splitlines()[1].strip().startswith('"a"')
    assert path.read_text().endswith("}\n")
    assert files.read_json(path) == {"a": [1, None], "b": 0.1}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            files.write_json(path, {"a": value})
    assert files.read_json(path) == {"a": [1, None], "b": 0.1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_digest_tells_other_content_and_other_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"text")
    (tmp_path / "a").write_bytes(b"")
    assert files.sha256(tmp_path / "b" / "c") == hashlib.sha256(b"text").hexdigest()
    before = files.tree_digest(tmp_path)
    assert files.tree_digest(str(tmp_path)) == before
    (tmp_path / "b" / "c").write_bytes(b"Text")
    changed = files.tree_digest(tmp_path)
    (tmp_path / "b" / "c").write_bytes(b"text")
    (tmp_path / "a").rename(tmp_path / "d")
    assert len({before, changed, files.tree_digest(tmp_path)}) == 3


def test_a_name_that_is_no_text_has_a_digest(tmp_path: Path) -> None:
    """Names are bytes; those that are UTF-8 count as such."""
    names = ["naïve".encode(), b"\xff"]
    digest = hashlib.sha256()
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"text")
        digest.update(name + f"\0{hashlib.sha256(b'text').hexdigest()}\n".encode())
    assert files.tree_digest(tmp_path) == digest.hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1', "not JSON"),
        (b'{"a": NaN}', "not JSON (NaN is no number)"),
        (b'{"a": [1e999]}', "not JSON (1e999 is no number)"),
        (b"[" * 100000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "must hold a JSON object"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_json_object_is_one_line(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_object(path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)

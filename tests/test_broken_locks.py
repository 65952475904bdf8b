"""Locks that a killed DVC left cut off, in a repository of two stages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipelines.broken_locks import RUNNING, mend
from tests.conftest import OWN_PATH

PIPELINE = """
stages:
  first: {cmd: "echo first >> runs; cp zero one", deps: [zero], outs: [one]}
  second: {cmd: "echo second >> runs; cp one two", deps: [one], outs: [two]}
"""


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=OWN_PATH, check=False, capture_output=True, text=True
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "zero").write_text("0")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        assert command(tmp_path, *words).returncode == 0
    return tmp_path


@pytest.mark.parametrize("cut", ["in a stage", "in a word", "empty"])
def test_a_cut_off_lock_is_removed_and_no_stage_is_run_again(repository: Path, cut: str) -> None:
    lock = repository / "dvc.lock"
    whole = lock.read_text()
    second = whole.index("second:")
    ends = {"in a stage": whole.index("outs:", second) + 8, "in a word": second + 4, "empty": 0}
    lock.write_text(whole[: ends[cut]])
    if cut == "in a stage":
        assert command(repository, "dvc", "repro").returncode != 0
    assert list(mend(repository)) == ["dvc.lock: cut off by a kill; removed"]
    again = command(repository, "dvc", "repro")
    assert again.returncode == 0, again.stdout + again.stderr
    assert lock.read_text() == whole
    assert (repository / "runs").read_text() == "first\nsecond\n"


def test_what_git_has_of_a_lock_is_put_back(repository: Path) -> None:
    lock = repository / "dvc.lock"
    whole = lock.read_bytes()
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    assert command(repository, "git", "add", "dvc.lock").returncode == 0
    assert command(repository, "git", *name, "commit", "-qm", "Lock").returncode == 0
    lock.write_bytes(whole[: whole.index(b"outs:") + 8])
    assert list(mend(repository)) == ["dvc.lock: cut off by a kill; the last commit's is back"]
    assert lock.read_bytes() == whole


def test_a_studys_lock_and_the_file_of_running_stages(repository: Path) -> None:
    study = repository / "pipelines/studies/start/dvc.lock"
    study.parent.mkdir(parents=True)
    study.write_text("schema: '2.0'\nstages:\n  start@a:\n    cmd: x\n    outs:\n    -")
    running = repository / RUNNING
    running.write_text("")
    assert len(list(mend(repository))) == 2
    assert not study.exists()
    assert not running.exists()


def test_whole_files_are_left_alone(repository: Path) -> None:
    running, lock = repository / RUNNING, repository / "dvc.lock"
    running.write_text("{}")
    before = lock.read_bytes()
    assert list(mend(repository)) == []
    assert lock.read_bytes() == before
    assert running.read_text() == "{}"

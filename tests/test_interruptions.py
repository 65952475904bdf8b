"""The smoke profile under `dvc repro`, stopped by kills, a full disk or a damaged cache.

A stage that is run again must end with the outputs and metrics of a run that nothing disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lesa.files import tree_digest
from pipelines.broken_locks import mend
from reports.comparison import untimed
from tests.conftest import OWN_PATH

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[1]
# Each stage's output and metrics.
STAGES: dict[str, tuple[str, str | None]] = {
    "extract": ("artifacts/extract", None),
    "fit@paper-0": ("artifacts/fit/paper/0", "metrics/fit/paper-0.json"),
    "expand@lesa": ("artifacts/init/lesa", "metrics/expand/lesa.json"),
    "pretrain@lesa": ("artifacts/trained/lesa", "metrics/pretrain/lesa.json"),
}
KILLS = 8  # of each stage
FULL = 3  # times that each stage meets a full disk


@dataclass(frozen=True)
class Result:
    """What a stage leaves; an entry is None where there is nothing."""

    output: str | None
    metrics: Any

    def within(self, whole: Result) -> bool:
        """Is all that there is whole?"""
        return self.output in (None, whole.output) and self.metrics in (None, whole.metrics)


def result(folder: Path, stage: str) -> Result:
    output, metrics = STAGES[stage]
    path = folder / metrics if metrics else None
    return Result(
        tree_digest(folder / output) if (folder / output).exists() else None,
        untimed(json.loads(path.read_text())) if path and path.exists() else None,
    )


def forget(folder: Path, stage: str) -> None:
    """Remove what the stage leaves, that nothing old is taken for new."""
    output, metrics = STAGES[stage]
    shutil.rmtree(folder / output, ignore_errors=True)
    if metrics:
        (folder / metrics).unlink(missing_ok=True)


def start(folder: Path, stage: str) -> subprocess.Popen[str]:
    """Forced: DVC would hand out the old output from its cache in place of a run."""
    return subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", stage],
        cwd=folder,
        env=OWN_PATH,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, stage: str) -> tuple[int, str]:
    process = start(folder, stage)
    said, _ = process.communicate()
    return process.returncode, said


def again(folder: Path, stage: str, whole: Result) -> None:
    """Run to the end and compare."""
    status, said = run(folder, stage)
    assert status == 0, said
    assert result(folder, stage) == whole


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile of what git tracks here, run up to the stages in question."""
    folder = tmp_path_factory.mktemp("interrupted") / "clone"
    folder.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        measured = name.startswith("metrics/") and not name.startswith("metrics/grid/")
        if not measured and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink()
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "pipelines.profile", "smoke"],
        ["dvc", "repro", "pretrain@lesa"],
    ):
        subprocess.run(command, cwd=folder, env=OWN_PATH, check=True)
    return folder


@pytest.fixture(scope="module")
def wholes(clone: Path) -> dict[str, Result]:
    return {stage: result(clone, stage) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_moments(clone: Path, wholes: dict[str, Result], stage: str) -> None:
    chance = random.Random(stage)
    forget(clone, stage)
    begun = time.monotonic()
    again(clone, stage, wholes[stage])
    seconds = time.monotonic() - begun
    unfinished = 0
    for _ in range(KILLS):
        forget(clone, stage)
        process = start(clone, stage)
        # The first third is DVC's start and the imports.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(seconds / 3, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        list(mend(clone))  # as `make repro` does
        left = result(clone, stage)
        assert left.within(wholes[stage])
        unfinished += left.output is None
        again(clone, stage, wholes[stage])
    print(f"{stage}: {KILLS} kills in {seconds:.1f} s, {unfinished} before its output was there")
    assert unfinished


@pytest.fixture(scope="module")
def small_disk(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the clone on a filesystem of its own."""
    mount = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=192m", "lesa-small-disk", str(mount)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small filesystem is not permitted here: a full disk NOT tested")
    try:
        shutil.copytree(clone, mount / "clone", symlinks=True)
        yield mount / "clone"
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Take all but `left` bytes of the disk."""
    filler = folder / ".filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(folder).free - left))
    return filler


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk(small_disk: Path, wholes: dict[str, Result], stage: str) -> None:
    size = sum(p.stat().st_size for p in (small_disk / STAGES[stage][0]).rglob("*"))
    chance = random.Random(stage)
    for _ in range(FULL):
        forget(small_disk, stage)
        filler = fill(small_disk, chance.randrange(size))
        status, said = run(small_disk, stage)
        assert status != 0, said
        assert "Traceback" not in said, said[-6000:]
        assert "is full; free some space and run again" in said, said[-6000:]
        assert result(small_disk, stage).within(wholes[stage])
        filler.unlink()
        again(small_disk, stage, wholes[stage])


def damage(path: Path, way: str) -> None:
    """Change a byte in the middle, or cut the file in half; read-only files too."""
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    if way == "changed":
        content[len(content) // 2] ^= 0xFF
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)


@pytest.mark.parametrize("way", ["changed", "cut"])
def test_damaged_prefix_cache(clone: Path, wholes: dict[str, Result], way: str) -> None:
    blocks = sorted((clone / "artifacts/work/prefix").rglob("*.safetensors"))
    for path in blocks[::2]:
        damage(path, way)
    forget(clone, "pretrain@lesa")
    again(clone, "pretrain@lesa", wholes["pretrain@lesa"])


@pytest.mark.parametrize("way", ["changed", "cut"])
@pytest.mark.parametrize("stage", STAGES)
def test_damaged_output(clone: Path, wholes: dict[str, Result], stage: str, way: str) -> None:
    """With links from its cache, DVC's own copy is damaged with it."""
    damage(max((clone / STAGES[stage][0]).rglob("*.safetensors")), way)
    again(clone, stage, wholes[stage])

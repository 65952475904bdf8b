"""Tracking: nested runs in a real store, and stages that outlive a broken one."""

from __future__ import annotations

import argparse
import errno
import io
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from lesa.errors import CheckError, UserError
from lesa.files import write_json
from lesa.params import Params
from pipelines import stage, tracking
from pipelines.stage import run_stage
from pipelines.tracking import MlflowTracker, Tracker, clean, flatten, pipeline_id, track
from tests.families import save_family

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def here(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("LESA_PIPELINE_RUN", tmp_path.name)
    return tmp_path


def runs(store: str, pipeline: str) -> tuple[Any, list[Any]]:
    """The parent run of a pipeline run and its nested runs, oldest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    found = client.get_experiment_by_name("lesa")
    assert found is not None
    experiment = found.experiment_id
    (parent,) = client.search_runs([experiment], f"tags.pipeline_run = '{pipeline}'")
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return parent, client.search_runs([experiment], query, order_by=["start_time ASC"])


def test_stages_of_one_pipeline_run_share_a_parent(here: Path, store: str) -> None:
    write_json("metrics/base.json", {"digest": "abc"})
    Path("note.txt").write_text("kept")
    for name in ("svd", "fit-paper-0"):
        with track(name, "smoke", {"svd": {"method": "gram"}}) as log:
            log.params({"fit": {"seeds": [0, 1]}, "none": None})
            log.metrics({"loss": 2.0, "bad": float("nan")}, step=0)
            log.metrics({"loss": 1.0}, step=5)
            log.artifact("note.txt")
            log.tags({"stage": name})
    parent, nested = runs(store, here.name)
    assert [run.info.run_name for run in nested] == ["svd", "fit-paper-0"]
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    assert parent.data.params == {"svd.method": "gram"}
    assert nested[0].data.params == {"fit.seeds": "[0, 1]", "none": "null"}
    assert nested[0].data.metrics == {"loss": 1.0}
    assert nested[0].data.tags["model_digest"] == "abc"
    assert nested[0].data.tags["stage"] == "svd"


def test_a_stage_gives_the_pipeline_run_numbers_of_its_own(here: Path, store: str) -> None:
    """Two pipeline runs are compared by what their reports found."""
    Path("REPORT.md").write_text("found")
    Path("figures").mkdir()
    Path("figures/losses.svg").write_text("drawn")
    with track("report", "smoke", {}) as log:
        log.parent.metrics({"perplexity/lesa/trained": 23.5})
        log.parent.tags({"mlflow.note.content": "in words"})
        log.parent.artifact("REPORT.md")
        log.parent.artifact("figures")  # under its name, so that the report's links lead there
        log.parent.text("a card", "models/lesa.md")
    parent, (nested,) = runs(store, here.name)
    artifacts = Path(parent.info.artifact_uri)
    kept = {str(p.relative_to(artifacts)) for p in artifacts.rglob("*") if p.is_file()}
    assert kept == {"REPORT.md", "figures/losses.svg", "models/lesa.md"}
    assert parent.data.metrics == {"perplexity/lesa/trained": 23.5}
    assert parent.data.tags["mlflow.note.content"] == "in words"
    assert nested.data.metrics == {}


def test_failed_stage_fails_its_run_and_the_parent_for_good(here: Path, store: str) -> None:
    with pytest.raises(ZeroDivisionError), track("svd", "smoke", {}):
        _ = 1 / 0
    with track("fit", "smoke", {}):
        pass
    parent, nested = runs(store, here.name)
    assert [run.info.status for run in nested] == ["FAILED", "FINISHED"]
    assert parent.info.status == "FAILED"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "bogus://nowhere"])
def test_unreachable_store_is_one_warning(
    uri: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with track("svd", "smoke", {}) as log:
        log.metrics({"loss": 1.0})
    assert type(log) is Tracker
    assert capsys.readouterr().err.count("warning: MLflow tracking is off") == 1


def test_store_that_hangs_is_left_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import time

    monkeypatch.setattr(tracking, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "Run", lambda *args: time.sleep(1))
    with track("svd", "smoke", {}) as log:
        assert type(log) is Tracker
    assert "did not answer" in capsys.readouterr().err


def test_store_that_breaks_midway_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        calls = 0

        def log_batch(self, *args: object, **named: object) -> None:
            self.calls += 1
            raise RuntimeError("gone")

    log = MlflowTracker(Broken(), "run")
    log.metrics({"loss": 1.0})
    log.params({"a": 1})
    assert log.client.calls == 1
    assert capsys.readouterr().err.count("warning") == 1


class Process:
    """What `is_dvc` and `pipeline_id` use of psutil.Process."""

    def __init__(self, pid: int, *command: str, above: tuple[Process, ...] = ()) -> None:
        self.pid, self.command, self.above = pid, command, above

    def cmdline(self) -> list[str]:
        return list(self.command)

    def create_time(self) -> float:
        return 1000.2

    def parents(self) -> list[Process]:
        return list(self.above)


@pytest.mark.parametrize(
    "words",
    [("dvc", "repro"), ("/x/python3", "/x/bin/dvc", "repro"), ("python", "-m", "dvc", "repro")],
)
def test_pipeline_run_is_the_dvc_process_above(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LESA_PIPELINE_RUN", raising=False)
    shell, dvc = Process(2, "/bin/sh", "-c", "python -m pipelines.svd"), Process(3, *words)
    here = Process(1, "python", "-m", "pipelines.svd", above=(shell, dvc, Process(4, "make")))
    monkeypatch.setattr("psutil.Process", lambda: here)
    assert pipeline_id() == "3-1000"
    here.above = (shell, Process(4, "vi", "dvc"))
    assert pipeline_id() == "1-1000"


def test_names_and_values_are_made_acceptable() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": "x"}) == {"a.b.c": "1", "d": "x"}
    assert clean("loss@step=3 a/b.c-d") == "loss_step_3 a/b.c-d"


def toy(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    """A stage that fails in the way its argument says."""
    if args.what == "user":
        raise UserError("corpus.seed: wrong\nhere")
    if args.what == "full":
        raise OSError(errno.ENOSPC, "No space left", "out.bin")
    if args.what == "full, said by a library":
        raise SafetensorError("IoError: No space left on device (os error 28)")
    if args.what == "full, said by torch":
        raise RuntimeError("basic_ios::clear: iostream error")
    if args.what == "full, wrapped":
        try:
            raise sqlite3.OperationalError("database or disk is full")
        except sqlite3.OperationalError as error:
            raise ValueError("could not log") from error
    if args.what == "full, answered":
        try:
            raise OSError(errno.ENOSPC, "No space left", "out.bin")
        except OSError:
            raise KeyError("left over")  # noqa: B904 (a second error in an error's handling)
    if args.what == "read-only":
        raise OSError(errno.EROFS, "Read-only file system", "reports/.REPORT.md.partial")
    if args.what == "denied":
        raise PermissionError(errno.EACCES, "Permission denied", "reports")
    if args.what == "prints":
        print("λ – 1.5")
    if args.what == "check":
        raise CheckError("the model has diverged")
    if args.what == "bug":
        raise KeyError("bug")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The stage's command line, to be appended to; no store, a folder with the default params."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    monkeypatch.setattr(stage, "track", lambda *args: nullcontext(Tracker()))
    monkeypatch.setattr(sys, "argv", ["toy"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    yield sys.argv
    torch.set_num_threads(threads)


FULL = ("full", "full, said by a library", "full, said by torch", "full, wrapped", "full, answered")


@pytest.mark.parametrize(
    ("what", "line", "status"),
    [
        ("user", "error: corpus.seed: wrong here\n", 2),
        ("check", "error: the model has diverged\n", 1),
        (
            "read-only",
            "error: reports/.REPORT.md.partial: Read-only file system; must be yours to read and "
            "to write\n",
            2,
        ),
        ("denied", "error: reports: Permission denied; must be yours to read and to write\n", 2),
        *(
            (full, "error: the disk of {} is full; free some space and run again\n", 2)
            for full in FULL
        ),
    ],
)
def test_stage_turns_bad_input_and_a_bad_result_into_one_line(
    what: str, line: str, status: int, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command.append(what)
    with pytest.raises(SystemExit) as ended:
        run_stage("toy", toy, "what")
    assert ended.value.code == status
    assert capsys.readouterr().err == line.format(Path.cwd())


def test_stage_names_a_bad_param(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "surprise: 1\n")
    command.append("fine")
    with pytest.raises(SystemExit):
        run_stage("toy", toy, "what")
    assert capsys.readouterr().err.startswith("error: params.yaml: surprise: ")


def test_stage_says_before_any_fit_that_the_base_has_no_such_gaps(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage that makes the base finds that of other parameters there, and says nothing."""
    save_family("llama", Path("artifacts/base"))  # six layers, where the params' gaps end at 29
    capsys.readouterr()
    command.append("fine")
    with pytest.raises(SystemExit):
        run_stage("fit", toy, "what")
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "6 layers" in err
    run_stage("base", toy, "what", measures=False)


def test_stage_prints_where_there_is_ascii_alone(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command.append("prints")
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    run_stage("toy", toy, "what")
    sys.stdout.flush()
    assert terminal.getvalue().splitlines()[0] == b"? ? 1.5"


def test_stage_keeps_the_traceback_of_a_bug(command: list[str]) -> None:
    command.append("bug")
    with pytest.raises(KeyError):
        run_stage("toy", toy, "what")


def test_stage_settles_threads_and_seeds(command: list[str]) -> None:
    command.append("fine")
    run_stage("toy", toy, "what")
    first = torch.rand(3)
    run_stage("toy", toy, "what")
    assert torch.equal(first, torch.rand(3))
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))

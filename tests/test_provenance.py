"""What a stage leaves besides its outputs: where its numbers come from, and a line of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from lesa.files import read_json, write_json, write_text
from pipelines import found, provenance, stage
from pipelines.tracking import Tracker
from reports import first
from tests.test_report_synthetic import params, write
from tests.test_verify import consistent

PERPLEXITY = f"{math.exp(3.25):.4g}"  # of every model's documents, in the consistent metrics


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("run") / "metrics", optional=False)
    consistent(folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: str, **options: Any) -> None:
    """`python -m pipelines.<name> words…` of a stage that does nothing."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python", "-m", f"pipelines.{name}", *words])
    monkeypatch.setattr(stage, "track", lambda *_: nullcontext(Tracker()))
    monkeypatch.setattr(stage, "check_methods", lambda _: None)
    stage.run_stage(name, lambda *_: None, *(f"argument{i}" for i in range(len(words))), **options)


STUDY_LOCK = Path("pipelines/studies/budget/dvc.lock")


@pytest.fixture
def repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A commit with params.yaml, digests of model and text beside it."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params().model_dump(mode="json")))
    who = {f"GIT_{role}_{key}": "nobody@localhost" for role in ("AUTHOR", "COMMITTER")
           for key in ("NAME", "EMAIL")}  # fmt: skip
    write_text(STUDY_LOCK, "before: it is what a study's stage rewrites\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "All"]):
        subprocess.run(["git", *words], check=True, env={**os.environ, **who})
    write_text(STUDY_LOCK, "after: and no source\n")
    for name in ("base", "corpus"):
        write_json(f"metrics/{name}.json", {"digest": f"of {name}"})
    return tmp_path


def test_provenance_names_commit_seeds_digests_packages_and_machine(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "tasks")
    content = read_json("metrics/provenance/tasks.json")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert content["commit"] == head.stdout.strip()
    assert content["uncommitted_changes"] is False
    assert content["digests"] == {"model": "of base", "data": "of corpus"}
    assert content["seeds"]["corpus.seed"] == params().corpus.seed
    assert content["seeds"]["fit.runs.paper-1.seed"] == 1
    assert content["packages"]["torch"] == version("torch")
    assert content["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert content["seconds"] >= 0


def test_a_fit_names_its_arguments_and_no_text(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "LINES", {})
    run(monkeypatch, "fit", "paper", "0")
    content = read_json("metrics/provenance/fit-paper-0.json")
    assert content["command"] == "python -m pipelines.fit paper 0"
    assert content["digests"] == {"model": "of base"}


def test_changes_that_are_not_committed_are_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# changed\n")
    run(monkeypatch, "tasks")
    assert read_json("metrics/provenance/tasks.json")["uncommitted_changes"] is True


def test_a_stage_that_measures_nothing_and_a_second_process_leave_none(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report's own inputs would change with it, and two processes would write one file."""
    run(monkeypatch, "report", measures=False)
    monkeypatch.setenv("RANK", "1")
    run(monkeypatch, "tasks")
    assert not provenance.FOLDER.exists()


def test_a_line_says_what_the_metrics_hold(metrics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(metrics.parent)
    steps = json.loads((metrics / "pretrain" / "lesa.json").read_text())["steps"]
    start, end = (f"{steps[i]['heldout_perplexity']:.4g}" for i in (0, -1))
    said = found.line("pretrain", ["lesa"])
    assert said is not None
    assert said.startswith(f"held-out perplexity {start} before, {end} after 40 steps")
    assert "45 layers" in str(found.line("expand", ["lesa"]))
    assert f"perplexity of documents {PERPLEXITY}" in str(found.line("evaluate", ["init", "lesa"]))
    assert "134.5 million" in str(found.line("base", []))
    fit = json.loads((metrics / "fit" / "paper-0.json").read_text())["kinds"]["q_proj"]["heldout"]
    assert f"q_proj {fit['mse'] / fit['zero_mse']:.4g}" in str(found.line("fit", ["paper", "0"]))
    assert "gate_proj 576" in str(found.line("svd", []))
    assert "train 449,984" in str(found.line("corpus", []))
    assert found.line("extract", []) is None


def test_the_first_report_needs_no_training(metrics: Path, tmp_path: Path) -> None:
    for stage_name in ("expand", "evaluate/init"):
        (tmp_path / "metrics" / stage_name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "metrics" / stage_name).symlink_to(metrics / stage_name)
    first.write(params(), tmp_path / "metrics", tmp_path)
    rows = (tmp_path / "initialisation.md").read_text().splitlines()
    (lesa,) = (row for row in rows if row.startswith("| lesa "))
    cells = [cell.strip() for cell in lesa.strip("|").split("|")]
    assert cells == ["lesa", "45", "2", "0.93", PERPLEXITY]

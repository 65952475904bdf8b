"""Stage tasks: what is missing is found there, and what it wrote is scored from anywhere."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from eval.suite import stored
from lesa.errors import UserError
from lesa.params import Params, load
from pipelines import evaluate, tasks
from pipelines.tracking import Tracker
from tests.test_eval_harness import save_tiny, score
from tests.test_eval_mirror import PIQA
from tests.test_eval_offline import CHINESE, CODE, write_heldout, write_texts

ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository with held-out text, as the current folder."""
    monkeypatch.chdir(tmp_path)
    write_heldout(tmp_path / tasks.HELDOUT)
    return tmp_path


def params(**changes: Any) -> Params:
    options = {"offline_documents": 3, "offline_examples": 8} | changes
    found = load(ROOT / "params.yaml")
    return found.model_copy(update={"evaluate": found.evaluate.model_copy(update=options)})


def run(**changes: Any) -> dict[str, Any]:
    tasks.work(params(**changes), Tracker(), Namespace())
    metrics: dict[str, Any] = json.loads(tasks.METRICS.read_text())
    return metrics


def test_tasks_are_counted_and_name_no_folder_of_the_machine(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run()
    assert metrics == {
        "tasks": {"wiki_perplexity": 3, "wiki_last_word": 8, "wiki_continuation": 8},
        "left_out": {},
        "notes": {},
    }
    assert capsys.readouterr().out == ""
    suites = stored(tasks.FOLDER, [], None)
    assert [set(suite.names) for suite in suites] == [set(metrics["tasks"])]
    for path in tasks.FOLDER.rglob("*"):
        assert str(place) not in (path.read_text() if path.is_file() else "")


def test_ok_is_constant(place: Path) -> None:
    """Training depends on tasks.ok: another set of tasks must not change it."""
    run()
    first, folder = tasks.OK.read_bytes(), {p.name for p in tasks.FOLDER.rglob("*.jsonl")}
    write_texts(tasks.HELDOUT, [CODE])
    run()
    assert tasks.OK.read_bytes() == first
    assert {p.name for p in tasks.FOLDER.rglob("*.jsonl")} < folder


def test_left_out_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(tasks.HELDOUT, [CHINESE])
    metrics = run(offline_examples=4)
    assert metrics["tasks"] == {"wiki_perplexity": 1, "wiki_continuation": 4}
    assert list(metrics["left_out"]) == ["wiki_last_word"]
    assert list(metrics["notes"]) == ["wiki_perplexity"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wiki_last_word: left out: {metrics['left_out']['wiki_last_word']}"
    assert lines[1] == f"wiki_perplexity: {metrics['notes']['wiki_perplexity']}"


def test_scored_from_another_folder(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has no path of its own: moved, it is read by a process that runs elsewhere."""
    mirror = place / "mirror"
    (mirror / "baber/piqa").mkdir(parents=True)
    (mirror / "baber/piqa/validation.jsonl").write_bytes(PIQA * 3)
    assert run(tasks=["piqa"], mirror="mirror")["tasks"]["piqa"] == 3
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    moved = elsewhere / "moved"
    shutil.move(tasks.FOLDER, moved)
    monkeypatch.chdir(elsewhere)
    before = sorted(moved.rglob("*"))
    model = save_tiny(elsewhere / "tiny")
    found = [score(model, suite, limit=2) for suite in stored(Path("moved"), ["piqa"], "mirror")]
    scored = {name: task for scores in found for name, task in scores["tasks"].items()}
    assert {name: task["examples"] for name, task in scored.items()} == {
        "wiki_perplexity": 3,
        "wiki_last_word": 8,
        "wiki_continuation": 8,
        "piqa": 2,
    }
    assert sorted(moved.rglob("*")) == before  # scoring writes nothing into the stage's output


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tasks": ["blimp_nonsense"], "mirror": "mirror"}, "lm-eval has no task 'blimp_nonsense'"),
        ({"tasks": ["piqa"], "mirror": "nowhere"}, "evaluate.mirror: nowhere: no such folder"),
        ({"tasks": ["piqa"], "mirror": "mirror"}, "evaluate.mirror: no data for piqa"),
        ({"tasks": ["arc_easy"], "mirror": "mirror"}, "line 1: lacks the field"),
    ],
)
def test_found_before_training(place: Path, changes: dict[str, Any], reason: str) -> None:
    """Nothing is left that would let training start, nor half a folder."""
    folder = place / "mirror" / "allenai/ai2_arc/ARC-Easy"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_bytes(PIQA)  # of another task
    with pytest.raises(UserError, match=reason) as raised:
        run(**changes)
    assert "\n" not in str(raised.value)
    assert not tasks.OK.exists()
    assert not tasks.METRICS.exists()
    assert not list(place.glob("artifacts/*tasks*"))


def test_evaluate_reads_what_tasks_wrote(place: Path) -> None:
    changes = {"offline_documents": 2, "offline_examples": 4, "bootstrap_iters": 2}
    save_tiny(place / "artifacts/init/lesa")
    args = Namespace(phase="init", model="lesa")
    with pytest.raises(UserError, match="artifacts/tasks: not found; the tasks stage writes it"):
        evaluate.work(params(**changes), Tracker(), args)
    run(**changes)
    tasks.HELDOUT.unlink()
    evaluate.work(params(**changes), Tracker(), args)
    found = json.loads((place / "metrics/evaluate/init/lesa.json").read_text())
    assert {name: task["examples"] for name, task in found["tasks"].items()} == {
        "wiki_perplexity": 2,
        "wiki_last_word": 4,
        "wiki_continuation": 4,
    }

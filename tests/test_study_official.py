"""The study `official` on a tiny model: the official tasks' scores, in what the report reads."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import pytest
import yaml

from lesa.errors import UserError
from lesa.params import parse
from pipelines import official
from pipelines.studies.official import mirror
from pipelines.study import study_params
from pipelines.tracking import Tracker
from reports import measured
from reports import official as tables
from tests.pipeline import smoke
from tests.test_eval_harness import direct, save_tiny
from tests.test_eval_mirror import by_hand, shared  # noqa: F401
from tests.test_report_synthetic import params as synthetic_params
from tests.test_report_synthetic import write

PATH = Path("pipelines/studies/official/params.yaml")
TASKS = {"arc_easy": 5, "piqa": 3, "blimp": 1}


def test_every_checkpoint_is_called_as_its_metrics_are() -> None:
    rows = study_params("official", "official", dict[str, official.Scored])
    for name, scored in rows.items():
        assert name == f"{scored.model}-{scored.phase}"
        assert scored.model.endswith(f"-{scored.seed}") == (scored.seed > 0)
        folder = scored.folder.replace("lesa_other_digits", "lesa")
        run = scored.model.removesuffix(f"-{scored.seed}")
        if scored.phase == "trained":
            assert folder == f"artifacts/budget/{run}-{scored.seed}/checkpoint"
        if scored.phase == "longer":
            own = folder.replace("_again", "")
            assert own == f"artifacts/budget/{run}_256-{scored.seed}/checkpoint"


def test_scores_are_lm_evals_and_the_report_shows_them(
    shared: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    one = {"model": "base", "phase": "init", "folder": str(tiny)}
    study = {"mirror": str(shared), "tasks": TASKS, "official": {"base-init": one}}
    PATH.write_text(yaml.safe_dump(study))
    tree = smoke()
    tree["evaluate"]["dtype"] = "float32"  # as it is scored by hand
    params = parse(tree, "params.yaml")
    official.work(params, Tracker(), argparse.Namespace(checkpoint="base-init"))
    found = json.loads(Path("artifacts/official/base-init.json").read_text())
    names = ["arc_easy", "piqa"]
    for name in names:
        results = direct(tiny, [name], by_hand(tmp_path / name, [name], shared), TASKS[name])
        accuracy = found["tasks"][name]["metrics"]["acc"]
        assert accuracy["value"] == pytest.approx(results[name]["acc,none"])
        assert len(accuracy["examples"]) == TASKS[name]
    blimp = found["tasks"]["blimp"]["metrics"]["acc"]
    assert len(blimp["examples"]) == 67
    assert blimp["value"] == pytest.approx(sum(blimp["examples"]) / 67)
    metrics = write(tmp_path / "synthetic")
    for path in (metrics / "official").iterdir():
        path.unlink()
    found["profile"] = synthetic_params().profile
    (metrics / "official" / "base-init.json").write_text(json.dumps(found))
    (row,) = tables.table(measured.load(metrics, synthetic_params())).rows
    values = [found["tasks"][name]["metrics"]["acc"]["value"] for name in TASKS]
    assert row["average"] == pytest.approx(100 * sum(values) / 3)


def test_an_edited_mirror_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    PATH.write_text(yaml.safe_dump({"mirror": "data"}))
    split = tmp_path / "data" / "piqa" / "validation.jsonl"
    split.parent.mkdir(parents=True)
    found = []
    for content in ("a", "b"):
        split.write_text(content)
        mirror.work(parse(smoke(), "params.yaml"), Tracker(), argparse.Namespace())
        found.append(json.loads(Path("artifacts/inputs/official.json").read_text()))
    digests = [hashlib.sha256(content).hexdigest() for content in (b"a", b"b")]
    assert found == [{"data/piqa/validation.jsonl": digest} for digest in digests]


def test_another_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    PATH.write_text(yaml.safe_dump({"mirror": "m", "tasks": {}, "official": {}}))
    with pytest.raises(UserError, match=r"official\.mine: missing; there are "):
        official.work(
            parse(smoke(), "params.yaml"), Tracker(), argparse.Namespace(checkpoint="mine")
        )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mirror", "nowhere", "mirror: nowhere: no such folder"),
        ("mirror", 3, "mirror: Input should be a valid string (got 3)"),
        ("tasks", {"piqa": 0}, "tasks.piqa: Input should be greater than 0 (got 0)"),
        ("tasks", {"nonesuch": 1}, "tasks: lm-eval has no task 'nonesuch'"),
        ("official", {"base-init": {}}, "official.base-init.model: Field required"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(
    key: str, value: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    one = {"model": "base", "phase": "init", "folder": "x"}
    study = {"mirror": str(tmp_path), "tasks": {"piqa": 1}, "official": {"base-init": one}}
    PATH.write_text(yaml.safe_dump(study | {key: value}))
    with pytest.raises(UserError) as raised:
        official.work(
            parse(smoke(), "params.yaml"), Tracker(), argparse.Namespace(checkpoint="base-init")
        )
    assert str(raised.value) == f"{PATH}: {said}"

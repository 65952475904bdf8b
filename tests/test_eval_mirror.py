"""Official tasks on a dataset mirror: the official task, with its data from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval import mirror
from eval.harness import evaluate
from lesa.errors import UserError
from tests.test_eval_harness import assert_same, direct, save_tiny

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "datasets"
MODEL = ROOT / "artifacts" / "init" / "base"
TASKS = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "lambada_openai"]
# Scores of the default base model in float32 on the first 40 examples of each task's mirror.
KNOWN = {
    "arc_easy": ("acc", 0.475),
    "piqa": ("acc", 0.725),
    "hellaswag": ("acc_norm", 0.45),
    "winogrande": ("acc", 0.475),
    "lambada_openai": ("acc", 0.325),
}


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no dataset mirror at {SHARED}: the official tasks are NOT tested")
    return SHARED


def by_hand(folder: Path, names: list[str], data: Path) -> Path:
    """YAMLs that include the official ones, written apart from the code under test."""
    places = {
        "arc_easy": ("arc/arc_easy.yaml", "allenai/ai2_arc/ARC-Easy", "test"),
        "arc_challenge": ("arc/arc_challenge.yaml", "allenai/ai2_arc/ARC-Challenge", "test"),
        "hellaswag": ("hellaswag/hellaswag.yaml", "Rowan/hellaswag", "validation"),
        "piqa": ("piqa/piqa.yaml", "baber/piqa", "validation"),
        "winogrande": (
            "winogrande/default.yaml", "allenai/winogrande/winogrande_xl", "validation"
        ),
        "lambada_openai": (
            "lambada/lambada_openai.yaml", "EleutherAI/lambada_openai/default", "test"
        ),
        "blimp_causative": ("blimp/causative.yaml", "nyu-mll/blimp/causative", "train"),
    }  # fmt: skip
    folder.mkdir()
    for name in names:
        official, place, split = places[name]
        config: dict[str, Any] = {
            "include": str(mirror.OFFICIAL / official),
            "task": name,
            "dataset_path": str((data / place).resolve()),
            "dataset_name": None,
            "training_split": None,
        }
        if split == "test":
            config["validation_split"] = None
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_equals_lm_eval(shared: Path, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    names = [*TASKS, "blimp_causative"]
    suite = mirror.mirrored(names, shared, tmp_path / "mirror")
    scores = evaluate(tiny, [suite], dtype="float32", batch_size=4, limit=3, bootstrap_iters=50)
    results = direct(tiny, names, by_hand(tmp_path / "by_hand", names, shared), 3)
    assert_same(scores, results, names)
    for name in names:
        assert scores["tasks"][name]["source"] == "mirror"
        assert scores["tasks"][name]["examples"] == 3


def test_blimp_is_a_group(shared: Path, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    suite = mirror.mirrored(["blimp"], shared, tmp_path / "mirror")
    scores = evaluate(tiny, [suite], dtype="float32", batch_size=16, limit=2, bootstrap_iters=2)
    blimp = scores["tasks"]["blimp"]
    members = [member["metrics"]["acc"]["value"] for member in blimp["subtasks"].values()]
    assert set(scores["tasks"]) == {"blimp"}
    assert len(members) == 67
    assert blimp["examples"] == 134
    assert blimp["metrics"]["acc"]["value"] == pytest.approx(sum(members) / 67)
    assert blimp["metrics"]["acc"]["stderr"] > 0


def test_missing_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(UserError, match=r"evaluate\.mirror: .*no such folder"):
        mirror.mirrored(["piqa"], data, tmp_path / "out")
    folder = data / "allenai/ai2_arc/ARC-Easy"
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_text("{}\n")  # not the split arc_easy is scored on
    for name, place in (("piqa", "baber/piqa"), ("arc_easy", "allenai/ai2_arc/ARC-Easy")):
        with pytest.raises(UserError) as raised:
            mirror.mirrored([name], data, tmp_path / "out")
        message = str(raised.value)
        assert name in message
        assert str(data / place) in message
        assert "\n" not in message
    with pytest.raises(UserError, match="blimp_"):
        mirror.mirrored(["blimp"], data, tmp_path / "out")


def test_unreadable_data(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "baber/piqa"
    folder.mkdir(parents=True)
    for text in ("", "not json\n"):
        (folder / "validation.jsonl").write_text(text)
        with pytest.raises(UserError, match="piqa"):
            mirror.mirrored(["piqa"], tmp_path / "data", tmp_path / f"out{len(text)}").load()


def test_a_task_twice(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "baber/piqa"
    folder.mkdir(parents=True)
    row = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}
    (folder / "validation.jsonl").write_text(json.dumps(row) + "\n")
    suite = mirror.mirrored(["piqa", "piqa"], tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match="twice"):
        suite.load()


def test_unknown_task(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="blimp_nonsense"):
        mirror.mirrored(["blimp_nonsense"], tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match="blimp_nonsense"):
        mirror.hub(["blimp_nonsense"]).load()


@pytest.mark.slow
def test_real_model(shared: Path, tmp_path: Path) -> None:
    if not (MODEL / "config.json").is_file():
        pytest.skip(f"no base model at {MODEL}: run the base stage first")
    names = list(KNOWN)
    suite = mirror.mirrored(names, shared, tmp_path / "mirror")
    scores = evaluate(MODEL, [suite], dtype="float32", batch_size=4, limit=40, bootstrap_iters=50)
    results = direct(MODEL, names, by_hand(tmp_path / "by_hand", names, shared), 40)
    assert_same(scores, results, names)
    license_note = MODEL / "LICENSE_NOTE.json"
    if license_note.is_file() and "SmolLM2-135M" not in license_note.read_text():
        pytest.skip("agrees with lm-eval; the known scores are of SmolLM2-135M-Instruct only")
    for name, (metric, value) in KNOWN.items():
        assert scores["tasks"][name]["metrics"][metric]["value"] == pytest.approx(value), name

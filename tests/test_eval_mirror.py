"""Official tasks on a dataset mirror: the official task, with its data from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from eval import mirror
from eval.suite import OFFICIAL, Suite, hub
from eval.suite import mirrored as stored
from lesa.errors import UserError
from lesa.files import named_folder
from pipelines import inputs
from tests.test_eval_harness import assert_same, direct, save_tiny, score

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "datasets"
MODEL = ROOT / "artifacts" / "base"
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


def mirrored(names: list[str], data: Path, folder: Path) -> Suite:
    mirror.write(names, str(data), folder)
    return stored(names, folder)


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
            "include": str(OFFICIAL / official),
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
    suite = mirrored(names, shared, tmp_path / "mirror")
    scores = score(tiny, suite, limit=3)
    results = direct(tiny, names, by_hand(tmp_path / "by_hand", names, shared), 3)
    assert_same(scores, results, names)
    for name in names:
        assert scores["tasks"][name]["source"] == "mirror"
        assert scores["tasks"][name]["examples"] == 3


def test_blimp_is_a_group(shared: Path, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    suite = mirrored(["blimp"], shared, tmp_path / "mirror")
    scores = score(tiny, suite, batch_size=16, limit=2, bootstrap_iters=2)
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
        mirrored(["piqa"], data, tmp_path / "out")
    folder = data / "allenai/ai2_arc/ARC-Easy"
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_text("{}\n")  # not the split arc_easy is scored on
    for name, place in (("piqa", "baber/piqa"), ("arc_easy", "allenai/ai2_arc/ARC-Easy")):
        with pytest.raises(UserError) as raised:
            mirrored([name], data, tmp_path / "out")
        message = str(raised.value)
        assert name in message
        assert str(data / place) in message
        assert "\n" not in message
    with pytest.raises(UserError, match="blimp_"):
        mirrored(["blimp"], data, tmp_path / "out")


def test_a_mirror_may_be_below_the_users_home_and_behind_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read behind a link is noticed when it changes, and a link back is no loop."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "there" / "piqa").mkdir(parents=True)
    (tmp_path / "there" / "piqa" / "validation.jsonl").write_bytes(PIQA)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "baber").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "mirror")
    assert mirrored(["piqa"], Path("~/mirror"), tmp_path / "out").check() == {"piqa": 1}
    folder = named_folder("~/mirror", "evaluate.mirror")
    (found,) = inputs.below(folder)
    assert found == folder / "baber" / "piqa" / "validation.jsonl"
    with pytest.raises(UserError, match=r"^evaluate\.mirror: x+: cannot be read"):
        named_folder("x" * 5000, "evaluate.mirror")


PIQA = b'{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no row"),
        (b"not json\n", "line 1: not JSON"),
        (PIQA + PIQA[:30], "line 2: not JSON"),
        (PIQA.replace(b'"a"', b'"\xff"'), "line 1: byte 0xff is not UTF-8"),
        (PIQA + b"3\n", "line 2: not a JSON object"),
        (PIQA + b'{"goal": "g", "sol1": "a", "label": 0}\n', "line 2: lacks the field 'sol2'"),
        (b'{"goal": "g", "sol1": "a", "label": 0}\n', "line 1: lacks the field 'sol2'"),
        (PIQA + PIQA.replace(b'"b"', b'["b"]'), "piqa"),
    ],
)
def test_unreadable_data(content: bytes, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "baber/piqa"
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=reason) as raised:
        mirrored(["piqa"], tmp_path / "data", tmp_path / "out").check()
    assert "\n" not in str(raised.value)
    assert "piqa" in str(raised.value)


def test_damaged_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "baber/piqa"
    folder.mkdir(parents=True)
    (folder / "validation.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"validation\.parquet: damaged at row 1") as raised:
        mirrored(["piqa"], tmp_path / "data", tmp_path / "out").check()
    assert "\n" not in str(raised.value)


def test_layouts_of_the_same_rows(tmp_path: Path) -> None:
    """A byte order mark, empty lines, other line ends and parquet change nothing."""
    import pandas

    rows = [json.loads(PIQA), json.loads(PIQA.replace(b'"label": 0', b'"label": 1'))]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    seen = []
    for number, content in enumerate(
        (text, b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n\r\n"), None)
    ):
        folder = tmp_path / str(number) / "baber/piqa"
        folder.mkdir(parents=True)
        if content is None:
            pandas.DataFrame(rows).to_parquet(folder / "validation.parquet")
        else:
            (folder / "validation.jsonl").write_bytes(content)
        suite = mirrored(["piqa"], tmp_path / str(number), tmp_path / f"out{number}")
        assert suite.check() == {"piqa": 2}
        (task,) = suite.load()
        assert isinstance(task, Task)
        seen.append(list(task.eval_docs))
    assert all(docs == rows for docs in seen)


def test_a_task_twice(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "baber/piqa"
    folder.mkdir(parents=True)
    row = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}
    (folder / "validation.jsonl").write_text(json.dumps(row) + "\n")
    suite = mirrored(["piqa", "piqa"], tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match="twice"):
        suite.load()


def test_unknown_task(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="blimp_nonsense"):
        mirrored(["blimp_nonsense"], tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match="blimp_nonsense"):
        hub(["blimp_nonsense"]).load()


def test_a_group_of_tags_is_a_group_of_tasks(tmp_path: Path) -> None:
    """MMLU's groups name tags; its 57 subjects are read from the mirror, each its own data."""
    row = {"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 1}
    index = TaskManager().task_index
    place = OFFICIAL / "mmlu" / "default"
    entries = [entry for entry in index.values() if entry.kind is Kind.TASK and entry.yaml_path]
    tasks = [entry.cfg for entry in entries if entry.yaml_path.parent == place]
    assert len(tasks) == 57
    for number, config in enumerate(tasks, start=1):
        folder = tmp_path / "data" / config["dataset_path"] / config["dataset_name"]
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text((json.dumps(row) + "\n") * number)
    suite = mirrored(["mmlu"], tmp_path / "data", tmp_path / "out")
    assert suite.check() == {"mmlu": 57 * 58 // 2}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("squadv2", "reads its data by code of its own"),
        ("ai2_arc", "is a tag; name its tasks: arc_challenge, arc_easy"),
    ],
)
def test_what_no_mirror_can_serve_is_told(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError) as raised:
        mirrored([name], tmp_path / "data", tmp_path / "out")
    assert str(raised.value).startswith(f"evaluate.tasks: {name} {said}")


@pytest.mark.slow
def test_real_model(shared: Path, tmp_path: Path) -> None:
    if not (MODEL / "config.json").is_file():
        pytest.skip(f"no base model at {MODEL}: run the base stage first")
    names = list(KNOWN)
    suite = mirrored(names, shared, tmp_path / "mirror")
    scores = score(MODEL, suite, limit=40)
    results = direct(MODEL, names, by_hand(tmp_path / "by_hand", names, shared), 40)
    assert_same(scores, results, names)
    license_note = MODEL / "LICENSE_NOTE.json"
    if license_note.is_file() and "SmolLM2-135M" not in license_note.read_text():
        pytest.skip("agrees with lm-eval; the known scores are of SmolLM2-135M-Instruct only")
    for name, (metric, value) in KNOWN.items():
        assert scores["tasks"][name]["metrics"][metric]["value"] == pytest.approx(value), name

"""The studies `scale` and `rates` on the smoke profile: their text, runs and searches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import lesa.text.python_source as python_source
from lesa.errors import UserError
from lesa.files import tree_digest
from lesa.params import Params
from lesa.training.blocks import load_blocks, tokens_of
from pipelines import choose_rate, rates, scale
from pipelines.phases import Training
from pipelines.rates import LADDER, lowest
from pipelines.rows import chosen, write_row
from pipelines.studies.budget import text as second_text
from pipelines.studies.scale import text
from pipelines.tracking import Tracker
from tests.pipeline import smoke, up_to_svd
from tests.test_python_source import registry, wheel
from tests.test_study_budget import STUDY

__all__ = ["registry"]  # a fixture
SIZE, BLOCKS = 64, 2


def write(study: str, tree: dict[str, Any]) -> None:
    path = Path(f"pipelines/studies/{study}/params.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree))


@pytest.fixture
def params(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """What the studies start from, in the working directory; the standard library is a file."""
    library = python_source.document("python", "a.py", b"import this\n" * 20)
    monkeypatch.setattr(python_source, "standard_library", lambda: iter([library]))
    copied = "def copied():\n    return 'a file that two packages have'\n" * 60
    heldout = [
        wheel(registry, name, {f"{name}/{i}.py": f"{name} = {i}\n" * 400 for i in range(3)})
        for name in ("one", "two", "three", "four")
    ]
    heldout[0] = wheel(registry, "one", {"one/copy.py": copied, "one/a.py": "one = 1\n" * 900})
    train = wheel(
        registry,
        "ours",
        {"ours/copy.py": copied.replace("\n", "\n\n"), "ours/b.py": "total += value\n" * 900},
    )
    phases = [{"trains": "new", "steps": 4, "learning_rate": 1e-2}]
    source = {
        "min_characters": 10,
        "block_size": SIZE,
        "blocks_per_package": BLOCKS,
        "max_tokens": 40 * SIZE,
        "seed": 0,
        "train": [train.model_dump()],
        "heldout": [package.model_dump() for package in heldout],
    }
    study = {
        "text": source,
        "schedule": {"warmup": 0.25, "eval_every": 2, "save_every": 4},
        "batch": {"per_device_batch_size": 4, "prefix_cache": False},
        "scale": {"llama_pro-0": {"method": "llama_pro", "seed": 0, "phases": phases}},
    }
    write("scale", study)
    write("budget", STUDY)
    write(
        "rates",
        {
            "scale": {"llama_pro": {"run": "llama_pro-0", "begin": 1e-2, "steps": 2}},
            "budget": {"fitted": {"run": "fitted-0", "begin": 1e-2, "steps": 2}},
        },
    )
    tree = smoke()
    tree["train"]["bf16"] = False  # losses are compared to four decimals
    found = up_to_svd(tree)
    text.work(found, Tracker(), argparse.Namespace())
    second_text.work(found, Tracker(), argparse.Namespace())
    return found


def test_what_is_held_out_is_of_no_package_that_is_trained_on(params: Params) -> None:
    """Every other package is for validation, each gives as many blocks, and copies are left out."""
    splits = {s: load_blocks(scale.TEXT / s) for s in ("train", "test", "validation")}
    assert list(splits["test"]["document"]) == ["one"] * BLOCKS + ["three"] * BLOCKS
    assert list(splits["validation"]["document"]) == ["two"] * BLOCKS + ["four"] * BLOCKS
    owners = {name.partition("/")[0] for name in splits["train"]["document"]}
    assert owners == {"ours", "python"}
    assert "ours/ours/copy.py" not in set(splits["train"]["document"])
    assert len(splits["train"]) == 40
    assert {len(block) for split in splits.values() for block in split["input_ids"]} == {SIZE}
    assert json.loads((scale.TEXT / "SOURCE.json").read_text())["tokens"] == 40 * SIZE


def test_a_package_of_too_few_blocks_is_named(params: Params) -> None:
    path = Path("pipelines/studies/scale/params.yaml")
    tree = yaml.safe_load(path.read_text())
    tree["text"]["blocks_per_package"] = 10_000
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"text\.blocks_per_package: 10000, but one has \d+ blocks"):
        text.work(params, Tracker(), argparse.Namespace())


def test_a_run_is_scored_on_packages_and_on_the_corpus(params: Params) -> None:
    """The losses before training are transformers' own of the base: the start is a copy."""
    scale.work(params, Tracker(), argparse.Namespace(run="llama_pro-0"))
    found = json.loads(Path("artifacts/scale/llama_pro-0.json").read_text())
    assert found["tokens_per_step"] == 4 * SIZE  # the study's own batch
    assert [step["step"] for step in found["steps"]] == [0, 2, 4]
    assert not Path("artifacts/work/prefix").exists()
    model = AutoModelForCausalLM.from_pretrained("artifacts/base", dtype=torch.float32).eval()
    for blocks, key in (
        (load_blocks(scale.TEXT / "test"), "block_losses"),
        (load_blocks(Path("artifacts/corpus/test")), "second_text_block_losses"),
    ):
        with torch.no_grad():
            own = [float(model(ids[None], labels=ids[None]).loss) for ids in tokens_of(blocks)]
        assert found["steps"][0][key] == pytest.approx(own, abs=1e-4)
    assert found["steps"][-1]["heldout_loss"] < found["steps"][0]["heldout_loss"]


def test_a_rate_is_the_lowest_of_those_that_were_tried(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored on validation packages; what was tried is what training alone at that rate gives."""
    scored: list[list[str]] = []
    own = vars(choose_rate)["train"]

    def train(run: Any, *args: Any, **kwargs: Any) -> Any:
        scored.append(list(run.heldout["document"]))
        return own(run, *args, **kwargs)

    monkeypatch.setattr(choose_rate, "train", train)
    rates.work(params, Tracker(), argparse.Namespace(study="scale", model="llama_pro"))
    found = json.loads(Path("artifacts/rates/scale-llama_pro.json").read_text())
    assert {tuple(names) for names in scored} == {("two", "two", "four", "four")}
    losses = {run["learning_rate"]: run["validation_loss"] for run in found["runs"]}
    assert min(losses, key=lambda rate: losses[rate]) == found["best"]
    assert (found["max_steps"], found["tokens"]) == (2, 2 * 4 * SIZE)
    assert {3e-3, 1e-2} <= set(losses)  # the search begins at 1e-2
    row = chosen("scale", Training, "llama_pro-0")
    write_row(row, params, Path("unfinished"), Path("start"))
    assert found["checkpoint"] == tree_digest("start")


def test_a_search_names_what_it_cannot_do(params: Params) -> None:
    for study, model, message in (
        ("budget", "none", r"rates/params\.yaml: budget\.none: missing; there are fitted"),
        ("budget", "fitted", r"rates/params\.yaml: budget\.fitted\.run: fitted-0 .*one phase"),
    ):
        with pytest.raises(UserError, match=message):
            rates.work(params, Tracker(), argparse.Namespace(study=study, model=model))


@given(st.sampled_from(LADDER), st.sampled_from(LADDER))
def test_a_valley_is_found_from_anywhere(begin: float, bottom: float) -> None:
    """With both neighbours of the best tried, but at the ladder's ends; no rate twice."""
    asked: list[float] = []

    def loss_at(rate: float) -> float:
        asked.append(rate)
        return abs(LADDER.index(rate) - LADDER.index(bottom))

    tried = lowest(loss_at, begin)
    assert min(tried, key=lambda rate: tried[rate]) == bottom
    assert len(asked) == len(set(asked)) == len(tried)
    place = LADDER.index(bottom)
    assert set(LADDER[max(place - 1, 0) : place + 2]) <= set(tried)

"""The study `budget` on the smoke profile: its runs, what they measure, and stops between steps."""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from lesa.checkpoints.base import byte_tokenizer
from lesa.errors import UserError
from lesa.params import ListedGaps, Params
from lesa.training.blocks import load_blocks, tokens_of, training_order
from pipelines import budget
from pipelines.folders import CORPUS
from pipelines.phases import Phase, Training
from pipelines.rows import rows_of
from pipelines.studies.budget import text
from pipelines.tracking import Tracker
from reports import budget as tables
from reports import measured, training_runs
from reports.comparison import TIMINGS
from tests.pipeline import smoke, up_to_svd
from tests.test_report_synthetic import params as synthetic_params
from tests.test_report_synthetic import write

NEW = [{"trains": "new", "steps": 4, "learning_rate": 1e-2}]
HARDLY = [  # trains so little that every loss is the start's
    {"trains": "new", "steps": 4, "learning_rate": 1e-12},
    {"trains": "all", "steps": 2, "learning_rate": 1e-12},
]
OUTPUTS: dict[str, Any] = {
    "trains": "outputs", "steps": 2, "rounds": 2, "learning_rate": 0.2, "damping": 0.1
}  # fmt: skip
STUDY: dict[str, Any] = {
    "schedule": {"warmup": 0.25, "eval_every": 2, "save_every": 2},
    "second_text": ["argparse", "inspect"],
    "phases": {},
    "budget": {
        "llama_pro-0": {"method": "llama_pro", "seed": 0, "phases": NEW, "kept": True},
        "llama_pro-1": {"method": "llama_pro", "seed": 1, "phases": NEW},
        "twice-3": {"method": "llama_pro", "seed": 3, "phases": HARDLY},
        "fitted-0": {"method": "llama_pro", "seed": 0, "phases": [OUTPUTS, *NEW]},
        "lora-0": {
            "method": "base",
            "seed": 0,
            "phases": [NEW[0] | {"trains": "lora", "parameters": 10_000}],
            "kept": True,
        },
        "lesa-0": {
            "method": "lesa",
            "options": {"unpredicted": "layer_0"},
            "fit": {"preset": "paper", "seed": 0},
            "seed": 0,
            "phases": [NEW[0], NEW[0] | {"trains": "all"}],
        },
    },
}


def test_every_run_of_the_study_is_what_its_name_says() -> None:
    for name, run in rows_of("budget", Training).items():
        assert name.endswith(f"-{run.seed}")
        assert run.fit is None or run.fit.seed == run.seed, name
        assert run.options.get("seed", run.seed) == run.seed, name
        if run.method in ("base", "solar"):
            trains = "lora" if name.startswith("lora") else "all"
            assert [phase.trains for phase in run.phases] == [trains]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """What the study starts from, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("pipelines/studies/budget/params.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    tree = smoke()
    tree["train"]["bf16"] = False  # losses are compared to four decimals
    params = up_to_svd(tree)
    text.work(params, Tracker(), argparse.Namespace())
    return params


def ran(params: Params, run: str, log: Tracker | None = None) -> dict[str, Any]:
    budget.work(params, log or Tracker(), argparse.Namespace(run=run))
    found: dict[str, Any] = json.loads(Path(f"artifacts/budget/{run}.json").read_text())
    return found


def loss_of(model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(input_ids=ids[None], labels=ids[None]).loss)


def test_adept_copies_the_layers_that_are_missed_least() -> None:
    """By the committed study removal; after the last layer there is no gap."""
    found = json.loads(Path("metrics/removal/base.json").read_text())
    losses = torch.tensor(found["block_losses_without"]).mean(1)
    run: Training = rows_of("budget", Training)["adept-0"]
    assert isinstance(run.gaps, ListedGaps)
    assert run.gaps.after == sorted(
        losses[:-1].topk(run.gaps.count, largest=False).indices.tolist()
    )


def test_losses_are_those_of_transformers_in_the_order_of_the_data(params: Params) -> None:
    """LLaMA Pro's start is the base: a run that hardly moves has the base's losses throughout."""
    found = ran(params, "twice-3")
    model = AutoModelForCausalLM.from_pretrained("artifacts/base", dtype=torch.float32)
    model.eval()
    heldout = load_blocks(CORPUS / "test")
    assert found["heldout_documents"] == list(heldout["document"])
    assert [step["step"] for step in found["steps"]] == [0, 2, 4, 6]
    assert [step["tokens"] for step in found["steps"]] == [0, 256, 512, 768]
    tokenizer = AutoTokenizer.from_pretrained("artifacts/base")
    for step in found["steps"]:
        own = [loss_of(model, block) for block in tokens_of(heldout)]
        assert step["block_losses"] == pytest.approx(own, abs=1e-4)
        assert step["heldout_loss"] == pytest.approx(sum(own) / len(own), abs=1e-4)
        other = []
        for name in found["second_text_documents"]:
            text = Path(sysconfig.get_paths()["stdlib"], f"{name}.py").read_text(encoding="utf-8")
            ids = tokenizer(text[len(text) // 2 :], return_tensors="pt").input_ids[0, :64]
            other.append(loss_of(model, ids))
        assert step["second_text_block_losses"] == pytest.approx(other, abs=1e-4)
    blocks = tokens_of(load_blocks(CORPUS / "train"))
    order = training_order(len(blocks), 12, seed=3)
    pairs = [(order[i], order[i + 1]) for i in range(0, 12, 2)]
    by_step = [sum(loss_of(model, blocks[i]) for i in pair) / 2 for pair in pairs]
    assert [row["step"] for row in found["train"]] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in found["train"]] == pytest.approx(by_step, abs=1e-4)
    assert found["trains"] == "new_then_all"
    assert found["max_steps"] == 6


def test_adapters_train_and_are_merged(params: Params) -> None:
    """The checkpoint that is kept has the losses that the run measured with adapters in place."""
    found = ran(params, "lora-0")
    assert found["trains"] == "lora"
    assert found["trainable_parameters"] == pytest.approx(10_000, rel=0.2)
    for folder, step in (("artifacts/base", 0), ("artifacts/budget/lora-0/checkpoint", -1)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        own = [loss_of(model, block) for block in tokens_of(load_blocks(CORPUS / "test"))]
        assert found["steps"][step]["block_losses"] == pytest.approx(own, abs=1e-4)
    assert found["steps"][-1]["heldout_loss"] != found["steps"][0]["heldout_loss"]


@pytest.mark.parametrize(
    ("method", "trains", "said"),
    [("solar", "new", "all"), ("base", "original", "all"), ("llama_pro", "original", "new")],
)
def test_what_trains_is_what_is_said(params: Params, method: str, trains: str, said: str) -> None:
    path = Path("pipelines/studies/budget/params.yaml")
    phases = [NEW[0] | {"trains": trains}]
    row = {"method": method, "seed": 0, "phases": phases}
    path.write_text(yaml.safe_dump(STUDY | {"budget": {"one-0": row}}))
    with pytest.raises(UserError, match=rf"budget\.one-0\.phases\.0\.trains: .* say {said}$"):
        ran(params, "one-0")


def test_lora_says_its_size() -> None:
    for phase in ({"trains": "lora"}, {"trains": "new", "parameters": 5}):
        with pytest.raises(ValidationError, match="parameters is for trains: lora"):
            Phase.model_validate(NEW[0] | phase)


def test_fitted_outputs_are_a_part_of_the_run(params: Params) -> None:
    """They use up the first steps' tokens: what trains after them goes on in the data's order."""
    fitted, plain = ran(params, "fitted-0"), ran(params, "llama_pro-0")
    assert fitted["steps"][0]["block_losses"] == pytest.approx(
        plain["steps"][0]["block_losses"], abs=1e-4
    )
    assert [step["step"] for step in fitted["steps"]] == [0, 2, 4, 6]
    assert [row["step"] for row in fitted["train"]] == [3, 4, 5, 6]
    assert fitted["steps"][1]["heldout_loss"] != fitted["steps"][0]["heldout_loss"]
    assert (fitted["trains"], fitted["max_steps"]) == ("outputs_then_new", 6)
    assert fitted["seconds"] > 0


class Stops(Tracker):
    """Ends the process' work at a training step, as a kill does between two checkpoints."""

    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step == self.step and "loss" in values:
            raise KeyboardInterrupt


def test_a_stopped_run_ends_as_one_that_was_not(params: Params) -> None:
    """Stopped at the third step of its first phase, and of its second."""
    whole = ran(params, "lesa-0")
    for step in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            ran(params, "lesa-0", Stops(step))
    assert Path("artifacts/work/budget/lesa-0").is_dir()
    again = ran(params, "lesa-0")
    assert not Path("artifacts/work/budget/lesa-0").exists()
    assert {k: v for k, v in again.items() if k not in TIMINGS} == {
        k: v for k, v in whole.items() if k not in TIMINGS
    }
    total = sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained("artifacts/base").parameters()
    )
    assert again["trainable_parameters"] > total  # the base's and the new layers'


def test_report_reads_what_the_study_writes(params: Params, tmp_path: Path) -> None:
    runs = [ran(params, name) for name in ("llama_pro-0", "llama_pro-1", "lesa-0")]
    kept = AutoModelForCausalLM.from_pretrained("artifacts/budget/llama_pro-0/checkpoint")
    assert kept.config.num_hidden_layers == 9
    metrics = write(tmp_path / "synthetic")
    for path in (metrics / "budget").iterdir():
        path.unlink()
    for run in runs:
        run["profile"] = synthetic_params().profile
        (metrics / "budget" / f"{run['run']}.json").write_text(json.dumps(run))
    rows = {
        row["run"]: row for row in tables.table(measured.load(metrics, synthetic_params())).rows
    }
    ends = [run["steps"][-1]["heldout_loss"] for run in runs]
    assert rows["llama_pro"]["seeds"] == 2
    assert rows["llama_pro"]["final loss"] == pytest.approx(sum(ends[:2]) / 2)
    assert rows["lesa"]["final loss"] == pytest.approx(ends[2])
    assert rows["lesa"]["trains"] == "new_then_all"
    # No run of the base; LLaMA Pro's start is the base.
    assert rows["lesa"]["Python source, minus the untouched base's"] is None
    llama_pro = training_runs.called(measured.load(metrics, synthetic_params()).budget, "llama_pro")
    assert llama_pro is not None
    gap = training_runs.forgotten(llama_pro, llama_pro)
    assert gap is not None
    second = [[step["second_text_loss"] for step in run["steps"]] for run in runs[:2]]
    assert gap.estimate == pytest.approx((second[0][-1] + second[1][-1]) / 2 - second[0][0])


@pytest.mark.parametrize("name", ["json", "nonesuch", "this"])  # a package, none, a short one
def test_a_second_text_that_will_not_do_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    byte_tokenizer().save_pretrained("artifacts/base")
    like = Dataset.from_dict({"input_ids": [[0] * 512], "document": ["a"]})
    with pytest.raises(UserError, match=rf"second_text: '{name}': "):
        text.source_blocks(["argparse", name], like)

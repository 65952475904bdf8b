"""Training and saving, for every family and every layout that a checkpoint of one may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.training.blocks import training_order
from lesa.training.freezing import freeze
from lesa.training.pretrain import Run, load_model, train
from lesa.training.saving import save, stored_tensors
from lesa.training.state import trained_tensors
from lesa.upscaling.plan import LayerPlan, everything_trains
from tests.conftest import resave, tensors_of
from tests.families import CONFIGS, LENGTH, deepen, load, save_family
from tests.test_pretrain import RATE, KilledError, settings

SLOW = pytest.mark.slow
FAMILIES = [name for name in CONFIGS if "-" not in name]  # no variants
LAYOUTS = ("llama", "phi3", "gpt2", "mixtral", "gemma2")  # each way to store and to name a layer
# What trains: the new layers alone, everything; of others, other layers do.
PAIRS = [
    pytest.param(
        family,
        method,
        marks=() if method == "lesa" or (method == "base" and family in LAYOUTS) else SLOW,
    )
    for family in FAMILIES
    for method in ("lesa", "base", "llama_pro", "solar")
]
DROPOUTS = ("attn_pdrop", "resid_pdrop", "embd_pdrop")  # GPT-2's, which others have none of
TWO_STEPS = settings(max_steps=2, eval_every=2, save_every=1, warmup_steps=0)


@pytest.fixture(scope="module")
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models of one family, with its base in it."""
    folder = tmp_path_factory.mktemp(request.param)
    save_family(request.param, folder / "original")
    return folder


def blocks() -> Dataset:
    """Five blocks longer than the sliding window."""
    ids = torch.randint(1, 256, (5, LENGTH), generator=torch.Generator().manual_seed(1))
    rows = {"input_ids": ids.tolist(), "document": list("abcde")}
    return Dataset.from_dict(rows).with_format("torch")


def check_saved(init: Path, plan: LayerPlan, trained: dict[str, Tensor], folder: Path) -> None:
    """transformers loads all of it; the logits are those of the trained model, which never went
    through a file; what did not train is bit for bit what it was, and all that trained is not."""
    save(trained, init, folder)
    model = load_model(init).eval()
    assert not model.load_state_dict(trained, strict=False).unexpected_keys
    ids = torch.randint(1, 256, (2, LENGTH), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert torch.equal(load(folder)(input_ids=ids).logits, model(input_ids=ids).logits)
    before, after = Checkpoint(init), Checkpoint(folder)
    assert after.names() == before.names()
    trainable = {slot.layer_idx for slot in plan if slot.trainable}
    for name in before.names():
        split = before.family.split(name)
        if not everything_trains(plan) and (split is None or split[0] not in trainable):
            assert torch.equal(after.tensor(name), before.tensor(name)), name
    for index in trainable:
        for kind in before.kinds:
            assert not torch.equal(after.matrix(kind, index), before.matrix(kind, index)), kind


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", ["average", "base"])  # the output layer frozen, and training
def test_training_and_held_out_loss_are_one_thing(tmp_path: Path, name: str, method: str) -> None:
    """At the same weights and blocks: neither counts a block's first token, which none predicts."""
    dropouts: dict[str, Any] = dict.fromkeys(DROPOUTS, 0.0) if name == "gpt2" else {}
    init, _ = deepen(save_family(name, tmp_path / "base", **dropouts), method, tmp_path)
    one = settings(max_steps=1, eval_every=1, warmup_steps=0)
    _, curve = train(Run(init, blocks(), blocks(), one, RATE), tmp_path / "work", resumable=False)
    order = training_order(5, 5, one.seed)[: one.per_device_batch_size]
    losses = [curve["steps"][0]["block_losses"][i] for i in order]
    assert curve["train"][0]["loss"] == pytest.approx(fmean(losses), rel=1e-3)


@pytest.mark.parametrize(("work", "name"), PAIRS, indirect=["work"])
def test_trains_resumes_and_saves(work: Path, tmp_path: Path, name: str) -> None:
    init, plan = deepen(work / "original", name, work)
    run = Run(init, blocks(), blocks(), TWO_STEPS, RATE, measure_start=False)
    trained, curve = train(run, tmp_path / "whole", resumable=False)
    check_saved(init, plan, trained, tmp_path / "trained")
    if not work.name.startswith(LAYOUTS) or name not in ("lesa", "base"):
        return

    def kill(numbers: dict[str, float], step: int) -> None:
        if step == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(run, tmp_path / "killed", on_log=kill)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint-1"]
    resumed, same = train(run, tmp_path / "killed")
    assert resumed.keys() == trained.keys()
    assert all(torch.equal(tensor, trained[key]) for key, tensor in resumed.items())
    assert same["train"] == curve["train"]


def stacked_experts(folder: Path) -> None:
    """All experts of a layer in one tensor, under the names of transformers' own parameters."""
    state = {key: tensor.clone() for key, tensor in load_model(folder).state_dict().items()}
    assert "model.layers.0.mlp.experts.gate_up_proj" in state
    resave(folder, state)


def inner_model(folder: Path) -> None:
    """Names without the prefix of the model that has the output layer, as GPT-2's hub has them."""
    tensors = tensors_of(folder)
    resave(folder, {key.removeprefix("transformer."): t for key, t in tensors.items()})
    assert "h.0.attn.c_attn.weight" in Checkpoint(folder).names()


def stored_head(folder: Path) -> None:
    """The output layer is stored though it is the embedding, and the config is silent about it."""
    checkpoint, tensors = Checkpoint(folder), tensors_of(folder)
    embedding = tensors[checkpoint.stored_name(checkpoint.family.embedding)]
    resave(folder, tensors | {checkpoint.family.head: embedding.clone()})
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"].startswith("gemma"):
        config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert Checkpoint(folder).aliases


@pytest.mark.parametrize("name", ["average", "base"])
@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("mixtral", stacked_experts),
        ("qwen3_moe", stacked_experts),
        ("gpt2", inner_model),
        ("gpt2", stored_head),
        ("qwen2", stored_head),
        ("gemma", stored_head),
        ("gemma2", stored_head),
    ],
)
def test_saves_in_the_layout_of_the_base(
    tmp_path: Path, family: str, layout: Callable[[Path], None], name: str
) -> None:
    base = save_family(family, tmp_path / "original")
    layout(base)
    init, plan = deepen(base, name, tmp_path)
    model = load_model(init)
    freeze(model, init)
    generator = torch.Generator().manual_seed(1)
    trained = {
        key: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for key, tensor in trained_tensors(model).items()
    }
    check_saved(init, plan, trained, tmp_path / "trained")
    saved = Checkpoint(tmp_path / "trained")
    for head, embedding in saved.aliases.items():
        assert torch.equal(saved.tensor(head), saved.tensor(embedding))


def test_no_trained_tensor_is_dropped(tmp_path: Path) -> None:
    init, _ = deepen(save_family("llama", tmp_path / "original"), "base", tmp_path)
    with pytest.raises(UserError, match=r"holds no model\.layers\.6\.mlp") as error:
        stored_tensors({"model.layers.6.mlp.up_proj.weight": torch.ones(1)}, Checkpoint(init))
    assert "\n" not in str(error.value)

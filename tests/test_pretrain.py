"""Continual pre-training: what trains, the curve, resuming; and the held-out loss behind it."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoModelForCausalLM

from lesa.errors import CheckError, UserError
from lesa.files import write_json, write_tensors
from lesa.machine import compute_device
from lesa.params import Gaps, Train
from lesa.training import pretrain, trainer
from lesa.training import state as training_state
from lesa.training.blocks import training_order
from lesa.training.freezing import freeze
from lesa.training.heldout import block_losses, first_tokens, mean_perplexity, perplexity
from lesa.training.pretrain import Run, train
from lesa.training.saving import save
from lesa.upscaling.plan import from_json, insert_between
from tests.conftest import VOCABULARY, resave, tensors_of
from tests.families import deepen

BLOCK = 12
RATE = 1e-2
NEW = {4, 6}  # indexes of the new layers that gaps 3 and 4 make


def settings(**changes: Any) -> Train:
    """Those of a short run; `changes` need not be what a parameter file may say."""
    values: dict[str, Any] = {
        "launch": "python",
        "max_steps": 8,
        "eval_every": 4,
        "save_every": 2,
        "per_device_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "bf16": False,
        "prefix_cache": False,
        "seed": 0,
    }
    return Train(**values).model_copy(update=changes)


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(VOCABULARY, (count, BLOCK), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    """Nine blocks: eight batches of two need more than one epoch."""
    return Dataset.from_dict({"input_ids": tokens(9, 1).int().tolist()}).with_format("torch")


HELD_OUT = list(tokens(5, 2))
HELD_OUT_ROWS = Dataset.from_dict(
    {"input_ids": [block.tolist() for block in HELD_OUT], "document": list("aabbc")}
).with_format("torch")


def deepened(base: Path, name: str, folder: Path, first: int = 3, last: int = 4) -> Path:
    return deepen(base, name, folder, Gaps(first=first, last=last))[0]


def frozen(folder: Path) -> Any:
    model = pretrain.load_model(folder)
    freeze(model, folder)
    return model


@pytest.fixture(scope="module")
def averaged(tiny32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with two new layers."""
    return deepened(tiny32, "average", tmp_path_factory.mktemp("averaged"))


def heldout_losses(curve: dict[str, Any]) -> list[tuple[int, float]]:
    return [(row["step"], row["heldout_loss"]) for row in curve["steps"]]


def is_new(name: str) -> bool:
    return any(name.startswith(f"model.layers.{index}.") for index in NEW)


@pytest.mark.parametrize("bf16", [False, True])
def test_only_new_layers_train(averaged: Path, blocks: Dataset, tmp_path: Path, bf16: bool) -> None:
    before = tensors_of(averaged)
    trained, curve = train(
        Run(averaged, blocks, HELD_OUT_ROWS, settings(bf16=bf16), RATE), tmp_path, resumable=False
    )
    assert trained.keys() == {name for name in before if is_new(name)}
    for name, tensor in trained.items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(before[name], tensor), name
    new = sum(tensor.numel() for name, tensor in before.items() if is_new(name))
    assert curve["trainable_parameters"] == new
    assert list(tmp_path.glob("checkpoint-*")) == []


@pytest.mark.parametrize("name", ["solar", "base"])
def test_everything_trains(tiny32: Path, blocks: Dataset, tmp_path: Path, name: str) -> None:
    init = deepened(tiny32, name, tmp_path)
    before = tensors_of(init)
    # Every token occurs in some step, so that every row of the embedding has a gradient.
    after, curve = train(
        Run(init, blocks, HELD_OUT_ROWS, settings(), RATE), tmp_path / "work", resumable=False
    )
    assert after.keys() == before.keys()
    assert not [key for key, tensor in before.items() if torch.equal(after[key], tensor)]
    assert curve["trainable_parameters"] == sum(tensor.numel() for tensor in before.values())


def test_llama_pro_trains_its_copies(tiny32: Path, tmp_path: Path) -> None:
    folder = deepened(tiny32, "llama_pro", tmp_path)
    trainable = {name for name, p in frozen(folder).named_parameters() if p.requires_grad}
    new = ("model.layers.3.", "model.layers.7.")
    assert trainable == {name for name in tensors_of(folder) if name.startswith(new)}


def test_the_curve_has_every_step_and_every_evaluation(
    averaged: Path, blocks: Dataset, tmp_path: Path
) -> None:
    chosen = settings(max_steps=7, eval_every=3, gradient_accumulation_steps=2)
    logged: list[tuple[dict[str, float], int]] = []
    _, curve = train(
        Run(averaged, blocks, HELD_OUT_ROWS, chosen, RATE),
        tmp_path,
        on_log=lambda numbers, step: logged.append((numbers, step)),
        resumable=False,
    )
    assert [row["step"] for row in curve["steps"]] == [0, 3, 6, 7]
    model = pretrain.load_model(averaged).to(compute_device())
    start = block_losses(model, HELD_OUT, False, 2)
    assert curve["steps"][0]["block_losses"] == start
    assert curve["heldout_documents"] == list("aabbc")
    for row in curve["steps"]:
        assert row["heldout_loss"] == pytest.approx(statistics.fmean(row["block_losses"]))
        assert row["heldout_perplexity"] == pytest.approx(math.exp(row["heldout_loss"]))
        assert row["tokens"] == row["step"] * 2 * 2 * BLOCK
    assert curve["tokens_per_step"] == 2 * 2 * BLOCK
    assert curve["heldout_tokens"] == 5 * (BLOCK - 1)
    assert [row["step"] for row in curve["train"]] == list(range(1, 8))
    # Linear warm-up over two steps, then a cosine to zero; a step's rate is that before it.
    wanted = [0.0, 0.5] + [(1 + math.cos(math.pi * k / 5)) / 2 for k in range(5)]
    rates = [row["learning_rate"] / RATE for row in curve["train"]]
    assert rates == pytest.approx(wanted, abs=1e-9)
    assert curve["tokens_per_second"] > 0
    evaluations = [step for numbers, step in logged if "eval_loss" in numbers]
    assert evaluations == [0, 3, 6, 7]


def test_the_start_is_measured_unless_it_is_known(
    averaged: Path, blocks: Dataset, tmp_path: Path
) -> None:
    found = [
        train(
            Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE, measure_start),
            tmp_path,
            resumable=False,
        )[1]
        for measure_start in (True, False)
    ]
    assert heldout_losses(found[1]) == heldout_losses(found[0])[1:]
    assert found[1]["train"] == found[0]["train"]


def test_training_lowers_the_loss_of_its_own_blocks(averaged: Path, tmp_path: Path) -> None:
    one = tokens(1, 3).repeat(2, 1)
    rows = {"input_ids": one.tolist(), "document": ["a", "a"]}
    data = Dataset.from_dict(rows).with_format("torch")
    _, curve = train(
        Run(averaged, data, data, settings(max_steps=9), RATE), tmp_path, resumable=False
    )
    assert curve["steps"][-1]["heldout_loss"] < curve["steps"][0]["heldout_loss"] - 0.3


def plain_curve(init: Path, rows: list[Tensor], chosen: Train) -> tuple[list[float], Any]:
    """Losses of the steps, and the model: torch alone, every layer run, float32 weights."""
    device = compute_device()
    model: Any = AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32)
    model.to(device)
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.1}, {"params": []}]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = is_new(name)
        if is_new(name):
            groups["norm" in name or "bias" in name]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    losses = []
    for step in range(chosen.max_steps):
        batch = torch.stack(rows[2 * step : 2 * step + 2]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=chosen.bf16):
            logits = model(input_ids=batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), chosen.max_grad_norm)
        warm, left = chosen.warmup_steps, chosen.max_steps - chosen.warmup_steps
        share = step / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / left)) / 2
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("base", ["tiny32", "qwen"])
def test_curve_of_a_plain_loop(
    base: str, request: pytest.FixtureRequest, tmp_path: Path, bf16: bool
) -> None:
    # A GPU adds in an order that depends on a product's shape, and the loop's output layer has
    # another shape: a logit may be rounded to the next bfloat16, which is 4e-3 of it away.
    on_gpu = compute_device().type == "cuda"
    tolerance = (1e-3 if on_gpu else 1e-4) if bf16 else 1e-6
    # AdamW divides by what may be small: a rounded gradient can turn steps of RATE around.
    apart = (3 * RATE if on_gpu else RATE) if bf16 else 1e-4
    init = deepened(request.getfixturevalue(base), "average", tmp_path)
    data = Dataset.from_dict({"input_ids": tokens(20, 1).tolist()}).with_format("torch")
    chosen = settings(bf16=bf16)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(chosen.seed))
    wanted, model = plain_curve(init, list(tokens(20, 1)[order]), chosen)
    trained, curve = train(
        Run(init, data, HELD_OUT_ROWS, chosen, RATE), tmp_path / "work", resumable=False
    )
    assert [row["loss"] for row in curve["train"]] == pytest.approx(wanted, rel=tolerance)
    end = statistics.fmean(block_losses(model, HELD_OUT, bf16, 2))
    assert curve["steps"][-1]["heldout_loss"] == pytest.approx(end, rel=tolerance)
    for name, tensor in trained.items():
        own = model.get_parameter(name).data.cpu()
        torch.testing.assert_close(tensor, own, rtol=0, atol=apart)


def test_all_blocks_come_before_any_comes_again() -> None:
    order = training_order(9, 25, seed=3)
    assert len(order) == 25
    assert sorted(order[:9]) == sorted(order[9:18]) == list(range(9))
    assert order[:9] != order[9:18] != list(range(9))
    assert len(set(order[18:])) == 7
    assert training_order(9, 12, seed=3) == order[:12]
    first = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    assert order[:9] == first.tolist()


def test_no_two_seeds_share_the_order_of_an_epoch() -> None:
    """An epoch of one seed was the one before of the next seed."""
    epochs = [
        tuple(order[i : i + 9])
        for order in (training_order(9, 36, seed) for seed in range(8))
        for i in range(0, 36, 9)
    ]
    assert len(set(epochs)) == len(epochs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_graph_below_the_first_trainable_layer(averaged: Path, checkpointing: bool) -> None:
    model = frozen(averaged)
    first = min(NEW)
    model.train()
    forwards = [0] * len(model.model.layers)
    outputs: dict[int, Tensor] = {}
    saved: list[int] = []  # the layer that ran when a tensor was saved for the backward pass
    running = [-1]

    for index, layer in enumerate(model.model.layers):

        def before(*_: Any, index: int = index) -> None:
            forwards[index] += 1
            running[0] = index

        def after(_: Any, __: Any, output: Tensor, index: int = index) -> None:
            outputs.setdefault(index, output)

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
        if checkpointing:  # as FSDP's option does it: layers run again for their gradients
            model.model.layers[index] = checkpoint_wrapper(layer)

    def pack(tensor: Tensor) -> Tensor:
        saved.append(running[0])
        return tensor

    batch = tokens(2, 4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    if not checkpointing:  # which has hooks of its own
        assert min(saved) == first
    for index, output in outputs.items():
        assert output.requires_grad == (index >= first)
        assert forwards[index] == (2 if checkpointing and index >= first else 1)
    for name, parameter in model.named_parameters():
        own = name.replace("_checkpoint_wrapped_module.", "")
        assert (parameter.grad is not None) == is_new(own)


def test_state_is_saved_for_what_trains_alone(
    averaged: Path, blocks: Dataset, tmp_path: Path
) -> None:
    trained, curve = train(Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE), tmp_path)
    checkpoint = Path(training_state.last_whole_checkpoint(tmp_path) or "")
    state = load_file(checkpoint / "optimizer.safetensors")
    steps = [tensor for name, tensor in state.items() if name.endswith(".step")]
    assert len(steps) == len(trained)
    total = sum(tensor.numel() for tensor in state.values())
    assert total == 2 * curve["trainable_parameters"] + len(steps)
    stored = load_file(checkpoint / "trained.safetensors")
    assert stored.keys() == trained.keys()
    assert all(is_new(name) for name in stored)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_the_system_refuses_is_said_as_python_says_it(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: … (os error {number})")

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        write_tensors(tmp_path / "a", {})
    assert error.value.errno == number
    assert error.value.filename == str(tmp_path / "a")


def test_what_no_system_refuses_stays_safetensors_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise SafetensorError("Error while serializing: InvalidHeaderLength")

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    with pytest.raises(SafetensorError):
        write_tensors(tmp_path / "a", {})


class KilledError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7, 8])
def test_resumed_run_has_the_same_curve(
    averaged: Path, blocks: Dataset, tmp_path: Path, stop_at: int
) -> None:
    whole, curve = train(
        Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE), tmp_path / "whole", resumable=False
    )

    def kill(numbers: dict[str, float], step: int) -> None:
        if step == stop_at:
            raise KilledError

    work = tmp_path / "work"
    with pytest.raises(KilledError):
        train(Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE), work, on_log=kill)
    assert bool(list(work.glob("checkpoint-*"))) == (stop_at > 2)
    resumed_steps: list[int] = []
    trained, resumed = train(
        Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE),
        work,
        on_log=lambda numbers, step: resumed_steps.append(step) if "loss" in numbers else None,
    )
    assert resumed_steps[0] == (stop_at - 1) // 2 * 2 + 1  # it did go on, not start again
    assert heldout_losses(resumed) == heldout_losses(curve)
    assert resumed["train"] == curve["train"]
    assert trained.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in trained.items())


def test_a_stop_loses_no_more_than_some_seconds(
    averaged: Path, blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps `save_every` has; a save that takes long is not followed by another."""
    seldom = Run(averaged, blocks, HELD_OUT_ROWS, settings(save_every=8), RATE)

    def kill(numbers: dict[str, float], step: int) -> None:
        if step == 6:
            raise KilledError

    def last(lost: float, share: float) -> str | None:
        monkeypatch.setattr(trainer, "LOST", lost)
        monkeypatch.setattr(trainer, "SHARE", share)
        work = tmp_path / f"{lost}-{share}"
        with pytest.raises(KilledError):
            train(seldom, work, on_log=kill)
        checkpoint = training_state.last_whole_checkpoint(work)
        return Path(checkpoint).name if checkpoint else None

    assert last(3600, 0) is None
    assert last(0, 0) == "checkpoint-5"
    assert last(0, 1e9) == "checkpoint-1"


def test_resume_after_the_last_step(averaged: Path, blocks: Dataset, tmp_path: Path) -> None:
    """A stage killed while it saves its result finds all steps done."""
    whole, curve = train(Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE), tmp_path)
    same, again = train(Run(averaged, blocks, HELD_OUT_ROWS, settings(), RATE), tmp_path)
    assert same.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in same.items())
    assert again == curve  # its seconds, too


def test_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert training_state.last_whole_checkpoint(tmp_path) is None
    for step in (2, 10):
        write_json(tmp_path / f"checkpoint-{step}" / "trainer_state.json", {"global_step": step})
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-14" / "trainer_state.json").write_text('{"global_st')
    assert training_state.last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_a_gpu_is_waited_for_before_the_clock_is_read(
    averaged: Path, blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work runs behind the program's: without waiting, the optimiser's time is left out."""
    events: list[str] = []
    clock = time.perf_counter

    def read() -> float:
        events.append("read")
        return clock()

    stand_in = SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: True, synchronize=lambda: events.append("synchronize")
        )
    )
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "torch", stand_in)
        patched.setattr(trainer, "time", SimpleNamespace(perf_counter=read))
        timer = trainer.Clock()
        for _ in range(3):
            timer.on_step_begin()
            timer.on_step_end()
    assert events == ["synchronize", "read"] * 6


def test_too_few_blocks(averaged: Path, blocks: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="per_device_batch_size: 2: the text's 1 training blocks"
    ) as error:
        train(Run(averaged, blocks.select([0]), HELD_OUT_ROWS, settings(), RATE), tmp_path)
    assert "\n" not in str(error.value)


def test_save_keeps_dtype_plan_and_frozen_bits(tiny: Path, tmp_path: Path, blocks: Dataset) -> None:
    init = deepened(tiny, "average", tmp_path)
    (init / "tokenizer.json").write_text("{}")
    before = tensors_of(init)
    trained, _ = train(
        Run(init, blocks, HELD_OUT_ROWS, settings(max_steps=3), RATE),
        tmp_path / "work",
        resumable=False,
    )
    save(trained, init, tmp_path / "trained")
    after = tensors_of(tmp_path / "trained")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        wanted = trained[name].to(tensor.dtype) if is_new(name) else tensor
        assert torch.equal(after[name], wanted)
    plan = json.loads((tmp_path / "trained" / "layer_plan.json").read_text())
    assert from_json(plan) == insert_between(6, Gaps(first=3, last=4))
    assert (tmp_path / "trained" / "tokenizer.json").is_file()
    assert pretrain.load_model(tmp_path / "trained").config.num_hidden_layers == 8


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_held_out_equals_transformers_loss(tiny: Path, batch_size: int) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        losses = [float(model(input_ids=b[None], labels=b[None]).loss) for b in HELD_OUT]
        together = torch.stack(HELD_OUT)
        at_once = float(model(input_ids=together, labels=together).loss)
    found = block_losses(model, HELD_OUT, False, batch_size)
    assert found == pytest.approx(losses, rel=1e-5)
    assert statistics.fmean(found) == pytest.approx(at_once, rel=1e-5)


def test_held_out_under_autocast(tiny32: Path) -> None:
    model = pretrain.load_model(tiny32)
    exact, rounded = (
        statistics.fmean(block_losses(model, HELD_OUT, bf16, 2)) for bf16 in (False, True)
    )
    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=1e-2)


def test_mean_perplexity_is_that_of_transformers_losses(tiny32: Path) -> None:
    model = pretrain.load_model(tiny32)

    def tokenizer(text: str, verbose: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % VOCABULARY for letter in text]}

    rows = [{"id": i, "text": text} for i, text in enumerate(("some words", "more of them here"))]
    ids = first_tokens(rows, tokenizer, 9)
    assert [len(found) for found in ids.values()] == [9, 9]
    assert tokenizer("some words", False)["input_ids"][:9] == ids["0"].tolist()
    with torch.no_grad():
        wanted = [float(model(input_ids=i[None], labels=i[None]).loss.exp()) for i in ids.values()]
    losses = [block_losses(model, [one], False, 1)[0] for one in ids.values()]
    assert mean_perplexity(losses) == pytest.approx(statistics.fmean(wanted), rel=1e-5)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_perplexity_is_a_number_or_refused(loss: float) -> None:
    if loss < 700:
        assert perplexity(loss) == math.exp(loss)
    else:
        with pytest.raises(CheckError, match="has no perplexity"):
            perplexity(loss)


def test_a_rate_that_diverges_is_named(averaged: Path, blocks: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"^learning rate 1e\+30: the held-out loss is .*diverged"):
        train(Run(averaged, blocks, HELD_OUT_ROWS, settings(), 1e30), tmp_path, resumable=False)


def test_a_start_that_is_no_model_is_named(averaged: Path, blocks: Dataset, tmp_path: Path) -> None:
    """Not the learning rate, which has done nothing yet."""
    broken = tmp_path / "broken"
    shutil.copytree(averaged, broken)
    tensors = tensors_of(broken)
    tensors["model.norm.weight"].fill_(torch.nan)
    resave(broken, tensors)
    said = rf"^{broken}: before training the held-out loss is nan"
    with pytest.raises(CheckError, match=said):
        train(Run(broken, blocks, HELD_OUT_ROWS, settings(), RATE), tmp_path, resumable=False)


@pytest.mark.parametrize("training", [True, False])
def test_held_out_leaves_the_model_as_it_was(tiny32: Path, training: bool) -> None:
    model = pretrain.load_model(tiny32).train(training)
    block_losses(model, HELD_OUT, False, 2)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())

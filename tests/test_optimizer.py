"""Muon and AdamW as one optimizer: who steps what, against the two by themselves; resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.optim import AdamW, Muon
from transformers import AutoModelForCausalLM

from lesa.training.freezing import freeze
from lesa.training.optimizer import muon
from lesa.training.pretrain import Run, train
from tests.families import CONFIGS, deepen, save_family
from tests.test_pretrain import HELD_OUT_ROWS, settings, tokens

RATE = 1e-2


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("muon")
    return deepen(save_family("llama", folder / "base"), "llama_pro", folder)[0]


@pytest.mark.parametrize("everything", [False, True])
def test_matrices_step_as_muon_the_rest_as_adamw(deeper: Path, everything: bool) -> None:
    models = [AutoModelForCausalLM.from_pretrained(deeper) for _ in range(2)]
    for model in models:
        if everything:
            model.requires_grad_(True)
        else:
            freeze(model, deeper)
    one, two = models
    named = {n: p for n, p in two.named_parameters() if p.requires_grad}
    matrices = [p for n, p in named.items() if ".layers." in n and p.dim() == 2]
    others = [p for n, p in named.items() if ".layers." not in n or p.dim() == 1]
    assert min(len(matrices), len(others)) > 0
    assert len(matrices) + len(others) == len(named)
    mixed = muon(one, RATE)
    alone = [
        Muon(matrices, lr=RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=RATE, weight_decay=0.0),
    ]
    for step in range(3):
        for model in models:
            model.zero_grad()
            ids = tokens(2, step)
            model(input_ids=ids, labels=ids).loss.backward()
        mixed.step()
        for optimizer in alone:
            optimizer.step()
    start = AutoModelForCausalLM.from_pretrained(deeper).state_dict()
    for name, parameter in two.named_parameters():
        assert torch.equal(dict(one.named_parameters())[name], parameter), name
        assert torch.equal(start[name], parameter) != (name in named), name


def test_the_scheduler_reaches_both(deeper: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(deeper)
    freeze(model, deeper)
    mixed = muon(model, RATE)
    torch.optim.lr_scheduler.LambdaLR(mixed, lambda step: 0.0)
    ids = tokens(2, 0)
    model(input_ids=ids, labels=ids).loss.backward()
    before = {n: p.clone() for n, p in model.named_parameters()}
    mixed.step()
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_a_stopped_run_goes_on_with_the_same_curve(tmp_path: Path, name: str) -> None:
    assert name in CONFIGS
    init = deepen(save_family(name, tmp_path / "base"), "llama_pro", tmp_path)[0]
    rows = Dataset.from_dict({"input_ids": tokens(16, 1).tolist()}).with_format("torch")
    run = Run(init, rows, HELD_OUT_ROWS, settings(max_steps=8), RATE, muon=True)
    whole, curve = train(run, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(numbers: dict[str, float], step: int) -> None:
        if step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(run, tmp_path / "stopped", stop)
    resumed, later = train(run, tmp_path / "stopped")
    assert [row["block_losses"] for row in later["steps"]] == [
        row["block_losses"] for row in curve["steps"]
    ]
    assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())
    by_adamw, _ = train(replace(run, muon=False), tmp_path / "adamw", resumable=False)
    assert any(not torch.equal(by_adamw[key], tensor) for key, tensor in whole.items())

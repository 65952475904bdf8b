"""Losses of sequences with masked labels, beside transformers' own."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lesa.training.head_loss import IGNORED
from lesa.training.sequences import Example, read_examples, sequence_losses, windows, write_examples
from tests.families import load, save_family


def drawn(length: int, masked: int, seed: int = 0) -> Example:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 256, (length,), generator=generator).tolist()
    return Example(f"x{seed}", "g", length - masked, ids, [IGNORED] * masked + ids[masked:])


@pytest.mark.parametrize("masked", [1, 7])
def test_losses_are_those_of_transformers(masked: int, tmp_path: Path) -> None:
    model = load(save_family("llama", tmp_path / "model"))
    examples = [drawn(20, masked), drawn(13, masked, 1)]
    found = sequence_losses(model, examples, 64, bf16=False)
    for example, nats in zip(examples, found, strict=True):
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        mean = float(model(input_ids=ids, labels=labels).loss.detach())
        targets = len(example.input_ids) - masked
        assert example.targets == targets
        assert math.isclose(nats, mean * targets, rel_tol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 40])
def test_windows_predict_every_token_once(count: int) -> None:
    tokens = torch.arange(count)
    found = list(windows(tokens, 8))
    assert all(1 <= len(piece) <= 8 for piece in found)
    assert torch.cat([piece[1:] for piece in found]).tolist() == list(range(1, count))
    assert all(a[-1] == b[0] for a, b in pairwise(found))


def test_a_long_sequence_is_scored_window_by_window(tmp_path: Path) -> None:
    model = load(save_family("llama", tmp_path / "model"))
    whole = drawn(30, 1)
    parts = [
        Example(str(i), "g", 1, whole.input_ids[i : i + 8], whole.input_ids[i : i + 8])
        for i in range(0, 29, 7)
    ]
    (together,) = sequence_losses(model, [whole], 8, bf16=False)
    assert math.isclose(together, sum(sequence_losses(model, parts, 64, False)), rel_tol=1e-6)


def test_examples_come_back_from_their_file(tmp_path: Path) -> None:
    examples = [drawn(5, 1), replace(drawn(9, 3, 1), id="a line\u2028of another", group="ü")]
    write_examples(examples, tmp_path / "x.jsonl")
    assert read_examples(tmp_path / "x.jsonl") == examples

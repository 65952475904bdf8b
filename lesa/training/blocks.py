"""Packed blocks of tokens: read from the corpus, put in training order, made into batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from torch import Tensor

States = Callable[[Tensor], Tensor]  # hidden states (block_size, hidden_size) of a block


def load_blocks(folder: Path) -> Dataset:
    """Packed blocks: columns `input_ids`, (block_size,), and `document`, the id of a block's."""
    return load_from_disk(str(folder)).with_format("torch")


def tokens_of(blocks: Dataset) -> list[Tensor]:
    """All blocks in memory, each (block_size,) int64."""
    return [row["input_ids"].long() for row in blocks]


def training_order(count: int, needed: int, seed: int) -> list[int]:
    """`needed` indexes of `count` blocks: one permutation of all after the other.

    All of them come from one generator, so that no two seeds share the order of an epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-needed // count)
    orders = [torch.randperm(count, generator=generator).tolist() for _ in range(epochs)]
    return [index for order in orders for index in order][:needed]


def collate(rows: list[dict[str, Tensor]], states: States | None) -> dict[str, Tensor]:
    """A batch (batch, block_size) with its labels; with `states`, its inputs are hidden states.

    The labels are the tokens, unless rows have `labels` of their own, (block_size,).
    """
    ids = torch.stack([row["input_ids"] for row in rows]).long()
    labels = torch.stack([row.get("labels", row["input_ids"]) for row in rows]).long()
    if states is None:
        return {"input_ids": ids, "labels": labels}
    return {"inputs_embeds": torch.stack([states(block) for block in ids]), "labels": labels}

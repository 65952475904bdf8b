"""Held-out loss on packed blocks, with the standard error over blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lesa.training.blocks import States
from lesa.training.processes import group


@dataclass(frozen=True)
class HeldOut:
    """Mean next-token loss in nats, its standard error over blocks, and exp of the mean."""

    loss: float
    loss_se: float
    perplexity: float


def held_out(model: nn.Module, blocks: Sequence[Tensor], bf16: bool, batch_size: int) -> HeldOut:
    """Score `blocks`, each (block_size,) int64; every block predicts its tokens 1 … n-1.

    `bf16`: the forward pass under bfloat16 autocast, as the training steps; the loss is float32.
    """
    return summary(block_losses(model, blocks, bf16, batch_size))


@torch.no_grad()
def block_losses(
    model: nn.Module,
    blocks: Sequence[Tensor],
    bf16: bool,
    batch_size: int,
    states: States | None = None,
) -> list[float]:
    """Mean loss in nats of each block.

    `states` gives a block's inputs (block_size, hidden_size) of a model whose lowest layers are
    cut off (`lesa.training.prefix`); without it the model takes tokens.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    losses: list[float] = []
    batches = [blocks[i : i + batch_size] for i in range(0, len(blocks), batch_size)]
    quiet = not group().is_main_process
    for batch in tqdm(batches, desc="held-out", unit="batch", leave=False, disable=quiet):
        ids = torch.stack(list(batch)).to(device)
        inputs = (
            {"inputs_embeds": torch.stack([states(block) for block in batch]).to(device)}
            if states
            else {"input_ids": ids}
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(**inputs, use_cache=False).logits[:, :-1]
        for row, targets in zip(logits, ids[:, 1:], strict=True):
            losses.append(float(nn.functional.cross_entropy(row.float(), targets)))
    model.train(training)
    return losses


def summary(losses: Sequence[float]) -> HeldOut:
    """Mean and standard error of the losses of blocks of one size."""
    mean = math.fsum(losses) / len(losses)
    squares = math.fsum((x - mean) ** 2 for x in losses)
    se = math.sqrt(squares / (len(losses) - 1) / len(losses)) if len(losses) > 1 else 0.0
    return HeldOut(mean, se, math.exp(mean))

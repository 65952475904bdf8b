"""Held-out loss of blocks of tokens, each kept: what is compared is paired by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lesa.errors import CheckError
from lesa.training.blocks import States
from lesa.training.processes import group

LARGEST = 700.0  # nats: of 710 a float cannot hold the exponential


@torch.no_grad()
def block_losses(
    model: nn.Module,
    blocks: Sequence[Tensor],
    bf16: bool,
    batch_size: int,
    states: States | None = None,
) -> list[float]:
    """Mean next-token loss in nats of each block (length,) int64, at its tokens 1 … n-1.

    `bf16`: the forward pass under bfloat16 autocast, as the training steps; the loss is float32.
    Blocks of one batch have one length. `states` gives a block's inputs (block_size, hidden_size)
    of a model whose lowest layers are cut off (`lesa.training.prefix`); without it the model takes
    tokens.
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


def first_tokens(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, count: int
) -> dict[str, Tensor]:
    """The first `count` tokens, (n,) int64, of each row {"id", "text"}, by its id.

    A document begins as the tokenizer begins texts, and no end-of-text token is added. A text of
    one token, which predicts none, is left out.
    """
    encoded = {
        str(row["id"]): tokenizer(str(row["text"]), verbose=False)["input_ids"][:count]
        for row in rows
    }
    return {name: torch.tensor(ids) for name, ids in encoded.items() if len(ids) > 1}


def readable(config: Any, tokens: int) -> int:
    """`tokens`, or as many as a model of this config has positions, if it says so."""
    return min(tokens, getattr(config, "max_position_embeddings", None) or tokens)


def perplexity(loss: float) -> float:
    """exp(loss) of a mean loss in nats a token.

    Raises CheckError where it is no number, or more than a float can hold the exponential of.
    """
    if not loss < LARGEST:
        raise CheckError(f"the held-out loss is {loss:.6g} nats a token, which has no perplexity")
    return math.exp(loss)


def mean_perplexity(losses: Iterable[float]) -> float:
    """Mean of exp(loss) over documents' mean losses in nats a token. Raises as `perplexity`."""
    return fmean(perplexity(loss) for loss in losses)

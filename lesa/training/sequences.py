"""Sequences of which some tokens are targets: files of code, conversations with completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lesa.files import write_json_lines
from lesa.training.head_loss import IGNORED


@dataclass(frozen=True)
class Example:
    """A sequence of n tokens. labels: (n,) the tokens that are targets, IGNORED where one is not.

    id: unique in its set. group: what it shares with others, a package or a module, by which sets
    are split and differences resampled. size: bytes of the targets' text in UTF-8.
    """

    id: str
    group: str
    size: int
    input_ids: list[int]
    labels: list[int]

    @property
    def targets(self) -> int:
        """How many tokens are predicted; the first of a sequence never is."""
        return sum(label != IGNORED for label in self.labels[1:])


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """One JSON object a line."""
    write_json_lines(path, map(asdict, examples))


def read_examples(path: Path) -> list[Example]:
    with open(path, encoding="utf-8") as file:
        return [Example(**json.loads(line)) for line in file]


def windows(tokens: Tensor, length: int) -> Iterator[Tensor]:
    """Pieces of (n,) with at most `length` tokens, each beginning with the last one before it.

    So every token but the first of all is predicted in one of them.
    """
    for start in range(0, max(len(tokens) - 1, 1), length - 1):
        yield tokens[start : start + length]


@torch.no_grad()
def sequence_losses(
    model: nn.Module, examples: Sequence[Example], length: int, bf16: bool
) -> list[float]:
    """The loss of each example in nats, summed over its targets.

    A sequence of more than `length` tokens is scored in windows of so many. One window is one
    forward pass, with no padding; under bfloat16 autocast if `bf16`. The loss is float32 a token.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = []
    for example in tqdm(examples, desc="held-out", unit="sequence", leave=False):
        ids = windows(torch.tensor(example.input_ids, device=device), length)
        labels = windows(torch.tensor(example.labels, device=device), length)
        total = 0.0
        for tokens, wanted in zip(ids, labels, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            losses = nn.functional.cross_entropy(
                logits.float(), wanted[1:], ignore_index=IGNORED, reduction="none"
            )
            total += float(losses.double().sum())
        found.append(total)
    model.train(training)
    return found

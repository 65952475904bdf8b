"""`lesa evaluate`: perplexity of checkpoints on a text."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesa.checkpoints.check import check_folder, tokenizer_of
from lesa.checkpoints.reader import BUFFER, quiet_transformers, weight_files
from lesa.errors import CheckError, UserError, explained
from lesa.machine import compute_device, has_bfloat16
from lesa.text.corpus import beginning
from lesa.text.rows import read_text
from lesa.training.heldout import LARGEST, block_losses, readable

WINDOW = 512  # tokens that are read at once


@dataclass(frozen=True)
class Score:
    """loss: mean of the next token's loss in nats over `tokens` predicted tokens; perplexity: its
    exponential, None where a float cannot hold it. dtype: of the computation."""

    loss: float
    perplexity: float | None
    tokens: int
    dtype: str


def evaluate(path: str | Path, text: str | Path) -> Score:
    """Score a checkpoint on a UTF-8 text file.

    The text is cut into windows of 512 tokens, or as many as the model has positions; each is read
    alone, begins as the tokenizer begins texts, and counts by the tokens that are predicted in it.
    Raises UserError for a text of no two tokens, CheckError for a model that transformers does not
    load whole or whose loss is no number.
    """
    model, tokenizer = load(Path(path))
    blocks = windows(tokenizer, model.config.get_text_config(), Path(text))
    with explained(f"{path}: transformers loads it and cannot run it"):
        losses = block_losses(model, blocks, bf16=False, batch_size=1)
    counts = [len(block) - 1 for block in blocks]
    loss = math.fsum(x * n for x, n in zip(losses, counts, strict=True)) / sum(counts)
    dtype = str(model.dtype).removeprefix("torch.")
    del model
    gc.collect()  # the next checkpoint is loaded into the same memory
    if not math.isfinite(loss):
        raise CheckError(f"{path}: its loss on {text} is {loss}, no number")
    return Score(loss, math.exp(loss) if loss < LARGEST else None, sum(counts), dtype)


def load(folder: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer of a folder, of which no tensor is missing or left over.

    In bfloat16 if it is stored so and this machine multiplies it, else in float32.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    check_folder(folder)
    weight_files(folder)
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers(), explained(f"{folder}: transformers cannot load it"):
        stored = AutoConfig.from_pretrained(folder, **given).dtype
        fast = stored == torch.bfloat16 and has_bfloat16()
        dtype = torch.bfloat16 if fast else torch.float32
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, **given
        )
        tokenizer = tokenizer_of(folder)
    model, info = loaded
    with explained(f"{folder}: transformers loads it and cannot run it"):
        ahead = sees_ahead(model)
    if ahead:
        raise UserError(f"{folder}: its first prediction sees the next token: it has no perplexity")
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(name for name in info[problem] if not BUFFER.fullmatch(str(name))):
            raise CheckError(f"{folder}: transformers reports {problem}: {names[0]}")
    return model.to(compute_device()).eval(), tokenizer


def sees_ahead(model: Any) -> bool:
    """Does what a model predicts at a first token depend on the second one?

    Where attention is causal the derivative is exactly zero, whatever the dtype.
    """
    embedded: list[Tensor] = []
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda *called: embedded.append(called[-1]))
    try:
        logits = model(input_ids=torch.tensor([[0, 0]], device=model.device)).logits
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, 0].sum(), embedded)
    return bool(gradient[0, 1].nan_to_num(0, 0, 0).any())  # what is no number, the loss tells


def check_text(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"text: {path}: is a folder; give a file of it, in UTF-8")
    if not path.is_file():
        if path.exists():
            raise UserError(f"text: {path}: is a pipe or device; a text is read twice, give a file")
        raise UserError(f"text: {path}: no such file; give a text in UTF-8")


def windows(tokenizer: Any, config: Any, path: Path) -> list[Tensor]:
    """The text's tokens as windows (n,) int64, the last one shorter, none of one token alone."""
    check_text(path)
    first = beginning(tokenizer)
    positions = readable(config, WINDOW)
    if positions <= (taken := max(1, len(first))):
        raise UserError(
            f"config.json: max_position_embeddings: {positions}: leaves no position for a token "
            f"after the first {taken}, from which it is predicted; {taken + 1} or more would do"
        )
    ids = tokenizer(read_text(path), add_special_tokens=False, verbose=False)["input_ids"]
    if (top := max(ids, default=0)) >= config.vocab_size:
        token = tokenizer.convert_ids_to_tokens(top)
        raise UserError(
            f"text: {path}: holds the token {token!r} with id {top}, but the model's vocabulary "
            f"ends at {config.vocab_size - 1}"
        )
    size = positions - len(first)
    parts = [[*first, *ids[i : i + size]] for i in range(0, len(ids), size)]
    found = [torch.tensor(part) for part in parts if len(part) > 1]
    if not found:
        raise UserError(f"text: {path}: {len(ids)} tokens; a model predicts from the second on")
    return found


def windows_of(folder: Path, text: Path) -> list[Tensor]:
    """The windows of `text` for the checkpoint in `folder`, of which no tensor is read."""
    from transformers import AutoConfig

    with quiet_transformers():
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return windows(tokenizer_of(folder), config.get_text_config(), text)


def whole_windows(folder: Path, text: Path) -> list[Tensor]:
    """The text's windows of one length, to train on."""
    found = windows_of(folder, text)
    return [window for window in found if len(window) == len(found[0])]

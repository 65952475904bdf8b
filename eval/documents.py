"""Perplexity as the official code reports it: the mean over documents of each one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from eval.data import rows
from eval.model import LanguageModel
from lesa.training.heldout import block_losses, first_tokens, mean_perplexity, readable
from lesa.training.processes import group


def document_perplexity(model: LanguageModel, heldout: Path, tokens: int) -> dict[str, Any]:
    """Mean over documents of exp(mean token loss), each document cut to its first `tokens` tokens,
    or as many as the model has positions.

    `heldout` is a jsonl of {"id", "text"}. Returns the mean as "value", the ids as "documents" and
    their mean losses in nats a token as "losses". Several processes of one launcher share the
    documents.
    """
    size = readable(model.config, tokens)
    found = first_tokens(rows(heldout, ("id", "text")), model.tokenizer, size)
    processes = group()
    mine = dict(list(found.items())[processes.process_index :: processes.num_processes])
    scored = block_losses(model.model, list(mine.values()), False, 1)
    losses = dict(gather_object(list(zip(mine, scored, strict=True))))
    return {
        "value": mean_perplexity(losses[name] for name in found),
        "documents": list(found),
        "losses": [losses[name] for name in found],
    }

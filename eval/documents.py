"""Perplexity as the official code reports it: the mean over documents of each one's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from eval.data import rows
from eval.model import LanguageModel
from lesa.training.heldout import block_losses, mean
from lesa.training.processes import group


def document_perplexity(model: LanguageModel, heldout: Path, tokens: int) -> dict[str, Any]:
    """Mean over documents of exp(mean token loss), each document cut to its first `tokens` tokens.

    `heldout` is a jsonl of {"id", "text"}. A document begins as the tokenizer begins texts, and no
    end-of-text token is added. A text of one token, which predicts none, is left out. Returns the
    mean as "value", the ids as "documents" and their mean losses in nats a token as "losses".
    Several processes of one launcher share the documents.
    """
    encoded = {
        str(row["id"]): model.tokenizer(str(row["text"]), verbose=False)["input_ids"][:tokens]
        for row in rows(heldout, ("id", "text"))
    }
    found = {name: torch.tensor(ids) for name, ids in encoded.items() if len(ids) > 1}
    processes = group()
    mine = list(found.items())[processes.process_index :: processes.num_processes]
    scored = [(name, block_losses(model.model, [ids], False, 1)[0]) for name, ids in mine]
    losses = dict(gather_object(scored))
    return {
        "value": mean([math.exp(losses[name]) for name in found]),
        "documents": list(found),
        "losses": [losses[name] for name in found],
    }

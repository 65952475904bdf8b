"""Stage text of the study sft: conversations, tokenised with the prompts masked, and packed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from lesa.errors import UserError
from lesa.files import key_of, whole_folder, write_json
from lesa.params import HubRows, Params
from lesa.text.completions import completion_bytes, pack, save, tokens
from lesa.text.conversations import Chats, Conversation, conversations, split
from lesa.training.sequences import Example, write_examples
from pipelines.folders import BASE
from pipelines.stage import run_stage
from pipelines.study import params_file, study_params
from pipelines.tracking import Tracker

FOLDER = Path("artifacts/text/sft")


def examples(tokenizer: Any, found: list[Conversation], longest: int) -> list[Example]:
    """The conversations of at most `longest` tokens."""
    made = []
    for entry in found:
        ids, labels = tokens(tokenizer, entry)
        if len(ids) <= longest:
            size = completion_bytes(tokenizer, entry)
            made.append(Example(entry.id, entry.group, size, ids, labels))
    return made


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    chats: Chats = study_params("sft", "text", Chats)
    source, key = chats.conversations, f"{params_file('sft')}: text"
    if not isinstance(source, HubRows):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is first imported
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    chosen = split(list(conversations(source, f"{key}.conversations")), chats, key)
    made = {name: examples(tokenizer, found, chats.block_size) for name, found in chosen.items()}
    dropped = {name: len(chosen[name]) - len(made[name]) for name in made}
    heldout = made["heldout"][: chats.heldout_conversations]
    if not made["train"] or not heldout:
        raise UserError(
            f"{key}.block_size: {chats.block_size} tokens; no conversation to train on or to hold "
            f"out is as short; longer ones: {dropped}"
        )
    blocks = pack(
        [(example.input_ids, example.labels) for example in made["train"]],
        chats.block_size,
        tokenizer.eos_token_id,
    )
    report = {
        "source": source.described,
        "license": source.license,
        "template": "the tokenizer's" if tokenizer.chat_template else "plain",
        "conversations": {"train": len(made["train"]), "heldout": len(heldout)},
        "longer_than_a_block": dropped,
        "blocks": len(blocks),
        "targets": {
            "train": sum(example.targets for example in made["train"]),
            "heldout": sum(example.targets for example in heldout),
        },
        "digest": key_of([[e.id, e.input_ids] for e in (*made["train"], *heldout)]),
    }
    with whole_folder(FOLDER) as partial:
        save(blocks, partial / "train")
        write_examples(heldout, partial / "heldout.jsonl")
        write_json(partial / "SOURCE.json", report)
    log.metrics({"blocks": float(len(blocks))})


if __name__ == "__main__":
    run_stage("sft-text", work)

"""Conversations as tokens of which the assistant's alone are targets, packed into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesa.errors import UserError, explained
from lesa.text.conversations import Conversation, Message

IGNORED = -100  # labels that are no target, as in transformers
# Of a tokenizer that has no template of its own.
PLAIN = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
Tokens = tuple[list[int], list[int]]  # input_ids and labels, of one length


def render(tokenizer: Any, messages: Sequence[Message], prompt: bool) -> str:
    """The messages by the tokenizer's chat template; `prompt`: and the assistant's turn begun."""
    template = None if tokenizer.chat_template else PLAIN
    text: str = tokenizer.apply_chat_template(
        list(messages), chat_template=template, tokenize=False, add_generation_prompt=prompt
    )
    return text


def segments(tokenizer: Any, entry: Conversation) -> list[tuple[str, bool]]:
    """The conversation's text in pieces, each with whether the assistant is to write it.

    What the template adds after an assistant's text, such as the end of its turn, belongs to it: a
    model must learn to stop. Raises UserError where a template renders the beginning of a
    conversation otherwise once it goes on.
    """
    found, done = [], ""
    for index, message in enumerate(entry.messages):
        if message["role"] != "assistant" or index == 0:
            continue
        with explained(
            f"{entry.id}: the tokenizer's chat template does not take this conversation"
        ):
            before = render(tokenizer, entry.messages[:index], prompt=True)
            after = render(tokenizer, entry.messages[: index + 1], prompt=False)
        if not before.startswith(done) or not after.startswith(before):
            raise UserError(
                f"{entry.id}: the tokenizer's chat template changes what came before message "
                f"{index + 1}; split the conversation so that it ends there"
            )
        found += [(before[len(done) :], False), (after[len(before) :], True)]
        done = after
    return found


def tokens(tokenizer: Any, entry: Conversation) -> Tokens:
    """Tokens of a conversation and their labels, IGNORED outside of the assistant's texts.

    Each piece is tokenised by itself, as a prompt is when a model is used.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, wanted in segments(tokenizer, entry):
        piece = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids += piece
        labels += piece if wanted else [IGNORED] * len(piece)
    return ids, labels


def completion_bytes(tokenizer: Any, entry: Conversation) -> int:
    """Bytes in UTF-8 of what is predicted."""
    return sum(len(text.encode()) for text, wanted in segments(tokenizer, entry) if wanted)


def pack(found: Sequence[Tokens], block_size: int, padding: int) -> list[Tokens]:
    """Blocks of `block_size` tokens, each of whole conversations in their order, and padding.

    A conversation sees those before it in its block, as in packed pre-training; the padding
    is no target. None is longer than a block.
    """
    blocks: list[Tokens] = []
    ids: list[int] = []
    labels: list[int] = []

    def close() -> None:
        missing = block_size - len(ids)
        blocks.append((ids + [padding] * missing, labels + [IGNORED] * missing))

    for more_ids, more_labels in found:
        if ids and len(ids) + len(more_ids) > block_size:
            close()
            ids, labels = [], []
        ids, labels = ids + more_ids, labels + more_labels
    if ids:
        close()
    return blocks


def save(blocks: Sequence[Tokens], folder: Path) -> None:
    """A `datasets` folder with the columns `input_ids` and `labels`, int32."""
    from datasets import Dataset, Features, List, Value

    columns = {
        "input_ids": [ids for ids, _ in blocks],
        "labels": [labels for _, labels in blocks],
    }
    features = Features(dict.fromkeys(columns, List(Value("int32"))))
    Dataset.from_dict(columns, features=features).save_to_disk(folder)

"""Documents to packed blocks of tokens: train, validation and test share no document."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesa.errors import UserError
from lesa.files import tree_digest, write_json, write_text
from lesa.params import Corpus
from lesa.text.documents import describe, documents
from lesa.text.wikitext import Document

Tokens = npt.NDArray[np.int32]


def build(corpus: Corpus, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Fill the empty `folder` with the splits and the held-out texts; returns their numbers.

    Holds the text and its tokens in memory: bound a large source by `corpus.max_documents`.
    """
    splits = split(kept(documents(corpus.text), corpus), corpus)
    tokens = {name: tokenise(texts, tokenizer, name) for name, texts in splits.items()}
    blocks = {name: pack(stream, corpus.block_size) for name, stream in tokens.items()}
    blocks["test"] = spread(blocks["test"], corpus.heldout_blocks, "corpus.heldout_blocks")
    blocks["validation"] = spread(
        blocks["validation"], corpus.validation_blocks, "corpus.validation_blocks"
    )
    if not len(blocks["train"]):
        raise UserError(
            f"corpus.block_size: the training text has {len(tokens['train'])} tokens, "
            f"less than one block of {corpus.block_size}"
        )
    for name, rows in blocks.items():
        save(rows, folder / name)
    write_documents(splits["test"], folder / "documents" / "heldout.jsonl")
    source = {"license": corpus.text.license, "source": describe(corpus.text)}
    write_json(folder / "SOURCE.json", source | {"digest": text_digest(splits)})
    heldout = len(splits["test"]) + len(splits["validation"])
    return source | {
        "documents": {name: len(texts) for name, texts in splits.items()} | {"heldout": heldout},
        "tokens": {name: int(rows.size) for name, rows in blocks.items()},
        "blocks": {name: len(rows) for name, rows in blocks.items()},
        "block_size": corpus.block_size,
        "digest": tree_digest(folder),
    }


def kept(source: Iterable[Document], corpus: Corpus) -> list[Document]:
    """Documents of `corpus.min_characters` or more, the first `corpus.max_documents` of them."""
    long_enough = (entry for entry in source if len(entry["text"]) >= corpus.min_characters)
    found = list(islice(long_enough, corpus.max_documents))
    if not found:
        raise UserError(
            f"corpus.text: holds no document of corpus.min_characters={corpus.min_characters} "
            f"or more ({describe(corpus.text)})"
        )
    return found


def split(found: Sequence[Document], corpus: Corpus) -> dict[str, list[Document]]:
    """Shuffle, hold out `corpus.heldout_documents`: half for the test, half for validation."""
    count = corpus.heldout_documents
    if not 2 <= count < len(found):
        raise UserError(
            f"corpus.heldout_documents: {count} of {len(found)} documents; "
            "at least 2 must be held out and 1 be left to train on"
        )
    order = random.Random(corpus.seed).sample(range(len(found)), len(found))
    shuffled = [found[index] for index in order]
    half = (count + 1) // 2
    return {
        "train": shuffled[count:],
        "validation": shuffled[half:count],
        "test": shuffled[:half],
    }


def tokenise(texts: Sequence[Document], tokenizer: Any, name: str) -> Tokens:
    """All documents' tokens in one row, int32, the end-of-text token after each document."""
    from datasets import Dataset

    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("base: its tokenizer has no end-of-text token (eos_token)")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        # Not verbose: it warns of documents longer than the model's context; they are cut later.
        encoded = tokenizer(batch["text"], add_special_tokens=False, verbose=False)
        return {"input_ids": [[*ids, end] for ids in encoded["input_ids"]]}

    rows = Dataset.from_dict({"text": [entry["text"] for entry in texts]}).map(
        encode,
        batched=True,
        batch_size=64,
        remove_columns=["text"],
        new_fingerprint=f"tokens-{name}",  # in memory, never looked up: no need to hash
        desc=f"tokenise {name}",
    )
    return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in rows["input_ids"]])


def pack(tokens: Tokens, block_size: int) -> Tokens:
    """`(n,)` to `(n // block_size, block_size)`; the rest is dropped."""
    count = len(tokens) // block_size
    return tokens[: count * block_size].reshape(count, block_size)


def spread(blocks: Tokens, count: int, key: str) -> Tokens:
    """`count` blocks at even distances, so that they come from as many documents as can be."""
    if len(blocks) < count:
        raise UserError(
            f"{key}: {count} blocks wanted, the held-out documents give {len(blocks)}; "
            "raise corpus.heldout_documents or lower it"
        )
    return blocks[[index * len(blocks) // count for index in range(count)]]


def save(blocks: Tokens, folder: Path) -> None:
    """A `datasets` folder with one column `input_ids`, int32."""
    from datasets import Dataset, Features, List, Value

    features = Features({"input_ids": List(Value("int32"))})
    Dataset.from_dict({"input_ids": list(blocks)}, features=features).save_to_disk(folder)


def write_documents(texts: Sequence[Document], path: Path) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in texts))


def text_digest(splits: dict[str, list[Document]]) -> str:
    """Hex sha256 of which text is in which split."""
    digest = hashlib.sha256()
    for name, texts in splits.items():
        for entry in texts:
            digest.update(f"{name}\0{entry['id']}\0{entry['text']}\0".encode())
    return digest.hexdigest()

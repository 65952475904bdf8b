"""Documents to packed blocks of tokens: train, validation and test share no document."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lesa.errors import UserError
from lesa.files import tree_digest, write_json, write_json_lines
from lesa.params import Corpus
from lesa.text.documents import documents
from lesa.text.wikitext import Document

Tokens = npt.NDArray[np.int32]
Owners = npt.NDArray[np.int64]
BATCH = 64  # documents that are tokenised at once


def build(corpus: Corpus, tokenizer: Any, config: Any, folder: Path) -> dict[str, Any]:
    """Fill the empty `folder` with the splits and the held-out texts; returns their numbers.

    `config` is transformers' of the model that is to read the blocks. The text and its tokens are
    held in memory: bound a large source by `corpus.max_documents`.
    """
    check_block_size(corpus, config)
    chosen, duplicates = choose_documents(documents(corpus.text), corpus)
    splits = split(chosen, corpus)
    blocks, owners, counts = {}, {}, {name: len(texts) for name, texts in splits.items()}
    for name, texts in splits.items():
        tokens = tokenise(texts, tokenizer, config.vocab_size, name)
        blocks[name], owners[name] = pack(tokens, corpus.block_size)
        if name != "train":
            chosen_blocks = of_each_document(owners[name], corpus.blocks_per_document, name)
            blocks[name], owners[name] = blocks[name][chosen_blocks], owners[name][chosen_blocks]
            counts[name] = len(np.unique(owners[name]))
            if short := len(texts) - counts[name]:
                print(
                    f"corpus: {short} of {len(texts)} {name} documents have fewer than "
                    f"corpus.blocks_per_document={corpus.blocks_per_document} blocks of "
                    f"corpus.block_size={corpus.block_size} tokens: nothing is measured on them"
                )
    if not len(blocks["train"]):
        raise UserError(
            f"corpus.block_size: the training text has less than one block of {corpus.block_size} "
            "tokens"
        )
    for name, rows in blocks.items():
        save(rows, [str(splits[name][owner]["id"]) for owner in owners[name]], folder / name)
    write_json_lines(folder / "documents" / "heldout.jsonl", splits["test"])
    source = {"license": corpus.text.license, "source": corpus.text.described}
    write_json(folder / "SOURCE.json", source | {"digest": text_digest(splits)})
    return source | {
        "documents": counts | {"heldout": counts["test"] + counts["validation"]},
        "duplicates": duplicates,
        "tokens": {name: int(rows.size) for name, rows in blocks.items()},
        "blocks": {name: len(rows) for name, rows in blocks.items()},
        "block_size": corpus.block_size,
        "begins_with": tokenizer.convert_ids_to_tokens(beginning(tokenizer)),
        "digest": tree_digest(folder),
    }


def check_block_size(corpus: Corpus, config: Any) -> None:
    """A block has a token to predict, and no more tokens than the model has positions."""
    positions = config.max_position_embeddings
    if not 2 <= corpus.block_size <= positions:
        raise UserError(
            f"corpus.block_size: {corpus.block_size} tokens; must be 2 to {positions}, the "
            "positions of the base (max_position_embeddings in its config.json)"
        )


def digest_of(text: str) -> bytes:
    """The same for texts that differ in white space alone."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def choose_documents(source: Iterable[Document], corpus: Corpus) -> tuple[list[Document], int]:
    """Documents of `corpus.min_characters` or more, the first `corpus.max_documents` of them.

    A text that differs from an earlier one in white space alone is left out, for it could be both
    trained on and held out. The second value is the number of those. What is measured is kept by a
    document's id: one that several have gets a number from the second on.
    """
    chosen: list[Document] = []
    seen: set[bytes] = set()  # digests, not texts
    names: set[str] = set()
    numbers: Counter[str] = Counter()
    duplicates = 0
    for entry in source:
        if len(entry["text"]) < corpus.min_characters:
            continue
        digest = digest_of(entry["text"])
        if digest in seen:
            duplicates += 1
            continue
        seen.add(digest)
        name = entry["id"]
        while name in names:
            numbers[entry["id"]] += 1
            name = f"{entry['id']} ({numbers[entry['id']] + 1})"
        names.add(name)
        chosen.append({**entry, "id": name})
        if len(chosen) == corpus.max_documents:
            break
    if not chosen:
        raise UserError(
            f"corpus.text: holds no document of corpus.min_characters={corpus.min_characters} "
            f"or more ({corpus.text.described})"
        )
    return chosen, duplicates


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
    return {
        "train": shuffled[count:],
        "validation": shuffled[corpus.test_documents : count],
        "test": shuffled[: corpus.test_documents],
    }


def tokenise(texts: Sequence[Document], tokenizer: Any, vocab_size: int, name: str) -> list[Tokens]:
    """The tokens of each document, (n,) int32.

    A document begins as the tokenizer begins texts, and ends with one end-of-text token,
    whether or not the tokenizer ends texts with it.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("base: its tokenizer has no end-of-text token (eos_token)")
    found = []
    for start in tqdm(range(0, len(texts), BATCH), desc=f"tokenise {name}", unit="batch"):
        batch = texts[start : start + BATCH]
        # Not verbose: it warns of documents longer than the model's context; they are cut later.
        encoded = tokenizer([entry["text"] for entry in batch], verbose=False)["input_ids"]
        for entry, ids in zip(batch, encoded, strict=True):
            found.append(np.array(ids if ids[-1:] == [end] else [*ids, end], dtype=np.int32))
            if (largest := int(found[-1].max())) >= vocab_size:
                token = tokenizer.convert_ids_to_tokens(largest)
                raise UserError(
                    f"corpus.text: document {entry['id']!r} holds the token {token!r} with id "
                    f"{largest}, but the base's vocabulary ends at {vocab_size - 1}"
                )
    return found


def beginning(tokenizer: Any) -> list[int]:
    """Ids of the tokens that the tokenizer puts before every text; most put none."""
    # "a", or what has a token in a vocabulary without it, as DNA's.
    texts = chain(
        ["a"], (tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
    )
    encoded = ((text, tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    text, plain = next((text, ids) for text, ids in encoded if ids)
    whole = tokenizer(text)["input_ids"]
    starts = range(len(whole) - len(plain) + 1)
    start = next(start for start in starts if whole[start : start + len(plain)] == plain)
    return list(whole[:start])


def pack(documents: Sequence[Tokens], block_size: int) -> tuple[Tokens, Owners]:
    """Blocks (count, block_size) of the documents' tokens in one row, whose rest is dropped.

    The second value, (count,), is the index of the document that each block counts as: the one of
    its middle token, which is the only one of a block within a document.
    """
    tokens = np.concatenate(documents)
    count = len(tokens) // block_size
    ends = np.cumsum([len(document) for document in documents])
    middles = np.arange(count) * block_size + block_size // 2
    owners = np.searchsorted(ends, middles, side="right")
    return tokens[: count * block_size].reshape(count, block_size), owners


def of_each_document(owners: Owners, count: int, split: str) -> list[int]:
    """Indexes of `count` blocks at even distances of each document that has as many.

    A difference between models is resampled by document, so each must weigh the same.
    """
    found: list[int] = []
    for owner in np.unique(owners):
        own = np.flatnonzero(owners == owner)
        if len(own) >= count:
            found += [int(own[(2 * i + 1) * len(own) // (2 * count)]) for i in range(count)]
    if not found:
        raise UserError(
            f"corpus.blocks_per_document: {count}, but no {split} document has as many blocks of "
            "corpus.block_size tokens; lower either"
        )
    return found


def save(blocks: Tokens, documents: list[str], folder: Path) -> None:
    """A `datasets` folder: `input_ids`, int32, and the id of the `document` of each block."""
    import pyarrow
    from datasets import Dataset, Features, List, Value

    # As Arrow's own array: of a list of rows, `datasets` makes a Python object of each token.
    rows = pyarrow.FixedSizeListArray.from_arrays(blocks.reshape(-1), blocks.shape[1])
    features = Features({"input_ids": List(Value("int32")), "document": Value("string")})
    column = rows.cast(pyarrow.list_(pyarrow.int32()))
    columns = {"input_ids": column, "document": documents}
    Dataset.from_dict(columns, features=features).save_to_disk(folder)


def text_digest(splits: dict[str, list[Document]]) -> str:
    """Hex sha256 of which text is in which split."""
    digest = hashlib.sha256()
    for name, texts in splits.items():
        for entry in texts:
            digest.update(f"{name}\0{entry['id']}\0{entry['text']}\0".encode())
    return digest.hexdigest()

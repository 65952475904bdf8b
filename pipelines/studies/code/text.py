"""Stage text of the study code: Python source, tokenised and packed, split by package."""

from __future__ import annotations

import argparse
import platform
import random
from pathlib import Path
from typing import Any

import numpy as np

from lesa.files import whole_folder, write_json
from lesa.params import Params
from lesa.text import corpus
from lesa.text.python_source import PythonSource, heldout_texts, python_files
from lesa.text.wikitext import Document
from lesa.training.head_loss import IGNORED
from lesa.training.sequences import Example, write_examples
from pipelines.folders import BASE
from pipelines.stage import run_stage
from pipelines.study import params_file, study_params
from pipelines.tracking import Tracker

FOLDER = Path("artifacts/text/code")


def heldout_example(file: Document, tokens: list[int], tokenizer: Any) -> Example:
    """A file after one token that begins texts, so that each of its own tokens is predicted.

    `tokens` end with an end-of-text token, which is no part of the file and is left out.
    """
    starts = corpus.beginning(tokenizer)
    ids = tokens[:-1] if starts else [tokenizer.eos_token_id, *tokens[:-1]]
    masked = max(len(starts), 1)
    labels = [IGNORED] * masked + ids[masked:]
    return Example(file["id"], file["title"], len(file["text"].encode()), ids, labels)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    from transformers import AutoConfig, AutoTokenizer

    source: PythonSource = study_params("code", "text", PythonSource)
    key = f"{params_file('code')}: text"
    config, tokenizer = AutoConfig.from_pretrained(BASE), AutoTokenizer.from_pretrained(BASE)
    files = python_files(source, key)
    random.Random(source.seed).shuffle(files["train"])
    texts = {"train": files["train"], "heldout": heldout_texts(source, files["heldout"], key)}
    tokens = {
        name: corpus.tokenise(found, tokenizer, config.vocab_size, name)
        for name, found in texts.items()
    }
    blocks, owners = corpus.pack(tokens["train"], source.block_size)
    names = [texts["train"][index]["id"] for index in owners]
    examples = [
        heldout_example(file, np.asarray(ids).tolist(), tokenizer)
        for file, ids in zip(texts["heldout"], tokens["heldout"], strict=True)
    ]
    counts = {name: sum(map(len, found)) for name, found in tokens.items()}
    report = {
        "python": platform.python_version(),
        "packages": {
            "train": {p.requirement: p.license for p in source.train}
            | {"the standard library": "PSF-2.0"},
            "heldout": {p.requirement: p.license for p in source.heldout},
        },
        "files": {name: len(found) for name, found in texts.items()},
        "tokens": counts,
        "digest": corpus.text_digest(texts),
    }
    with whole_folder(FOLDER) as partial:
        corpus.save(blocks, names, partial / "train")
        write_examples(examples, partial / "heldout.jsonl")
        write_json(partial / "SOURCE.json", report)
    log.metrics({f"tokens/{name}": float(count) for name, count in counts.items()})


if __name__ == "__main__":
    run_stage("code-text", work)

"""Stage text of the study scale: Python source, packed; packages are trained on or held out."""

from __future__ import annotations

import argparse
import platform
import random
from pathlib import Path
from typing import Any

import numpy as np

from lesa.errors import UserError
from lesa.files import whole_folder, write_json
from lesa.params import Params, Positive
from lesa.text import corpus
from lesa.text.python_source import PythonFiles, python_files
from lesa.text.wikitext import Document
from pipelines.folders import BASE
from pipelines.stage import run_stage
from pipelines.study import params_file, study_params
from pipelines.tracking import Tracker

FOLDER = Path("artifacts/text/scale")


class PackedSource(PythonFiles):
    """blocks_per_package: of each held-out package, at even distances; of the held-out packages,
    every other one is for validation."""

    blocks_per_package: Positive
    max_tokens: Positive  # of training


def of_each_package(
    files: list[Document], tokens: list[corpus.Tokens], names: list[str], source: PackedSource
) -> tuple[corpus.Tokens, list[str]]:
    """The held-out blocks (count, block_size) of the packages `names`, and each one's package."""
    blocks, owners = [], []
    for name in names:
        own = [ids for file, ids in zip(files, tokens, strict=True) if file["title"] == name]
        packed, _ = corpus.pack(own, source.block_size)
        count = source.blocks_per_package
        if len(packed) < count:
            raise UserError(
                f"{params_file('scale')}: text.blocks_per_package: {count}, but {name} has "
                f"{len(packed)} blocks of {source.block_size} tokens, which would be the most"
            )
        same = np.zeros(len(packed), dtype=np.int64)  # one package, as one document
        blocks += [packed[i] for i in corpus.of_each_document(same, count, "held-out")]
        owners += [name] * count
    return np.stack(blocks), owners


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    from transformers import AutoConfig, AutoTokenizer

    source: PackedSource = study_params("scale", "text", PackedSource)
    config: Any = AutoConfig.from_pretrained(BASE)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    files = python_files(source, f"{params_file('scale')}: text")
    random.Random(source.seed).shuffle(files["train"])
    tokens = {
        name: corpus.tokenise(found, tokenizer, config.vocab_size, name)
        for name, found in files.items()
    }
    blocks, owners = corpus.pack(tokens["train"], source.block_size)
    if blocks.size < source.max_tokens:
        raise UserError(
            f"{params_file('scale')}: text.max_tokens: {source.max_tokens}, but the packages of "
            f"text.train have {blocks.size}; name more of them or lower it"
        )
    blocks = blocks[: source.max_tokens // source.block_size]
    packages = [package.name for package in source.heldout]
    with whole_folder(FOLDER) as partial:
        of_blocks = [files["train"][index]["id"] for index in owners[: len(blocks)]]
        corpus.save(blocks, of_blocks, partial / "train")
        for split, names in (("test", packages[::2]), ("validation", packages[1::2])):
            heldout = of_each_package(files["heldout"], tokens["heldout"], names, source)
            corpus.save(*heldout, partial / split)
        report = {
            "python": platform.python_version(),
            "packages": {
                split: {p.requirement: p.license for p in found}
                for split, found in (("train", source.train), ("heldout", source.heldout))
            },
            "files": len(files["train"]),
            "tokens": int(blocks.size),
            "digest": corpus.text_digest(files),
        }
        write_json(partial / "SOURCE.json", report)
    log.metrics({"tokens/train": float(blocks.size)})


if __name__ == "__main__":
    run_stage("scale-text", work)

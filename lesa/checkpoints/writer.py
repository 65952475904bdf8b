"""Checkpoints in safetensors, written shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from lesa.checkpoints.reader import INDEX
from lesa.files import read_object, write_json, write_tensors

SHARD_BYTES = 512 * 2**20
PLAN_FILE = "layer_plan.json"
CARD = "README.md"
SIDE_FILES = (  # what a checkpoint folder holds besides its weights, as far as it is there
    "config.json", "generation_config.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*",
    # All that a tokenizer of transformers may be read from.
    "tokenizer*", "tekken.json", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "*vocab.json", "merges.txt", "*.model", "*.spm", "*.tiktoken", "*.tokenizer", "bpe.codes",
    "dict.txt", "byte_maps.json", "emoji.json", "normalizer.json", "word_*.json",
)  # fmt: skip


# Entries of side files that name code beside the weights: it is not run, nor copied.
OWN_CODE = {"auto_map", "custom_pipelines"}
NAMES_CODE = {"config.json", "tokenizer_config.json"}


def write_checkpoint(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Stream named tensors into `folder` as shards of at most SHARD_BYTES.

    Holds one shard at a time. Writes the index that `from_pretrained` reads.
    """
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    size = total_bytes = 0

    def flush() -> None:
        nonlocal size
        if pending:
            write_tensors(folder / f"shard-{len(shards) + 1}", pending, {"format": "pt"})
            shards.append(list(pending))
            pending.clear()
            size = 0

    for name, tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        if size + nbytes > SHARD_BYTES:
            flush()
        # A reader hands out the same memory for the same tensor; a shard must not share any.
        pending[name] = tensor.clone(memory_format=torch.contiguous_format)
        size += nbytes
        total_bytes += nbytes
    flush()
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}").rename(folder / file)
        weight_map.update(dict.fromkeys(names, file))
    write_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def copy_side_files(source: Path, folder: Path, *more: str) -> None:
    """Copy config, tokenizer, templates and licences, and the files `more`: all else that may lie
    in a checkpoint's folder, such as the same weights as pickles, is not the model's.

    Nor is code: where config.json or tokenizer_config.json names some, that entry is left out, or
    `trust_remote_code=True` would look for it.
    """
    for pattern in (*SIDE_FILES, *more):
        for path in source.glob(pattern):
            if path.is_file():
                target = folder / path.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                if path.name in NAMES_CODE and OWN_CODE & (entries := read_object(path)).keys():
                    write_json(target, {k: v for k, v in entries.items() if k not in OWN_CODE})
                else:
                    shutil.copyfile(path, target)

"""Checkpoints in safetensors, written shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from lesa.checkpoints.reader import INDEX
from lesa.files import write_json

SHARD_BYTES = 512 * 2**20
PLAN_FILE = "layer_plan.json"


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
            save_file(pending, folder / f"shard-{len(shards) + 1}", metadata={"format": "pt"})
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


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy what lies in a checkpoint's folder beside its weights: config, tokenizer, templates."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and "safetensors" not in path.name:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

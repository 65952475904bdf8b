"""Checkpoints in safetensors, read tensor by tensor and written shard by shard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lesa.errors import UserError
from lesa.files import read_json, write_json

# The seven matrix kinds of the method (docs/method.md step 1) and where transformers keeps them.
KINDS = {
    "q_proj": "self_attn.q_proj.weight",
    "k_proj": "self_attn.k_proj.weight",
    "v_proj": "self_attn.v_proj.weight",
    "o_proj": "self_attn.o_proj.weight",
    "gate_proj": "mlp.gate_proj.weight",
    "up_proj": "mlp.up_proj.weight",
    "down_proj": "mlp.down_proj.weight",
}
PLAN_FILE = "layer_plan.json"
SHARD_BYTES = 512 * 2**20

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def layer_tensor(layer_idx: int, suffix: str) -> str:
    """Name of a layer's tensor, as `LlamaForCausalLM` and its kin save it."""
    return f"model.layers.{layer_idx}.{suffix}"


def split_layer(name: str) -> tuple[int, str] | None:
    """`model.layers.7.mlp.up_proj.weight` to `(7, "mlp.up_proj.weight")`; None for the rest."""
    match = _LAYER.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


class Checkpoint:
    """Lazy reader of a folder with `config.json` and safetensors, sharded or single.

    No tensor is read until asked for, and no file stays open: a shard that does keeps every page
    read from it in the process, so memory would grow with the depth.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise UserError(f"{self.folder}: no checkpoint there (config.json is missing)")
        try:
            self.config: dict[str, Any] = read_json(self.folder / "config.json")
        except ValueError as error:
            raise UserError(f"{self.folder / 'config.json'}: not JSON ({error})") from None
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise UserError(f"{self.folder}: holds no .safetensors file")
        self._where: dict[str, Path] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as shard:
                    self._where.update(dict.fromkeys(shard.keys(), path))
            except SafetensorError as error:
                raise UserError(f"{path}: not a whole safetensors file ({error})") from None
        layers = [split[0] for name in self._where if (split := split_layer(name))]
        self.num_layers = max(layers, default=-1) + 1
        missing = [
            layer_tensor(i, suffix)
            for i in range(self.num_layers)
            for suffix in KINDS.values()
            if layer_tensor(i, suffix) not in self._where
        ]
        if missing or not layers:
            name = missing[0] if missing else layer_tensor(0, KINDS["q_proj"])
            raise UserError(
                f"{self.folder}: model type {self.config.get('model_type')!r} lacks {name}; "
                f"the method needs {', '.join(KINDS)} in every layer"
            )

    def names(self) -> list[str]:
        return list(self._where)

    def suffixes(self) -> list[str]:
        """Names of one layer's tensors, without the layer's prefix."""
        return [s[1] for name in self._where if (s := split_layer(name)) and s[0] == 0]

    def tensor(self, name: str) -> torch.Tensor:
        with safe_open(self._where[name], framework="pt") as shard:
            tensor: torch.Tensor = shard.get_tensor(name)
        return tensor

    def matrix(self, kind: str, layer_idx: int) -> torch.Tensor:
        """One layer's matrix `(d1, d2)` of a kind, as stored."""
        return self.tensor(layer_tensor(layer_idx, KINDS[kind]))


def write_checkpoint(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> int:
    """Stream named tensors into `folder` as shards of at most SHARD_BYTES; returns parameters.

    Holds one shard at a time. Writes the index that `from_pretrained` reads.
    """
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    size = total_bytes = parameters = 0

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
        parameters += tensor.numel()
    flush()
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}").rename(folder / file)
        weight_map.update(dict.fromkeys(names, file))
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total_bytes}, "weight_map": weight_map},
    )
    return parameters


def deepened_config(config: dict[str, Any], sources: list[int]) -> dict[str, Any]:
    """`config.json` for a model whose layer i takes its per-layer settings from `sources[i]`."""
    new = json.loads(json.dumps(config))
    new["num_hidden_layers"] = len(sources)
    if isinstance(types := new.get("layer_types"), list):
        new["layer_types"] = [types[i] for i in sources]
    return dict(new)

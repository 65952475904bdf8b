"""Hidden states that enter the first trainable layer, computed once and kept on disk.

Everything below that layer is frozen, so for a block of tokens its output is always the same: in
all epochs and evaluations, and for all methods that put their first new layer in the same gap.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from lesa.checkpoints.reader import Checkpoint, split_layer
from lesa.errors import UserError
from lesa.files import gib, key_of, whole_file
from lesa.training import processes

LAYERS = "model.layers"


class Skipped(nn.Module):
    """Stands where a frozen layer stood and hands the hidden states on.

    The layers above keep their index, by which transformers picks masks and settings.
    """

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class _ReachedError(Exception):
    """Ends a forward pass at the layer that was asked for."""


def first_trainable(model: nn.Module) -> int:
    """Index of the lowest layer that trains; 0 if anything outside the layers trains."""
    found = [split_layer(name) for name, p in model.named_parameters() if p.requires_grad]
    indexes = [split[0] if split else 0 for split in found]
    return min(indexes, default=0)


@torch.no_grad()
def entering(model: nn.Module, layer_idx: int, **inputs: Tensor) -> Tensor:
    """Hidden states (batch, length, hidden) that enter a layer, by transformers' own forward pass.

    The layers from `layer_idx` on do not run.
    """
    caught: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])
        raise _ReachedError

    layer = model.get_submodule(f"{LAYERS}.{layer_idx}")
    hook = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    except _ReachedError:
        pass
    finally:
        hook.remove()
    return caught[0]


def cut(model: nn.Module, layer_idx: int) -> None:
    """Take the layers below `layer_idx` out of `model`: its `inputs_embeds` enter that layer.

    Raises UserError for a model whose frozen layers do not always give the same, or that changes
    `inputs_embeds` before its first layer.
    """
    layers = model.get_submodule(LAYERS)
    assert isinstance(layers, nn.ModuleList)
    for index in range(layer_idx):
        layers[index] = Skipped()
    parameter = next(model.parameters())
    config: Any = model.config
    if getattr(config, "attention_dropout", 0.0):
        raise UserError("params.yaml: train.prefix_cache: the model has dropout; set it to false")
    probe = torch.rand(1, 2, config.hidden_size, device=parameter.device, dtype=parameter.dtype)
    if not torch.equal(entering(model, layer_idx, inputs_embeds=probe), probe):
        raise UserError(
            f"params.yaml: train.prefix_cache: a model of type {config.model_type!r} scales what "
            "enters its first layer; set it to false"
        )


def prefix_key(init: Path, layer_idx: int, bf16: bool, device: str) -> str:
    """Hex digest of all that the hidden states entering a layer depend on, but for the tokens.

    Methods that share the tensors below `layer_idx` get the same key.
    """
    digest = hashlib.sha256()
    checkpoint = Checkpoint(init)
    config = dict(checkpoint.config)
    for name in sorted(checkpoint.names()):
        layer = split_layer(name)
        if layer is None or layer[0] < layer_idx:
            tensor = checkpoint.tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(raw(tensor))
    config.pop("num_hidden_layers", None)
    config["layer_types"] = (config.get("layer_types") or [])[:layer_idx]
    versions = [torch.__version__, transformers.__version__]
    return key_of(digest.hexdigest(), config, layer_idx, bf16, device, versions)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


@dataclass(frozen=True)
class PrefixCache:
    """One safetensors file a block in `folder`, named by its tokens and written whole or not.

    It holds `hidden` (block_size, hidden) in float32, the dtype of the residual stream under
    autocast too, so nothing is rounded. Readers map it into memory.
    """

    folder: Path

    def path(self, block: Tensor) -> Path:
        """Where the states of `block`, (block_size,) int64, are kept."""
        return self.folder / f"{hashlib.sha256(raw(block)).hexdigest()}.safetensors"

    def read(self, block: Tensor) -> Tensor:
        with safe_open(self.path(block), framework="pt") as file:
            states: Tensor = file.get_tensor("hidden")
        return states

    def intact(self, block: Tensor) -> bool:
        """Is the block there, with the content that was written?"""
        try:
            with safe_open(self.path(block), framework="pt") as file:
                written: str = file.metadata()["sha256"]
                return written == hashlib.sha256(raw(file.get_tensor("hidden"))).hexdigest()
        except (OSError, SafetensorError, KeyError, TypeError):
            return False

    def write(self, block: Tensor, states: Tensor) -> None:
        digest = hashlib.sha256(raw(states)).hexdigest()
        with whole_file(self.path(block)) as partial:
            partial.write_bytes(save({"hidden": states}, metadata={"sha256": digest}))

    def fill(self, model: nn.Module, layer_idx: int, blocks: Iterable[Tensor], bf16: bool) -> None:
        """Compute what is missing or damaged of `blocks`, shared between all processes.

        Each block goes through `model` alone, so its states do not depend on which others are
        asked for. Raises UserError, before any work, if the disk has no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = {self.path(block): block for block in blocks}
        missing = [block for block in wanted.values() if not self.intact(block)]
        config: Any = model.config
        needed = sum(block.numel() for block in missing) * config.hidden_size * 4
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"params.yaml: train.prefix_cache: {len(missing)} blocks need "
                f"{gib(needed)} in {self.folder}, {gib(free)} are free; "
                "free some space or set it to false"
            )
        group = processes.group()
        group.wait_for_everyone()  # all have seen the same files before the first is written
        device = next(model.parameters()).device
        mine = missing[group.process_index :: group.num_processes]
        quiet = not group.is_main_process
        for block in tqdm(mine, desc="frozen layers", unit="block", leave=False, disable=quiet):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                states = entering(model, layer_idx, input_ids=block[None].to(device))
            self.write(block, states[0].float().cpu())
        group.wait_for_everyone()

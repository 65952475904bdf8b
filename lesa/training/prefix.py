"""Hidden states that enter the first trainable layer, computed once and kept on disk.

Everything below that layer is frozen, so for a block of tokens its output is always the same: in
all epochs and evaluations, and for all methods that put their first new layer in the same gap.
"""

from __future__ import annotations

import hashlib
import shutil
import time
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

from lesa.checkpoints.depth import deepened_config
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import gib, key_of, whole_file
from lesa.training import processes
from lesa.training.freezing import first_trainable, model_family


class Skipped(nn.Module):
    """Stands where a frozen layer stood and returns the hidden states that it is given.

    The layers above keep their index, by which transformers picks masks and settings.
    """

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class _ReachedError(Exception):
    """Ends a forward pass at the layer that was asked for."""


def layers_of(model: nn.Module) -> nn.ModuleList:
    layers = model.get_submodule(model_family(model).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


@torch.no_grad()
def entering(model: nn.Module, layer_idx: int, input_ids: Tensor) -> Tensor:
    """Hidden states (batch, length, hidden_size) that enter a layer, by transformers' own forward
    pass. The layers from `layer_idx` on do not run.
    """
    caught: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0])
        raise _ReachedError

    hook = layers_of(model)[layer_idx].register_forward_pre_hook(stop)
    try:
        model(input_ids=input_ids, use_cache=False)
    except _ReachedError:
        pass
    finally:
        hook.remove()
    return caught[0]


def cut(model: nn.Module, layer_idx: int) -> None:
    """Take the layers below `layer_idx` out of `model`: its `inputs_embeds` enter that layer.

    They enter it as they are given: a model may scale its `inputs_embeds` or add positions before
    its first layer, which hidden states of a later one have behind them.
    """
    given: list[Tensor] = []

    def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(kwargs["inputs_embeds"])

    def enter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given.pop(), *args[1:])

    layers = layers_of(model)
    for index in range(layer_idx):
        layers[index] = Skipped()
    model.register_forward_pre_hook(remember, with_kwargs=True)
    layers[layer_idx].register_forward_pre_hook(enter)


def has_dropout(model: nn.Module, layer_idx: int, block: Tensor) -> bool:
    """Do other hidden states enter the layer while the model trains? `block` is (length,) int64."""
    training = model.training
    ids = block[None].to(next(model.parameters()).device)
    found = [entering(model.train(mode), layer_idx, ids) for mode in (True, False)]
    model.train(training)
    return not torch.equal(*found)


def prefix_key(init: Path, layer_idx: int, bf16: bool, device: str) -> str:
    """Hex digest of all that the hidden states entering a layer depend on, but for the tokens.

    Methods that share the tensors and the settings of the layers below get the same key.
    """
    digest = hashlib.sha256()
    checkpoint = Checkpoint(init)
    for name in sorted(checkpoint.names()):
        layer = checkpoint.family.split(name)
        if layer is None or layer[0] < layer_idx:
            tensor = checkpoint.tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(raw(tensor))
    below = deepened_config(checkpoint.config, list(range(layer_idx)), str(init / "config.json"))
    versions = [torch.__version__, transformers.__version__]
    return key_of(digest.hexdigest(), below, layer_idx, bf16, device, versions)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


@dataclass(frozen=True)
class PrefixCache:
    """One safetensors file a block in `folder`, named by its tokens and written whole or not.

    It holds `hidden` (block_size, hidden_size) in float32, the dtype of the residual stream under
    autocast too, so nothing is rounded. Readers map it into memory.
    """

    folder: Path

    def path(self, block: Tensor) -> Path:
        """The file of the states of `block`, (block_size,) int64."""
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

    def write(self, block: Tensor, states: Tensor, seconds: float) -> None:
        """Write what the layers gave for `block`, and the seconds that it took."""
        said = {"sha256": hashlib.sha256(raw(states)).hexdigest(), "seconds": str(seconds)}
        with whole_file(self.path(block)) as partial:
            partial.write_bytes(save({"hidden": states}, metadata=said))

    def seconds(self, blocks: Iterable[Tensor]) -> float:
        """What the states of `blocks` took to compute, each block once."""
        total = 0.0
        for path in {self.path(block) for block in blocks}:
            with safe_open(path, framework="pt") as file:
                total += float(file.metadata()["seconds"])
        return total

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
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                states = entering(model, layer_idx, block[None].to(device))
            hidden = states[0].float().cpu()
            self.write(block, hidden, time.perf_counter() - start)
        group.wait_for_everyone()


def skip_prefix(
    model: Any, init: Path, blocks: list[Tensor], bf16: bool, device: torch.device, folder: Path
) -> PrefixCache | None:
    """Replace the frozen layers below the first trainable one by their output for `blocks`, which
    is computed once and kept in `folder`.

    Returns what has it, or None, with the model whole, where there are no such layers or where
    dropout acts in them. Raises UserError if the model is sharded.
    """
    first = first_trainable(model)
    if first == 0:
        return None
    if processes.sharded():
        raise UserError(
            "params.yaml: train.prefix_cache: needs the whole model in each process, which FSDP "
            "does not keep; set it to false"
        )
    model.to(device)
    if has_dropout(model, first, blocks[0]):
        if processes.group().is_main_process:
            print("train.prefix_cache: not used, as the model's frozen layers have dropout")
        return None
    cache = PrefixCache(folder / prefix_key(init, first, bf16, device.type))
    cache.fill(model, first, blocks, bf16)
    cut(model, first)
    return cache

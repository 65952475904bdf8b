"""What a stopped training needs to go on: trained tensors and AdamW's state, in safetensors.

Written from and restored to any layout: one process, data parallel, or sharded by FSDP2. Frozen
tensors are not stored; they are those of the checkpoint that training started from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.fsdp_utils import fsdp2_canonicalize_names
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import TrainerState

from lesa.errors import UserError
from lesa.files import read_json

STATE = "trainer_state.json"  # Trainer's own, which it writes last
TRAINED = "trained.safetensors"
OPTIMIZER = "optimizer.safetensors"
GROUPS = "optimizer.json"


def steps_done(checkpoint: str | Path) -> int:
    """Of a checkpoint that was written to its end."""
    return int(read_json(Path(checkpoint) / STATE)["global_step"])


def last_whole_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; others are removed."""
    whole = []
    for path in work.glob("checkpoint-*"):
        try:
            whole.append((steps_done(path), str(path)))
        except (UserError, LookupError, TypeError, ValueError):
            shutil.rmtree(path)
    return max(whole)[1] if whole else None


def left_by(checkpoint: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Trained tensors, by their names in the model, and Trainer's log of a whole checkpoint."""
    log: list[dict[str, Any]] = TrainerState.load_from_json(f"{checkpoint}/{STATE}").log_history
    return load_file(Path(checkpoint) / TRAINED), log


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, whole and on the CPU, by their names in the model.

    Every process must call it; of several only the first gets the tensors. Tied parameters are
    there once, under the first of their names.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: Any = get_model_state_dict(model, options=options)
    names = fsdp2_canonicalize_names(dict(model.named_parameters()))
    return {name: state[name] for name in names if name in state}


def optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """State of `optimizer`, whole and on the CPU, and its parameter groups.

    Tensors are named `<parameter>.<key>`, such as `….exp_avg`; groups name their parameters. Every
    process must call it, as `trained_tensors`.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: Any = get_optimizer_state_dict(model, optimizer, options=options)
    if not found:  # not the first process
        return {}, []
    tensors = {
        f"{name}.{key}": value
        for name, entries in found["state"].items()
        for key, value in entries.items()
    }
    return tensors, found["param_groups"]


def restore_model(model: nn.Module, folder: Path) -> None:
    """Put the trained tensors in `folder` into `model`, which has the others already."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    tensors: Any = load_file(folder / TRAINED)
    set_model_state_dict(model, tensors, options=options)


def restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    groups: list[dict[str, Any]],
) -> None:
    """Put the state in `folder` and `groups`, as `optimizer_state` gave them, into `optimizer`."""
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / OPTIMIZER).items():
        parameter, _, key = name.rpartition(".")
        state.setdefault(parameter, {})[key] = tensor
    options = StateDictOptions(full_state_dict=True)
    saved: Any = {"state": state, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, saved, options=options)

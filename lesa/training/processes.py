"""This process among those that `accelerate launch` or torchrun started; alone it is the first."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import str_to_bool

from lesa.errors import UserError


def group() -> PartialState:
    """The group of processes, joined on the first call: NCCL with GPUs, gloo without.

    They may wait long for each other: lm-eval's shares of a task are uneven, and a process that
    ends is the launcher's to notice.
    """
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def sharded() -> bool:
    """Does the launcher's configuration shard the model over the processes (FSDP)?"""
    return bool(str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")))


def share_accumulation(steps: int, count: int) -> int:
    """Batches that each of `count` processes takes for one optimiser step, of `steps` in all.

    So the sequences of a step, and with them the curve, do not depend on the number of processes.
    """
    if steps % count:
        raise UserError(
            f"params.yaml: train.gradient_accumulation_steps: {steps} batches a step cannot be "
            f"shared by {count} processes; make it a multiple of {count}"
        )
    return int(steps // count)

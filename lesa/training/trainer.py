"""transformers' Trainer, with its own evaluation, autocast and checkpoints of what trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lesa.files import read_json, write_json, write_tensors
from lesa.training.blocks import States
from lesa.training.heldout import block_losses
from lesa.training.state import (
    GROUPS,
    OPTIMIZER,
    TRAINED,
    optimizer_state,
    restore_model,
    restore_optimizer,
    trained_tensors,
)

LOST, SHARE = 120.0, 50  # seconds, and how much of the time saving may take: a fiftieth
OnLog = Callable[[dict[str, float], int], None]


def now() -> float:
    """Seconds, when all that was asked of a GPU is done: its work runs behind the program's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock(TrainerCallback):
    """Puts the seconds of every optimiser step, without evaluation and checkpointing, and those of
    the frozen layers below into Trainer's log, which a stopped run has again."""

    def __init__(self) -> None:
        self.prefix_seconds = self._start = self._seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._seconds = now() - self._start

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if "loss" in (row := state.log_history[-1]):
            row |= {"seconds": self._seconds, "prefix_seconds": self.prefix_seconds}


class Forward(TrainerCallback):
    """Hands the numbers of every log to `sink(numbers, step)`."""

    def __init__(self, sink: OnLog) -> None:
        self.sink = sink

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        self.sink(numbers, state.global_step)


class Saver(TrainerCallback):
    """Saves between the steps of `save_steps`, too, where a stop would lose LOST seconds or more of
    one process's work; of several, each would choose a step of its own. A save that took long is
    followed by SHARE times as long without one."""

    def __init__(self) -> None:
        self._took = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._saved = self._asked = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._asked = time.monotonic()
        late = self._asked - self._saved >= max(LOST, SHARE * self._took)
        control.should_save |= late and args.world_size == 1

    def on_save(self, *_: Any, **__: Any) -> None:
        self._saved = time.monotonic()
        self._took = self._saved - self._asked


class Bar(ProgressCallback):
    """Progress with the last losses beside it: a line of every log would have all block losses,
    and go to stdout, which may be a command's JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.shown |= {key: logs[key] for key in ("loss", "eval_loss") if key in logs}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)


class LayerTrainer(Trainer):
    """A Trainer of some layers, in one process or several, whose checkpoints suit any number.

    `blocks` are the held-out blocks of `evaluate`, `states` their inputs where the model's lowest
    layers are cut off. `autocast`: forward passes in bfloat16 by torch's autocast alone. Trainer's
    `bf16` would add a float32 copy of all logits, and under FSDP round the residual stream.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *args: Any,
        blocks: list[Tensor],
        autocast: bool,
        states: States | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.blocks, self.autocast, self.states = blocks, autocast, states
        # Where TRANSFORMERS_VERBOSITY asks for errors alone, Trainer prints to stdout instead.
        for shows in (ProgressCallback, PrinterCallback):
            self.remove_callback(shows)
        self.add_callback(Bar)
        if self.is_fsdp_enabled and autocast:
            # Layers are gathered in bfloat16 and gradients summed in float32. The hidden states
            # between layers stay float32, as in one process.
            plugin = self.accelerator.state.fsdp_plugin
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
            self.model.get_input_embeddings().register_forward_hook(lambda _, __, out: out.float())

    def compute_loss_context_manager(self) -> Any:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.autocast)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Held-out loss, each process scoring its share of the blocks; the log keeps every one."""
        count = self.args.world_size
        mine = self.blocks[self.args.process_index :: count]
        rounds = -(-len(self.blocks) // count)
        # A sharded model needs all processes in every forward pass: the shares are made even.
        padded = mine + self.blocks[:1] * (rounds - len(mine))
        size = self.args.per_device_train_batch_size
        found = gather_object(block_losses(self.model, padded, self.autocast, size, self.states))
        in_order = [found[rank * rounds + i] for i in range(rounds) for rank in range(count)]
        losses = in_order[: len(self.blocks)]
        metrics = {"eval_loss": fmean(losses)}
        logged: dict[str, Any] = {**metrics, "eval_block_losses": losses}
        self.log(logged)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # Checkpoints. Trainer's own hold the whole model, and depend on how it was spread over
    # processes. Its state file, written last, still says that a checkpoint is whole.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        tensors = trained_tensors(self.model)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / TRAINED, tensors)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        tensors, groups = optimizer_state(self.model, self.optimizer.optimizer)
        if self.args.should_save:
            write_tensors(Path(output_dir) / OPTIMIZER, tensors)
            scheduler = self.lr_scheduler.state_dict()
            write_json(Path(output_dir) / GROUPS, {"groups": groups, "scheduler": scheduler})

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # every process writes a file of its own

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        restore_model(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        saved = read_json(Path(checkpoint) / GROUPS)
        restore_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint), saved["groups"])
        self.lr_scheduler.load_state_dict(saved["scheduler"])

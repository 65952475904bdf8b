"""Train for some steps: `python -m benchmarks.sides.pretrain <side> <checkpoint> <steps>`.

Both sides train the same layers of the same checkpoint on the same batches in the same order, and
are timed alike: from one step's log to the next, which takes in whatever a step needs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from benchmarks.base import ROOT
from benchmarks.measure import report
from benchmarks.profiling import PRODUCTS, shares, spent
from lesa import params
from lesa.files import read_json
from lesa.machine import has_bfloat16
from lesa.params import Train
from lesa.training.freezing import freeze
from lesa.training.pretrain import Run, train
from lesa.training.trainer import Forward

BLOCK = 512  # tokens of a packed sequence, corpus.block_size of the default profile
BATCH = 2  # sequences, train.per_device_batch_size of the default profile
RATE = 1e-3
WARM_UP = 3  # steps that are not timed: allocations, first use of kernels
ATTENTION = "attention"
BOTH_SIDES = {PRODUCTS, ATTENTION}  # what no way of training these layers can leave out
OPERATIONS = {
    "aten::mm": PRODUCTS,
    "aten::addmm": PRODUCTS,
    "aten::_scaled_dot_product_flash_attention_for_cpu": ATTENTION,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": ATTENTION,
    # A GPU's: in bfloat16, in float32, and on the newest in bfloat16.
    "aten::_flash_attention_forward": ATTENTION,
    "aten::_flash_attention_backward": ATTENTION,
    "aten::_efficient_attention_forward": ATTENTION,
    "aten::_efficient_attention_backward": ATTENTION,
    "aten::_cudnn_attention_forward": ATTENTION,
    "aten::_cudnn_attention_backward": ATTENTION,
    "aten::_log_softmax": "softmax over the vocabulary",
    "aten::exp_": "softmax over the vocabulary",
    "aten::copy_": "copies and casts",
    "aten::_fused_adamw_": "AdamW",
}


def settings(steps: int) -> Train:
    """The repository's own, without evaluations between the steps, in bfloat16 autocast if the
    machine has it."""
    own = params.load(ROOT / "params.yaml").train
    return own.model_copy(
        update={
            "max_steps": steps,
            "eval_every": steps,
            "save_every": steps,
            "per_device_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "warmup_steps": 0,
            "bf16": has_bfloat16(),
        }
    )


def random_blocks(vocabulary: int, count: int) -> list[Tensor]:
    """Blocks of random tokens: what they say changes nothing in the work."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(vocabulary, (count, BLOCK), generator=generator))


class StepLog:
    """Time and loss of every optimiser step, from the Trainer's own log."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        if "loss" in numbers:
            self.times.append(time.perf_counter())
            self.losses.append(numbers["loss"])

    def result(self) -> dict[str, Any]:
        tokens = BATCH * BLOCK
        seconds = median_step(self.times)
        return {
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "tokens_per_step": tokens,
            "losses": self.losses,
        }


def median_step(times: Sequence[float]) -> float:
    """Median seconds between consecutive logs, those of the warm-up left out."""
    return statistics.median(
        after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)
    )


class Profiled(StepLog):
    """A log that has torch profile the steps after the warm-up, but for the last."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.last = steps - 1
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *gpu])

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        super().__call__(numbers, step)
        if "loss" in numbers and step == WARM_UP:
            self.profiler.start()
        if "loss" in numbers and step == self.last:
            self.profiler.stop()

    def result(self) -> dict[str, Any]:
        """Shares of a step's time, and the seconds of its matrix products, attention's too."""
        taken = spent(self.profiler, OPERATIONS)
        products = sum(seconds for name, seconds in taken.items() if name in BOTH_SIDES)
        return {"shares": shares(taken), "products_seconds": products / (self.last - WARM_UP)}


def lesa_side(
    folder: Path, blocks: list[Tensor], chosen: Train, work: Path, log: StepLog | None = None
) -> dict[str, Any]:
    """This project's continual pre-training."""
    log = log or StepLog()
    rows = {"input_ids": torch.stack(blocks).tolist(), "document": [""] * len(blocks)}
    data = Dataset.from_dict(rows).with_format("torch")
    run = Run(folder, data, data.select([0]), chosen, RATE)
    _, curve = train(run, work, on_log=log, resumable=False, prefix_cache=work / "prefix")
    said = ("dtype", "trainable_parameters", "prefix_seconds")
    return {**log.result(), **{key: curve[key] for key in said}}


def plain_side(folder: Path, blocks: list[Tensor], chosen: Train, work: Path) -> dict[str, Any]:
    """transformers' Trainer in float32 as its documentation shows it, the same layers frozen."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainable = freeze(model, folder)
    ids = torch.stack(blocks).tolist()
    log = StepLog()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(work),
            max_steps=chosen.max_steps,
            per_device_train_batch_size=chosen.per_device_batch_size,
            gradient_accumulation_steps=chosen.gradient_accumulation_steps,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=chosen.warmup_steps,
            weight_decay=chosen.weight_decay,
            max_grad_norm=chosen.max_grad_norm,
            seed=chosen.seed,
            data_seed=chosen.seed,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
        callbacks=[Forward(log)],
    )
    trainer.train()
    return {**log.result(), "trainable_parameters": trainable}


def profile_side(folder: Path, blocks: list[Tensor], chosen: Train, work: Path) -> dict[str, Any]:
    """What bounds a step of this project's."""
    return lesa_side(folder, blocks, chosen, work, Profiled(chosen.max_steps))


SIDES = {"lesa": lesa_side, "trainer": plain_side, "profile": profile_side}


def measured(side: str, folder: Path, steps: int) -> dict[str, Any]:
    chosen = settings(steps)
    vocabulary = read_json(folder / "config.json")["vocab_size"]
    blocks = random_blocks(vocabulary, steps * BATCH)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        return SIDES[side](folder, blocks, chosen, Path(work))


if __name__ == "__main__":
    _, side, folder, steps = sys.argv
    report(lambda: measured(side, Path(folder), int(steps)))

"""Continual pre-training with transformers' Trainer (docs/method.md step 7)."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from eval.perplexity import held_out
from lesa.checkpoint import PLAN_FILE, split_layer
from lesa.errors import UserError
from lesa.files import read_json, whole_folder
from lesa.params import Train
from lesa.plan import from_json

OnLog = Callable[[dict[str, float], int], None]


def freeze(model: nn.Module, folder: Path) -> int:
    """Apply the freezing policy that `folder`'s layer plan states; returns trainable parameters.

    Without a plan (the unexpanded base) and with a plan that trains every layer (SOLAR) all
    parameters train, embeddings too; otherwise only the layers that the plan marks.
    """
    path = folder / PLAN_FILE
    plan = from_json(read_json(path)) if path.is_file() else []
    everything = all(slot.trainable for slot in plan)
    trainable = {slot.layer_idx for slot in plan if slot.trainable}
    for name, parameter in model.named_parameters():
        layer = split_layer(name)
        parameter.requires_grad = everything or (layer is not None and layer[0] in trainable)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def load_model(folder: Path) -> Any:
    """The checkpoint in float32: bfloat16 weights would lose small AdamW updates."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def load_blocks(corpus: Path, split: str) -> Dataset:
    """Packed blocks, column `input_ids` of (block_size,)."""
    return load_from_disk(str(corpus / split)).with_format("torch")


def block_list(corpus: Path, split: str) -> list[Tensor]:
    """All blocks of a split in memory, each (block_size,) int64."""
    return [row["input_ids"].long() for row in load_blocks(corpus, split)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    ids = torch.stack([row["input_ids"] for row in rows]).long()
    return {"input_ids": ids, "labels": ids}


class HeldOutTrainer(Trainer):
    """A Trainer whose evaluation is `held_out` on given blocks, standard error included."""

    def __init__(self, *args: Any, blocks: list[Tensor], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks = blocks

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        settings, model = self.args, self.model
        assert isinstance(model, nn.Module)
        result = held_out(
            model, self.blocks, bool(settings.bf16), settings.per_device_train_batch_size
        )
        metrics = {"eval_loss": result.loss, "eval_loss_se": result.loss_se}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class Clock(TrainerCallback):
    """Seconds of every optimiser step, without evaluation and checkpointing."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


class Forward(TrainerCallback):
    """Hands the numbers of every log to `sink(numbers, step)`."""

    def __init__(self, sink: OnLog) -> None:
        self.sink = sink

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        self.sink(numbers, state.global_step)


def last_whole_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; Trainer writes its state file last."""
    whole = []
    for path in work.glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path)
            continue
        whole.append((step, str(path)))
    return max(whole)[1] if whole else None


def train(
    init: Path,
    train_blocks: Dataset,
    heldout_blocks: list[Tensor],
    settings: Train,
    learning_rate: float,
    work: Path,
    on_log: OnLog = lambda numbers, step: None,
    resumable: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """Train the checkpoint at `init`; returns the model and its curve (metrics/pretrain).

    Held-out loss is measured at step 0, every `eval_every` steps and at the end. Unless
    `resumable` is false, a checkpoint is kept in `work` every `save_every` steps, and a run that
    finds one there goes on from it with the same curve. Packed sequences are drawn in a seeded
    order, the same for every model.
    """
    needed = (
        settings.max_steps * settings.per_device_batch_size * settings.gradient_accumulation_steps
    )
    if len(train_blocks) < settings.per_device_batch_size:
        raise UserError(
            f"params.yaml: corpus: {len(train_blocks)} training blocks are fewer than one batch "
            f"(train.per_device_batch_size {settings.per_device_batch_size}); {needed} would do"
        )
    resume = last_whole_checkpoint(work) if resumable else None
    state = (
        TrainerState.load_from_json(str(Path(resume) / "trainer_state.json"))
        if resume
        else TrainerState()
    )
    finished = state.global_step >= settings.max_steps
    model = load_model(Path(resume) if resume and finished else init)
    trainable = freeze(model, init)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=settings.eval_every,
        eval_on_start=resume is None,  # a resumed run has step 0 already, and no point more
        save_strategy="steps" if resumable else "no",
        save_steps=settings.save_every,
        save_total_limit=1,
        logging_steps=1,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    clock = Clock()
    trainer = HeldOutTrainer(
        model=model,
        args=arguments,
        train_dataset=train_blocks,
        eval_dataset=[],  # Trainer asks for one; `evaluate` uses `blocks`
        data_collator=collate,
        blocks=heldout_blocks,
        callbacks=[clock, Forward(on_log)],
    )
    if finished:  # killed after its last step: Trainer would take one more
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=resume)  # evaluates after its last step, too
    per_step = (
        settings.per_device_batch_size
        * settings.gradient_accumulation_steps
        * len(train_blocks[0]["input_ids"])
    )
    history = trainer.state.log_history
    evaluations = {r["step"]: r for r in history if "eval_loss" in r}
    step_seconds = median(clock.seconds) if clock.seconds else 0.0
    return model, {
        "learning_rate": learning_rate,
        "trainable_parameters": trainable,
        "tokens_per_step": per_step,
        "heldout_tokens": sum(len(block) - 1 for block in heldout_blocks),
        "steps": [
            {
                "step": step,
                "tokens": step * per_step,
                "heldout_loss": row["eval_loss"],
                "heldout_loss_se": row["eval_loss_se"],
                "heldout_perplexity": math.exp(row["eval_loss"]),
            }
            for step, row in sorted(evaluations.items())
        ],
        "train": [
            {"step": r["step"], "loss": r["loss"], "learning_rate": r["learning_rate"]}
            for r in history
            if "loss" in r
        ],
        # Of this process's steps: after a resume, those before the kill are taken as equal.
        "tokens_per_second": per_step / step_seconds if step_seconds else 0.0,
        "seconds": step_seconds * settings.max_steps,
    }


def save(model: Any, init: Path, folder: Path) -> None:
    """Save the trained model as a plain checkpoint in the dtype of `init`."""
    dtype = getattr(torch, read_json(init / "config.json").get("dtype") or "float32")
    with whole_folder(folder) as partial:
        for path in init.iterdir():
            if "safetensors" not in path.name:
                shutil.copyfile(path, partial / path.name)
        model.to(dtype).save_pretrained(partial)

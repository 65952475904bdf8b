"""Continual pre-training of the layers that a method trains (docs/method.md step 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments

from lesa.errors import CheckError, UserError
from lesa.params import Train
from lesa.training import processes
from lesa.training.blocks import collate, tokens_of, training_order
from lesa.training.freezing import freeze, round_frozen
from lesa.training.head_loss import chunked_loss
from lesa.training.heldout import LARGEST, perplexity
from lesa.training.prefix import skip_prefix
from lesa.training.state import last_whole_checkpoint, left_by, steps_done, trained_tensors
from lesa.training.trainer import Clock, Forward, LayerTrainer, OnLog, Saver


@dataclass(frozen=True)
class Run:
    """What a training's curve depends on, but for the machine.

    init: folder of the checkpoint and its layer plan. train_blocks: column `input_ids` of
    (block_size,). heldout: the same, and the column `document`. measure_start: is the held-out loss
    measured at step 0, too? steps_before: how many steps' sequences, in the order of the data, are
    not for this run but were for another before it.
    """

    init: Path
    train_blocks: Dataset
    heldout: Dataset
    settings: Train
    learning_rate: float
    measure_start: bool = True
    steps_before: int = 0

    @cached_property
    def heldout_blocks(self) -> list[Tensor]:
        """Each (block_size,) int64."""
        return tokens_of(self.heldout)

    @property
    def sequences_per_step(self) -> int:
        return self.settings.per_device_batch_size * self.settings.gradient_accumulation_steps

    @property
    def tokens_per_step(self) -> int:
        return self.sequences_per_step * len(self.train_blocks[0]["input_ids"])

    def prepare_model(self, model: Any) -> None:
        """Say what of `model` trains."""
        freeze(model, self.init)

    def ordered_blocks(self) -> Dataset:
        """The sequences of all steps, the same for every model and number of processes.

        Raises UserError if there are fewer blocks than one batch has sequences.
        """
        count, batch = len(self.train_blocks), self.settings.per_device_batch_size
        needed = self.settings.max_steps * self.sequences_per_step
        if count < batch:
            raise UserError(
                f"params.yaml: train.per_device_batch_size: {batch}: the text's {count} training "
                f"blocks are fewer than one batch; {needed} would do"
            )
        before = self.steps_before * self.sequences_per_step
        order = training_order(count, before + needed, self.settings.seed)
        return self.train_blocks.select(order[before:])


def dtype_name(bf16: bool) -> str:
    """The dtype of matrix products under `train.bf16`, as metrics name it."""
    return "bfloat16" if bf16 else "float32"


def load_model(folder: Path) -> Any:
    """The checkpoint in float32: bfloat16 weights would lose small AdamW updates.

    A mixture's loss is that of the next token alone, as held-out text is scored: a config may ask
    for its router's loss on top, which the loss in chunks would not have.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    if getattr(model.config, "output_router_logits", False):
        model.config.output_router_logits = False
    # Of GPT-2 it is None: Trainer would divide by the first token of a block, which none predicts.
    model.loss_type = "ForCausalLM"
    return model


def training_arguments(
    run: Run, work: Path, measure_start: bool, resumable: bool
) -> TrainingArguments:
    """Trainer's settings of this process.

    None of them checkpoints activations. transformers' own way would have gradients computed
    through all frozen layers down to the embedding; FSDP's does not (docs/scaling.md).
    """
    settings = run.settings
    count = processes.group().num_processes
    accumulation = processes.share_accumulation(settings.gradient_accumulation_steps, count)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=settings.eval_every,
        eval_on_start=measure_start,
        save_strategy="steps" if resumable else "no",
        save_steps=settings.save_every,
        save_total_limit=1,
        logging_steps=1,
        seed=settings.seed,
        train_sampling_strategy="sequential",  # `training_order` has shuffled
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        # Gradients that are not yet summed would be whole in every process.
        accelerator_config={
            "gradient_accumulation_kwargs": {"sync_each_batch": processes.sharded()}
        },
        report_to=[],
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # more GPUs take more processes
    return arguments


def prepare(
    run: Run,
    arguments: TrainingArguments,
    prefix_cache: Path | None,
    callbacks: list[TrainerCallback],
) -> tuple[LayerTrainer, float]:
    """The Trainer of a run: its model frozen, cut, rounded and with its loss, its data in order.

    The second value is the seconds that the output of the frozen layers took for the run's
    training blocks, whichever run computed it; 0.0 where nothing is kept.
    """
    blocks, states, prefix_seconds = run.ordered_blocks(), None, 0.0
    model, bf16 = load_model(run.init), run.settings.bf16
    run.prepare_model(model)
    if prefix_cache is not None:
        training = tokens_of(blocks)
        used = training + run.heldout_blocks
        cache = skip_prefix(model, run.init, used, bf16, arguments.device, prefix_cache)
        if cache is not None:
            states, prefix_seconds = cache.read, cache.seconds(training)
    if bf16:
        round_frozen(model, None if states else model.get_input_embeddings().weight)
    trainer = LayerTrainer(
        model=model,
        args=arguments,
        train_dataset=blocks,
        eval_dataset=[],  # Trainer asks for one; `evaluate` uses `blocks`
        data_collator=partial(collate, states=states),
        # Between forward passes FSDP keeps a part of the output layer in each process.
        compute_loss_func=None if processes.sharded() else chunked_loss(model, bf16),
        blocks=run.heldout_blocks,
        autocast=bf16,
        states=states,
        callbacks=callbacks,
    )
    return trainer, prefix_seconds


def train(
    run: Run,
    work: Path,
    on_log: OnLog = lambda numbers, step: None,
    resumable: bool = True,
    prefix_cache: Path | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train; returns what was trained and the numbers of metrics/pretrain.

    The trained tensors are float32, by their names in transformers' model; of several processes
    only the first has them.

    Held-out loss is measured every `eval_every` steps and at the end. If `resumable`, a checkpoint
    is written to `work` every `save_every` steps, and between them as `Saver` has it; a run that
    finds one there goes on from it with the same curve, in as many processes as it now has. With
    `prefix_cache` the frozen layers below the first trainable one run once for each block, and
    their output stays in that folder for other runs.
    """
    with processes.group().main_process_first():  # it removes what is broken
        checkpoint = last_whole_checkpoint(work) if resumable else None
    clock = Clock()
    if checkpoint and steps_done(checkpoint) >= run.settings.max_steps:
        # Killed after its last step: Trainer would take one more.
        trained, log = left_by(checkpoint)
    else:
        # A resumed run has step 0 already, and no point more.
        measure_start = run.measure_start and checkpoint is None
        arguments = training_arguments(run, work, measure_start, resumable)
        callbacks = [clock, Forward(on_log), *([Saver()] if resumable else [])]
        trainer, clock.prefix_seconds = prepare(run, arguments, prefix_cache, callbacks)
        trainer.train(resume_from_checkpoint=checkpoint)  # evaluates after its last step, too
        trained, log = trained_tensors(trainer.model), trainer.state.log_history
    return trained, result(run, trained, log)


def result(run: Run, trained: Mapping[str, Tensor], log: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a run, from Trainer's log with the seconds of `Clock`.

    What the cache of the frozen layers' output cost is not in `seconds`. Raises CheckError where
    the training has diverged, naming the learning rate, and where its start was no model.
    """
    timed = [row for row in log if "seconds" in row]
    step_seconds = median(row["seconds"] for row in timed)
    try:
        points = curve(log, run.tokens_per_step)
    except CheckError as error:
        starts = [row["eval_loss"] for row in log if "eval_loss" in row and row["step"] == 0]
        if starts and not starts[0] < LARGEST:
            raise CheckError(f"{run.init}: before training {error}") from None
        raise CheckError(
            f"learning rate {run.learning_rate:g}: {error}: the training has diverged; a lower "
            "rate may do"
        ) from None
    return {
        "learning_rate": run.learning_rate,
        "dtype": dtype_name(run.settings.bf16),
        "trainable_parameters": sum(tensor.numel() for tensor in trained.values()),
        "tokens_per_step": run.tokens_per_step,
        "heldout_tokens": sum(len(block) - 1 for block in run.heldout_blocks),
        "heldout_documents": list(run.heldout["document"]),
        **points,
        "tokens_per_second": run.tokens_per_step / step_seconds,
        "seconds": step_seconds * run.settings.max_steps,
        "prefix_seconds": timed[-1]["prefix_seconds"],
    }


def curve(log: list[dict[str, Any]], tokens_per_step: int) -> dict[str, Any]:
    """Held-out losses and those of the training steps, from Trainer's log."""
    evaluations = {int(row["step"]): row for row in log if "eval_loss" in row}
    return {
        "steps": [
            {
                "step": step,
                "tokens": step * tokens_per_step,
                "heldout_loss": row["eval_loss"],
                "heldout_perplexity": perplexity(row["eval_loss"]),
                "block_losses": row["eval_block_losses"],
            }
            for step, row in sorted(evaluations.items())
        ],
        "train": [
            {key: row[key] for key in ("step", "loss", "learning_rate")}
            for row in log
            if "loss" in row
        ],
    }

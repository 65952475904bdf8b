"""Continual pre-training of the layers that a method trains (docs/method.md step 7)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, TrainerState, TrainingArguments

from lesa.checkpoints.reader import PLAN_FILE, Checkpoint, split_layer, write_checkpoint
from lesa.errors import UserError
from lesa.files import read_json, whole_folder
from lesa.params import Train
from lesa.training import processes
from lesa.training.head_loss import chunked_loss
from lesa.training.heldout import States
from lesa.training.prefix import PrefixCache, cut, first_trainable, prefix_key
from lesa.training.state import TRAINED, trained_tensors
from lesa.training.trainer import Clock, Forward, LayerTrainer, OnLog
from lesa.upscaling.plan import from_json

STATE = "trainer_state.json"


def freeze(model: nn.Module, folder: Path) -> int:
    """Apply the freezing policy that `folder`'s layer plan states; returns trainable parameters.

    Without a plan (the unexpanded base) and with a plan that trains every layer (SOLAR) all
    parameters train, embeddings too; otherwise only the layers that the plan marks. Nothing then
    requires a gradient below the first of them, so autograd records nothing there; frozen layers
    above it get gradients of their activations, and none of their weights.
    """
    path = folder / PLAN_FILE
    plan = from_json(read_json(path)) if path.is_file() else []
    everything = all(slot.trainable for slot in plan)
    trainable = {slot.layer_idx for slot in plan if slot.trainable}
    for name, parameter in model.named_parameters():
        layer = split_layer(name)
        parameter.requires_grad = everything or (layer is not None and layer[0] in trainable)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def round_frozen(model: nn.Module, but: nn.Parameter | None) -> None:
    """Keep frozen matrices in bfloat16, as autocast would round them anew in every step.

    `but` is left alone: the embedding that an output layer may be tied to. Autocast does not
    round embeddings, nor norms.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight is not but:
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()


def load_model(folder: Path) -> Any:
    """The checkpoint in float32: bfloat16 weights would lose small AdamW updates."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def load_blocks(corpus: Path, split: str) -> Dataset:
    """Packed blocks, column `input_ids` of (block_size,)."""
    return load_from_disk(str(corpus / split)).with_format("torch")


def block_list(corpus: Path, split: str) -> list[Tensor]:
    """All blocks of a split in memory, each (block_size,) int64."""
    return tokens_of(load_blocks(corpus, split))


def tokens_of(blocks: Dataset) -> list[Tensor]:
    return [row["input_ids"].long() for row in blocks]


def draw(count: int, needed: int, seed: int) -> list[int]:
    """`needed` indexes of `count` blocks: all in a seeded order, then all in another, and so on."""
    epochs = range(-(-needed // count))
    orders = [
        torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for epoch in epochs
    ]
    return [index for order in orders for index in order][:needed]


def collate(rows: list[dict[str, Tensor]], states: States | None) -> dict[str, Tensor]:
    ids = torch.stack([row["input_ids"] for row in rows]).long()
    if states is None:
        return {"input_ids": ids, "labels": ids}
    return {"inputs_embeds": torch.stack([states(block) for block in ids]), "labels": ids}


def steps_done(checkpoint: str | Path) -> int:
    """Of a checkpoint that was written to its end: Trainer writes its state file last."""
    return int(read_json(Path(checkpoint) / STATE)["global_step"])


def last_whole_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; others are removed."""
    whole = []
    for path in work.glob("checkpoint-*"):
        try:
            whole.append((steps_done(path), str(path)))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path)
    return max(whole)[1] if whole else None


def skip_prefix(
    model: Any, init: Path, blocks: list[Tensor], bf16: bool, device: torch.device, folder: Path
) -> States | None:
    """Replace the frozen layers below the first trainable one by their kept output for `blocks`.

    Returns what reads it, or None where there are no such layers.
    """
    first = first_trainable(model)
    if first == 0:
        return None
    if processes.sharded():
        raise UserError(
            "params.yaml: train.prefix_cache: needs the whole model in each process, which FSDP "
            "does not keep; set it to false"
        )
    cache = PrefixCache(folder / prefix_key(init, first, bf16, device.type))
    cache.fill(model.to(device), first, blocks, bf16)
    cut(model, first)
    return cache.read


def training_arguments(
    settings: Train, learning_rate: float, work: Path, measure_start: bool, resumable: bool
) -> TrainingArguments:
    """Trainer's settings of this process.

    None of them checkpoints activations. transformers' own way would have gradients computed
    through all frozen layers down to the embedding; FSDP's does not (docs/scaling.md).
    """
    accumulation = processes.share_accumulation(settings.gradient_accumulation_steps)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=learning_rate,
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
        train_sampling_strategy="sequential",  # `draw` has shuffled
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


def train(
    init: Path,
    train_blocks: Dataset,
    heldout_blocks: list[Tensor],
    settings: Train,
    learning_rate: float,
    work: Path,
    on_log: OnLog = lambda numbers, step: None,
    resumable: bool = True,
    measure_start: bool = True,
    prefix_cache: Path | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train the checkpoint at `init`; returns what was trained and its curve (metrics/pretrain).

    The trained tensors are float32, by their names in the checkpoint; of several processes only
    the first has them.

    Held-out loss is measured at step 0 if `measure_start`, every `eval_every` steps and at the
    end. Unless `resumable` is false, a checkpoint is kept in `work` every `save_every` steps, and
    a run that finds one there goes on from it with the same curve, in as many processes as it now
    has. Packed sequences are drawn in a seeded order, the same for every model and number of
    processes. With `prefix_cache` the frozen layers below the first trainable one run once for
    each block, and their output is kept in that folder for other runs.
    """
    sequences = settings.per_device_batch_size * settings.gradient_accumulation_steps
    needed = settings.max_steps * sequences
    if len(train_blocks) < settings.per_device_batch_size:
        raise UserError(
            f"params.yaml: corpus: {len(train_blocks)} training blocks are fewer than one batch "
            f"(train.per_device_batch_size {settings.per_device_batch_size}); {needed} would do"
        )
    with processes.group().main_process_first():  # it removes what is broken
        resume = last_whole_checkpoint(work) if resumable else None
    clock = Clock()
    if resume and steps_done(resume) >= settings.max_steps:
        # Killed after its last step: Trainer would take one more.
        trained = load_file(Path(resume) / TRAINED)
        history = TrainerState.load_from_json(f"{resume}/{STATE}").log_history
    else:
        # A resumed run has step 0 already, and no point more.
        start = measure_start and resume is None
        arguments = training_arguments(settings, learning_rate, work, start, resumable)
        model = load_model(init)
        freeze(model, init)
        drawn = train_blocks.select(draw(len(train_blocks), needed, settings.seed))
        states = None
        if prefix_cache is not None:
            used = tokens_of(drawn) + heldout_blocks
            states = skip_prefix(model, init, used, settings.bf16, arguments.device, prefix_cache)
        if settings.bf16:
            round_frozen(model, None if states else model.get_input_embeddings().weight)
        # Between forward passes FSDP keeps a part of the output layer in each process.
        loss = None if processes.sharded() else chunked_loss(model, settings.bf16)
        trainer = LayerTrainer(
            model=model,
            args=arguments,
            train_dataset=drawn,
            eval_dataset=[],  # Trainer asks for one; `evaluate` uses `blocks`
            data_collator=partial(collate, states=states),
            compute_loss_func=loss,
            blocks=heldout_blocks,
            autocast=settings.bf16,
            states=states,
            callbacks=[clock, Forward(on_log)],
        )
        trainer.train(resume_from_checkpoint=resume)  # evaluates after its last step, too
        trained = trained_tensors(trainer.model)
        history = trainer.state.log_history
    per_step = sequences * len(train_blocks[0]["input_ids"])
    step_seconds = median(clock.seconds) if clock.seconds else 0.0
    return trained, {
        "learning_rate": learning_rate,
        "dtype": "bfloat16" if settings.bf16 else "float32",
        "trainable_parameters": sum(tensor.numel() for tensor in trained.values()),
        "tokens_per_step": per_step,
        "heldout_tokens": sum(len(block) - 1 for block in heldout_blocks),
        **curve(history, per_step),
        # Of this process's steps: after a resume, those before the kill are taken as equal.
        "tokens_per_second": per_step / step_seconds if step_seconds else 0.0,
        "seconds": step_seconds * settings.max_steps,
    }


def curve(history: list[dict[str, float]], tokens_per_step: int) -> dict[str, Any]:
    """Held-out losses and those of the training steps, from Trainer's log."""
    evaluations = {int(row["step"]): row for row in history if "eval_loss" in row}
    return {
        "steps": [
            {
                "step": step,
                "tokens": step * tokens_per_step,
                "heldout_loss": row["eval_loss"],
                "heldout_loss_se": row["eval_loss_se"],
                "heldout_perplexity": math.exp(row["eval_loss"]),
            }
            for step, row in sorted(evaluations.items())
        ],
        "train": [
            {key: row[key] for key in ("step", "loss", "learning_rate")}
            for row in history
            if "loss" in row
        ],
    }


def save(trained: Mapping[str, Tensor], init: Path, folder: Path) -> None:
    """Write `init` with the trained tensors in place of its own, in the dtype of each.

    All others are copied bit for bit, one shard in memory at a time.
    """
    start = Checkpoint(init)
    with whole_folder(folder) as partial_folder:
        for path in init.iterdir():
            if "safetensors" not in path.name:
                shutil.copyfile(path, partial_folder / path.name)
        # A checkpoint may hold a tied output layer although it is the embedding.
        tied = bool(start.config.get("tie_word_embeddings"))
        alias = {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}

        def tensor(name: str) -> Tensor:
            own = start.tensor(name)
            new = trained.get(alias.get(name, name))
            return own if new is None else new.to(own.dtype)

        write_checkpoint(partial_folder, ((name, tensor(name)) for name in start.names()))

"""`lesa train`: continual pre-training of a deepened checkpoint on a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from datasets import Dataset
from torch import Tensor

from lesa.checkpoints.check import model_on_meta
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.evaluate import whole_windows
from lesa.commands.numbers import check_count, check_positive
from lesa.commands.output import check_out
from lesa.commands.retrained import Retrained, retrained
from lesa.errors import UserError
from lesa.machine import has_bfloat16
from lesa.params import Train
from lesa.training import pretrain
from lesa.training.adapters import AdapterRun, adapter_rank
from lesa.upscaling.plan import read_plan

Trains = Literal["new", "all", "lora"]
POINTS = 4  # at which the held-out loss is measured on the way, beside the start
HELDOUT = 16  # windows of the held-out text that are read for it


@dataclass(frozen=True)
class Trained(Retrained):
    """A trained checkpoint. curve: tokens, and the mean loss on the first held-out windows."""

    trains: Trains
    trainable_parameters: int
    curve: list[tuple[int, float]]


def train(
    start: str | Path,
    out: str | Path,
    train: str | Path,
    text: str | Path,
    *,
    trains: str = "new",
    tokens: int = 49152,
    batch_size: int = 2,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> Trained:
    """Train the checkpoint `start` on the UTF-8 file `train` into the folder `out`.

    trains: the `new` layers, which its plan marks; `all`, for which `start` may be no deepened one;
    or `lora`, adapters beside all layers, with as many parameters as the new layers together
    (`lesa.training.adapters`), merged at the end. tokens: read in batches of `batch_size` windows
    of 512, drawn by `seed`, over and over where the text has fewer. AdamW with a warm-up of a
    sixteenth of the steps, none of fewer than 16, and a cosine to zero; matrix products in
    bfloat16 where this machine has them.

    `text` is held out: the start and the result are scored on it. Stopped in between, the same call
    goes on where it was. `out` appears once the checkpoint loads and has a finite loss. Raises
    UserError for bad input, CheckError for a result that is no model.
    """
    start, out, train, text = Path(start), Path(out), Path(train), Path(text)
    check_out(start, out, train, text)
    what = next((known for known in get_args(Trains) if known == trains), None)
    if what is None:
        raise UserError(f"trains: {trains!r}: must be one of {', '.join(get_args(Trains))}")
    check_positive("learning_rate", learning_rate)
    check_count("tokens", tokens, 1)
    check_count("batch_size", batch_size, 1)
    check_count("seed", seed)
    adapters = adapter_parameters(start) if what == "lora" else None
    if what == "new":
        read_plan(start, Checkpoint(start).num_layers)  # refused here, and not when all is read
    found: dict[str, Any] = {}

    def make(work: Path, made: Path) -> int:
        blocks = as_blocks(whole_windows(start, train))
        heldout = as_blocks(whole_windows(start, text)[:HELDOUT])
        steps = tokens // (batch_size * len(blocks[0]["input_ids"]))
        if not steps:
            raise UserError(f"tokens: {tokens}: fewer than one batch of {batch_size} windows")
        if len(blocks) < batch_size:
            raise UserError(
                f"batch_size: {batch_size}: {train} has {len(blocks)} windows; a batch holds none "
                "twice"
            )
        run = AdapterRun(
            start, blocks, heldout, train_settings(steps, batch_size, seed), learning_rate,
            parameters=adapters, everything=what == "all",
        )  # fmt: skip
        tensors, curve = pretrain.train(run, work / "trainer")
        found.update(curve)
        run.save(tensors, made)
        return steps * run.tokens_per_step

    settings = {"train": [what, tokens, batch_size, learning_rate, seed, has_bfloat16()]}
    done = retrained(start, out, (train, text), settings, make)
    return Trained(
        **vars(done),
        trains=what,
        trainable_parameters=found["trainable_parameters"],
        curve=[(row["tokens"], row["heldout_loss"]) for row in found["steps"]],
    )


def adapter_parameters(start: Path) -> int:
    """As many as the new layers have together. Raises UserError for a start without any, and where
    no rank of adapters has nearly as many."""
    checkpoint = Checkpoint(start)
    new = sum(slot.new for slot in read_plan(start, checkpoint.num_layers))
    if not new:
        raise UserError(
            f"trains: lora: {start} has no new layer, and adapters have as many parameters as the "
            "new layers; all would do"
        )
    parameters = new * checkpoint.layer_parameters()
    adapter_rank(model_on_meta(checkpoint.explicit, str(start)), parameters)
    return parameters


def as_blocks(windows: Sequence[Tensor]) -> Dataset:
    """Windows of one length as `lesa.training` reads a corpus; a window is its own document."""
    ids = [window.tolist() for window in windows]
    rows = {"input_ids": ids, "document": [str(i) for i in range(len(ids))]}
    return Dataset.from_dict(rows).with_format("torch")


def train_settings(steps: int, batch_size: int, seed: int) -> Train:
    every = max(1, steps // POINTS)
    return Train.model_construct(  # its check of eval_every is the pipeline's, for claim C5
        max_steps=steps,
        eval_every=every,
        save_every=every,
        per_device_batch_size=batch_size,
        gradient_accumulation_steps=1,
        warmup_steps=steps // 16,  # the first step of one has a rate of zero
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=has_bfloat16(),
        seed=seed,
    )

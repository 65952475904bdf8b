"""Stage grid: a model's learning rate, chosen on validation text that no result is measured on."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from lesa.errors import CheckError, UserError
from lesa.files import read_json, tree_digest, write_json
from lesa.params import Params, Train
from lesa.training.blocks import load_blocks
from lesa.training.pretrain import Run, dtype_name, train
from pipelines.closure import resumable
from pipelines.folders import CORPUS, INIT, PREFIX
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def short_schedule(params: Params) -> Train:
    """The settings of pretrain over the grid's steps: warm-up and cosine are scaled to them."""
    steps, whole = params.grid.max_steps, params.train
    warmup = whole.warmup_steps * steps // whole.max_steps
    return whole.model_copy(
        update={"max_steps": steps, "eval_every": steps, "warmup_steps": warmup}
    )


class Try(TypedDict):
    """Losses in nats a token, on validation text; None where training ends at no number."""

    learning_rate: float
    validation_loss_at_0: float | None
    validation_loss: float | None


def measure(run: Run, rate: float, tried: list[Try], unfinished: Path, log: Tracker) -> float:
    """Add a try of `rate` to those `tried`; returns its validation loss, infinite where training
    diverges. What a stopped run has measured is in `unfinished`, with the checkpoint of a try that
    is longer than the steps between two."""
    path = unfinished / f"{rate}.json"
    if not path.is_file():
        starts = [row["validation_loss_at_0"] for row in tried]
        start = next((loss for loss in starts if loss is not None), None)  # the same at any rate
        losses: list[float | None] = [None]
        work, settings = unfinished / f"trainer-{rate}", run.settings
        try:
            _, curve = train(
                replace(run, learning_rate=rate, measure_start=start is None),
                work,
                resumable=settings.save_every < settings.max_steps,
                prefix_cache=PREFIX if settings.prefix_cache else None,
            )
            losses = [row["heldout_loss"] for row in curve["steps"]]
        except CheckError as error:  # it says that the run has diverged
            print(error, flush=True)
        first = losses[0] if start is None else start
        row = {"learning_rate": rate, "validation_loss_at_0": first, "validation_loss": losses[-1]}
        write_json(path, row)
        shutil.rmtree(work, ignore_errors=True)  # its checkpoint
    found: Try = read_json(path)
    print(f"{run.init}: {found}", flush=True)
    tried.append(found)
    if (loss := found["validation_loss"]) is None:
        return math.inf
    log.metrics({"learning_rate": rate, "validation_loss": loss})
    return loss


def best_of(losses: Mapping[float, float]) -> float:
    """The rate of the lowest loss. Raises CheckError where all are infinite."""
    best = min(losses, key=lambda rate: losses[rate])
    if losses[best] == math.inf:
        rates = ", ".join(f"{rate:g}" for rate in sorted(losses))
        raise CheckError(f"training diverges at every learning rate that was tried: {rates}")
    return best


def report(params: Params, run: Run, tried: list[Try], best: float) -> dict[str, Any]:
    """What a search writes beside whose it is: with what, over how many tokens, and every try."""
    steps = run.settings.max_steps
    return {
        "profile": params.profile,
        "dtype": dtype_name(run.settings.bf16),
        "max_steps": steps,
        "tokens": steps * run.tokens_per_step,
        "runs": sorted(tried, key=lambda row: row["learning_rate"]),
        "best": best,
    }


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name, settings = args.model, short_schedule(params)
    if name not in params.methods:
        raise UserError(f"params.yaml: methods.{name}: there are {', '.join(params.methods)}")
    init, rates = INIT / name, params.grid.learning_rates
    run = Run(
        init, load_blocks(CORPUS / "train"), load_blocks(CORPUS / "validation"), settings, rates[0]
    )
    checkpoint = tree_digest(init)
    shared = settings.model_dump(exclude={"launch"})
    tried: list[Try] = []
    of = [shared, checkpoint]
    with resumable(f"grid/{name}", "pipelines.choose_rate", [CORPUS], of) as unfinished:
        best = best_of({rate: measure(run, rate, tried, unfinished, log) for rate in rates})
        found = {"model": name, "checkpoint": checkpoint, **report(params, run, tried, best)}
        write_json(f"artifacts/grid/{name}.json", found)


if __name__ == "__main__":
    run_stage("choose_rate", work, "model")

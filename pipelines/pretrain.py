"""Stage pretrain: short continual pre-training of one model under its method's freezing policy.

Runs in one process, or in each of those that `train.launch` starts: then the first of them alone
writes (docs/scaling.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lesa.errors import UserError
from lesa.files import key_of, read_object, tree_digest, work_folder, write_json
from lesa.params import Params
from lesa.training import processes
from lesa.training.blocks import load_blocks
from lesa.training.pretrain import Run, dtype_name, train
from lesa.training.saving import save
from pipelines.closure import code_digest
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

CORPUS = Path("artifacts/corpus")
PREFIX = Path("artifacts/work/prefix")  # stays: other models and later runs read it, too
# The curve does not depend on these: a stopped run may go on with others.
OF_THE_MACHINE = {"launch", "per_device_batch_size", "gradient_accumulation_steps"}


def read_grid(model: str) -> tuple[Path, dict[str, Any]]:
    """The file in which the grid's choice of a learning rate is committed, and its content."""
    path = Path(f"metrics/grid/{model}.json")
    if not path.is_file():
        raise UserError(f"{path}: missing; `make grid` chooses each model's learning rate")
    grid = read_object(path)
    best = grid.get("best")
    if not isinstance(best, float) or not best > 0:
        raise UserError(f"{path}: best: {best!r}: must be a number above 0; `make grid` writes it")
    return path, grid


def chosen_for(params: Params, checkpoint: str) -> dict[str, Any]:
    """What a grid's file must name for its rate to be the one of a run of the checkpoint."""
    return {
        "profile": params.profile,
        "checkpoint": checkpoint,
        "dtype": dtype_name(params.train.bf16),
        "max_steps": params.grid.max_steps,
    }


def rate_warnings(path: Path, grid: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """A line for each key of `own` in which the grid was not that of this run."""
    lines = []
    for key, value in own.items():
        if key not in grid:
            lines.append(f"{path}: does not say for which {key} the rate was chosen; `make grid`")
        elif grid[key] != value:
            lines.append(f"{path}: {key} was {grid[key]}, but this run's is {value}; `make grid`")
    return lines


def logged(log: Tracker, tokens_per_step: int, numbers: Mapping[str, float], step: int) -> None:
    """A point of a curve, by training tokens: what runs of other batches are compared by."""
    log.metrics(numbers, step * tokens_per_step)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name, settings = args.model, params.train
    init, unfinished = Path("artifacts/init") / name, Path(f"artifacts/work/pretrain/{name}")
    path, grid = read_grid(name)
    run = Run(
        init, load_blocks(CORPUS, "train"), load_blocks(CORPUS, "test"), settings, grid["best"]
    )
    group = processes.group()
    if group.is_main_process:
        checkpoint = tree_digest(init)
        warnings = rate_warnings(path, grid, chosen_for(params, checkpoint))
        print(*warnings, sep="\n", end="\n" * bool(warnings), flush=True)
        shared = settings.model_dump(exclude=OF_THE_MACHINE)
        shared["sequences_per_step"] = run.sequences_per_step
        code = code_digest("pipelines.pretrain")
        key = key_of(shared, run.learning_rate, checkpoint, tree_digest(CORPUS), code)
    with work_folder(unfinished, key) if group.is_main_process else nullcontext():
        group.wait_for_everyone()  # the folder may have been emptied
        prefix_cache = PREFIX if settings.prefix_cache else None
        by_tokens = partial(logged, log, run.tokens_per_step)
        trained, curve = train(run, unfinished, by_tokens, prefix_cache=prefix_cache)
        if group.is_main_process:
            save(trained, init, Path("artifacts/trained") / name)
            said = {"rate_warnings": warnings} if warnings else {}
            write_json(f"metrics/pretrain/{name}.json", {"model": name, **curve, **said})
    log.params({**settings.model_dump(), "learning_rate": run.learning_rate})
    log.metrics({"tokens_per_second": curve["tokens_per_second"]})


if __name__ == "__main__":
    run_stage("pretrain", work, "model")

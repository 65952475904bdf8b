"""Stage pretrain: short continual pre-training of one model under its method's freezing policy.

Runs in one process, or in each of those that `train.launch` starts: then the first of them alone
writes (docs/scaling.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from lesa.files import tree_digest, write_json
from lesa.params import Params
from lesa.training import processes
from lesa.training.blocks import load_blocks
from lesa.training.pretrain import Run, train
from lesa.training.saving import save
from pipelines.chosen_rate import chosen_for, rate_warnings, read_grid
from pipelines.closure import resumable
from pipelines.folders import CORPUS, INIT, PREFIX, TRAINED, WORK
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

# The curve does not depend on these: a stopped run may go on with others.
OF_THE_MACHINE = {"launch", "per_device_batch_size", "gradient_accumulation_steps"}


def logged(log: Tracker, tokens_per_step: int, numbers: Mapping[str, float], step: int) -> None:
    """A point of a curve, by training tokens: what runs of other batches are compared by."""
    log.metrics(numbers, step * tokens_per_step)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name, settings = args.model, params.train
    init, place = INIT / name, f"pretrain/{name}"
    path, grid = read_grid(name)
    run = Run(
        init, load_blocks(CORPUS / "train"), load_blocks(CORPUS / "test"), settings, grid["best"]
    )
    group = processes.group()
    if group.is_main_process:
        checkpoint = tree_digest(init)
        warnings = rate_warnings(path, grid, chosen_for(params, checkpoint))
        print(*warnings, sep="\n", end="\n" * bool(warnings), flush=True)
        shared = settings.model_dump(exclude=OF_THE_MACHINE)
        shared["sequences_per_step"] = run.sequences_per_step
        of = [shared, run.learning_rate, checkpoint]
        kept = resumable(place, "pipelines.pretrain", [CORPUS], of)
    with kept if group.is_main_process else nullcontext():
        group.wait_for_everyone()  # the folder may have been emptied
        prefix_cache = PREFIX if settings.prefix_cache else None
        by_tokens = partial(logged, log, run.tokens_per_step)
        trained, curve = train(run, WORK / place, by_tokens, prefix_cache=prefix_cache)
        if group.is_main_process:
            save(trained, init, TRAINED / name)
            said = {"rate_warnings": warnings} if warnings else {}
            write_json(f"metrics/pretrain/{name}.json", {"model": name, **curve, **said})
    log.params({**settings.model_dump(), "learning_rate": run.learning_rate})
    log.metrics({"tokens_per_second": curve["tokens_per_second"]})


if __name__ == "__main__":
    run_stage("pretrain", work, "model")

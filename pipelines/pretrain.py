"""Stage pretrain: short continual pre-training of one model under its method's freezing policy.

Runs in one process, or in each of those that `train.launch` starts: then the first of them alone
writes (docs/scaling.md).
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from lesa.files import key_of, tree_digest, work_folder, write_json
from lesa.params import Params
from lesa.training import processes
from lesa.training.pretrain import block_list, load_blocks, save, train
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

CORPUS = Path("artifacts/corpus")
PREFIX = Path("artifacts/work/prefix")  # kept: other models and later runs read it, too
# What a resumed run may have otherwise: the curve does not depend on it.
FREE = {"launch", "learning_rates", "per_device_batch_size", "gradient_accumulation_steps"}


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name, settings = args.model, params.train
    init = Path("artifacts/init") / name
    rate = settings.learning_rates[name]
    group = processes.group()
    unfinished = Path(f"artifacts/work/pretrain/{name}")
    if group.is_main_process:
        sequences = settings.per_device_batch_size * settings.gradient_accumulation_steps
        kept = settings.model_dump(exclude=FREE) | {"sequences": sequences}
        key = key_of(kept, rate, tree_digest(init), tree_digest(CORPUS))
    with work_folder(unfinished, key) if group.is_main_process else nullcontext():
        group.wait_for_everyone()  # the folder may have been emptied
        trained, curve = train(
            init,
            load_blocks(CORPUS, "train"),
            block_list(CORPUS, "test"),
            settings,
            rate,
            unfinished,
            log.metrics,
            prefix_cache=PREFIX if settings.prefix_cache else None,
        )
        if group.is_main_process:
            save(trained, init, Path("artifacts/trained") / name)
            write_json(f"metrics/pretrain/{name}.json", {"model": name, **curve})
    log.params({**settings.model_dump(exclude={"learning_rates"}), "learning_rate": rate})
    log.metrics({"tokens_per_second": curve["tokens_per_second"]})


if __name__ == "__main__":
    run_stage("pretrain", work, "model")

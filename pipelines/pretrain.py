"""Stage pretrain: short continual pre-training of one model under its method's freezing policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.files import key_of, tree_digest, work_folder, write_json
from lesa.params import Params
from lesa.pretrain import block_list, load_blocks, save, train
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

CORPUS = Path("artifacts/corpus")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name = args.model
    init = Path("artifacts/init") / name
    rate = params.train.learning_rates[name]
    settings = params.train.model_dump(exclude={"learning_rates"})
    key = key_of(settings, rate, tree_digest(init), tree_digest(CORPUS))
    with work_folder(f"artifacts/work/pretrain/{name}", key) as unfinished:
        model, curve = train(
            init,
            load_blocks(CORPUS, "train"),
            block_list(CORPUS, "test"),
            params.train,
            rate,
            unfinished,
            log.metrics,
        )
        save(model, init, Path("artifacts/trained") / name)
        write_json(f"metrics/pretrain/{name}.json", {"model": name, **curve})
        log.params({**settings, "learning_rate": rate})
        log.metrics({"tokens_per_second": curve["tokens_per_second"]})


if __name__ == "__main__":
    run_stage("pretrain", work, "model")

"""Stage grid: a model's learning rate, chosen on validation text that no result is measured on."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.files import key_of, read_json, tree_digest, work_folder, write_json
from lesa.params import Params
from lesa.training.pretrain import block_list, load_blocks, train
from pipelines.pretrain import CORPUS, PREFIX
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name = args.model
    init = Path("artifacts/init") / name
    steps = params.grid.max_steps
    # The whole short schedule is seen: warm-up and cosine scaled to the grid's steps.
    settings = params.train.model_copy(
        update={
            "max_steps": steps,
            "eval_every": steps,
            "warmup_steps": params.train.warmup_steps * steps // params.train.max_steps,
        }
    )
    kept = settings.model_dump(exclude={"launch", "learning_rates"})
    key = key_of(kept, tree_digest(init), tree_digest(CORPUS))
    runs: list[dict[str, float]] = []
    with work_folder(f"artifacts/work/grid/{name}", key) as unfinished:
        for rate in params.grid.learning_rates:
            done = unfinished / f"{rate}.json"
            if not done.is_file():
                start = runs[0]["validation_loss_at_0"] if runs else None  # the same at any rate
                _, curve = train(
                    init,
                    load_blocks(CORPUS, "train"),
                    block_list(CORPUS, "validation"),
                    settings,
                    rate,
                    unfinished / "trainer",
                    resumable=False,
                    measure_start=start is None,
                    prefix_cache=PREFIX if settings.prefix_cache else None,
                )
                measured = [row["heldout_loss"] for row in curve["steps"]]
                row = {
                    "learning_rate": rate,
                    "validation_loss_at_0": measured[0] if start is None else start,
                    "validation_loss": measured[-1],
                }
                write_json(done, row)
            runs.append(read_json(done))
            print(f"{name}: {runs[-1]}", flush=True)
            log.metrics({"validation_loss": runs[-1]["validation_loss"], "learning_rate": rate})
        best = min(runs, key=lambda run: run["validation_loss"])["learning_rate"]
        write_json(
            f"artifacts/grid/{name}.json",
            {
                "model": name,
                "profile": params.profile,
                "max_steps": steps,
                "runs": runs,
                "best": best,
            },
        )


if __name__ == "__main__":
    run_stage("choose_rate", work, "model")

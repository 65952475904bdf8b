"""Stage grid: a model's learning rate, chosen on validation text that no result is measured on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lesa.errors import UserError
from lesa.files import key_of, read_json, tree_digest, work_folder, write_json
from lesa.params import Params, Train
from lesa.training.blocks import load_blocks
from lesa.training.pretrain import Run, dtype_name, train
from pipelines.closure import code_digest
from pipelines.pretrain import CORPUS, PREFIX
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

Row = dict[str, float]


def short_schedule(params: Params) -> Train:
    """The settings of pretrain over the grid's steps: warm-up and cosine are scaled to them."""
    steps, whole = params.grid.max_steps, params.train
    warmup = whole.warmup_steps * steps // whole.max_steps
    return whole.model_copy(
        update={"max_steps": steps, "eval_every": steps, "warmup_steps": warmup}
    )


def measure(run: Run, rates: list[float], unfinished: Path) -> Iterator[Row]:
    """Validation loss in nats at each rate; `unfinished` has the rows that are already there."""
    start: float | None = None  # the same at any rate
    for rate in rates:
        path = unfinished / f"{rate}.json"
        if not path.is_file():
            _, curve = train(
                replace(run, learning_rate=rate, measure_start=start is None),
                unfinished / "trainer",
                resumable=False,
                prefix_cache=PREFIX if run.settings.prefix_cache else None,
            )
            losses = [row["heldout_loss"] for row in curve["steps"]]
            row = {
                "learning_rate": rate,
                "validation_loss_at_0": losses[0] if start is None else start,
                "validation_loss": losses[-1],
            }
            write_json(path, row)
        found: Row = read_json(path)
        start = found["validation_loss_at_0"]
        yield found


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name, settings = args.model, short_schedule(params)
    if name not in params.methods:
        raise UserError(f"params.yaml: methods.{name}: there are {', '.join(params.methods)}")
    init, rates = Path("artifacts/init") / name, params.grid.learning_rates
    run = Run(
        init, load_blocks(CORPUS, "train"), load_blocks(CORPUS, "validation"), settings, rates[0]
    )
    checkpoint = tree_digest(init)
    shared = settings.model_dump(exclude={"launch"})
    key = key_of(shared, checkpoint, tree_digest(CORPUS), code_digest("pipelines.choose_rate"))
    rows: list[Row] = []
    with work_folder(f"artifacts/work/grid/{name}", key) as unfinished:
        for row in measure(run, rates, unfinished):
            print(f"{name}: {row}", flush=True)
            log.metrics({key: row[key] for key in ("validation_loss", "learning_rate")})
            rows.append(row)
        best = min(rows, key=lambda row: row["validation_loss"])["learning_rate"]
        report = {
            "model": name,
            "profile": params.profile,
            "checkpoint": checkpoint,
            "dtype": dtype_name(settings.bf16),
            "max_steps": settings.max_steps,
            "tokens": settings.max_steps * run.tokens_per_step,
            "runs": rows,
            "best": best,
        }
        write_json(f"artifacts/grid/{name}.json", report)


if __name__ == "__main__":
    run_stage("choose_rate", work, "model")

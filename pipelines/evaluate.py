"""Stage evaluate: score one checkpoint with lm-eval, on the tasks of the stage `tasks`."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.harness import evaluate
from eval.suite import stored
from lesa.errors import UserError
from lesa.files import write_json
from lesa.params import Params
from pipelines.stage import run_stage
from pipelines.tasks import DOCUMENTS
from pipelines.tasks import FOLDER as TASKS
from pipelines.tracking import Tracker

PHASES = ("init", "trained")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    options = params.evaluate
    if args.phase not in PHASES:
        raise UserError(f"phase: {args.phase!r} is none of {', '.join(PHASES)}")
    if not TASKS.is_dir():
        raise UserError(f"{TASKS}: not found; the tasks stage writes it")
    log.params(options.model_dump() | {"phase": args.phase, "model": args.model})
    scores = evaluate(
        Path("artifacts") / args.phase / args.model,
        stored(TASKS, options.tasks, options.mirror),
        dtype=options.dtype,
        batch_size=options.batch_size,
        limit=options.limit,
        bootstrap_iters=options.bootstrap_iters,
        # The official code takes it before training alone, and it takes most of the time.
        heldout=TASKS / DOCUMENTS if args.phase == "init" else None,
        document_tokens=options.document_tokens,
    )
    if scores is None:  # the first of several processes has them
        return
    path = Path("metrics/evaluate") / args.phase / f"{args.model}.json"
    write_json(path, {"model": args.model, "phase": args.phase, **scores})
    log.metrics(
        {
            f"{task}/{metric}": entry["value"]
            for task, scored in scores["tasks"].items()
            for metric, entry in scored["metrics"].items()
        }
    )
    if documents := scores.get("document_perplexity"):
        log.metrics({"document_perplexity": documents["value"]})
    log.artifact(path)


if __name__ == "__main__":
    run_stage("evaluate", work, "phase", "model")

"""Stage: score one checkpoint with lm-eval, offline suite and official tasks."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from eval import mirror, offline
from eval.harness import evaluate
from lesa.errors import UserError
from lesa.files import write_json
from lesa.params import Params
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

HELDOUT = Path("artifacts/corpus/documents/heldout.jsonl")
PHASES = ("init", "trained")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    options = params.evaluate
    if args.phase not in PHASES:
        raise UserError(f"phase: {args.phase!r} is none of {', '.join(PHASES)}")
    log.params(options.model_dump() | {"phase": args.phase, "model": args.model})
    with tempfile.TemporaryDirectory(prefix="evaluate-") as temporary:
        folder = Path(temporary)
        suites = [
            offline.build(
                HELDOUT,
                folder / "offline",
                documents=options.offline_documents,
                examples=options.offline_examples,
            )
        ]
        if options.tasks and options.mirror is not None:
            suites.append(mirror.mirrored(options.tasks, Path(options.mirror), folder / "mirror"))
        elif options.tasks:
            suites.append(mirror.hub(options.tasks))
        scores = evaluate(
            Path("artifacts") / args.phase / args.model,
            suites,
            dtype=options.dtype,
            batch_size=options.batch_size,
            limit=options.limit,
            bootstrap_iters=options.bootstrap_iters,
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
    log.artifact(path)


if __name__ == "__main__":
    run_stage("evaluate", work, "phase", "model")

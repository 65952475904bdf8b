"""Stage tasks: what checkpoints are scored on; whatever it lacks is found before any training."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from eval import mirror, offline
from eval.suite import stored
from lesa.files import whole_folder, write_json, write_text
from lesa.params import Params
from pipelines.folders import CORPUS
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

HELDOUT = CORPUS / "documents/heldout.jsonl"
FOLDER = Path("artifacts/tasks")
DOCUMENTS = "documents.jsonl"  # whole, for the mean of their perplexities
OK = Path("artifacts/tasks.ok")
METRICS = Path("metrics/tasks.json")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    options = params.evaluate
    with whole_folder(FOLDER) as folder:
        built = offline.build(
            HELDOUT,
            folder / "offline",
            documents=options.offline_documents,
            examples=options.offline_examples,
        )
        shutil.copy(HELDOUT, folder / DOCUMENTS)
        if options.tasks and options.mirror is not None:
            mirror.write(options.tasks, options.mirror, folder / "mirror")
        tasks: dict[str, int] = {}
        for suite in stored(folder, options.tasks, options.mirror):
            tasks |= suite.check()
    for name, reason in {**built.left_out, **built.notes}.items():
        print(f"{name}: {'left out: ' * (name in built.left_out)}{reason}", flush=True)
    write_json(METRICS, {"tasks": tasks, "left_out": built.left_out, "notes": built.notes})
    # Training depends on this file, which is always the same: on the check, not on the tasks.
    write_text(OK, "Whatever the tasks need is there.\n")
    log.metrics({f"examples/{name}": number for name, number in tasks.items()})
    log.artifact(METRICS)


if __name__ == "__main__":
    run_stage("tasks", work)

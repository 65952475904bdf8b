"""Study budget: longer training runs of several seeds, each with its model made on the way.

A run of pipelines/studies/budget/params.yaml is a stage: a model, and the phases it trains in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.params import Params
from pipelines.phases import Schedule, Texts, Training, record_run
from pipelines.pretrain import CORPUS
from pipelines.rows import chosen
from pipelines.stage import run_stage
from pipelines.study import study_params
from pipelines.tracking import Tracker

TEXTS = Texts(CORPUS / "train", CORPUS / "test", Path("artifacts/text/budget/second"))


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    row: Training = chosen("budget", Training, args.run)
    schedule: Schedule = study_params("budget", "schedule", Schedule)
    record_run("budget", args.run, row, TEXTS, schedule, params, log)


if __name__ == "__main__":
    run_stage("budget", work, "run")

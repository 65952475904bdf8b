"""Study budget: longer training runs of several seeds, each with its model made on the way.

A run of pipelines/studies/budget/params.yaml is a stage: a model, and the phases it trains in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.params import Params
from pipelines.folders import CORPUS
from pipelines.phases import Texts, record_run
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

TEXTS = Texts(CORPUS / "train", CORPUS / "test", Path("artifacts/text/budget/second"))


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    record_run("budget", args.run, TEXTS, params, log)


if __name__ == "__main__":
    run_stage("budget", work, "run")

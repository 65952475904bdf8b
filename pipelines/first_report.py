"""Stage first_report: the models before any training, minutes into a run that takes an hour."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.params import Params
from pipelines.stage import run_stage
from pipelines.tracking import Tracker
from reports import first, terminal

OUT = Path("reports")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    print(terminal.text(first.write(params, Path("metrics"), OUT)), flush=True)
    log.parent.artifact(OUT / first.NAME)


if __name__ == "__main__":
    run_stage("first_report", work, measures=False)

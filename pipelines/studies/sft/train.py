"""Stage train of the study sft: one model's fine-tuning on completions."""

from __future__ import annotations

import argparse

from lesa.params import Params
from pipelines.continued import continue_on_study_text
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    continue_on_study_text(params, log, "sft", args.model)


if __name__ == "__main__":
    run_stage("sft-train", work, "model")

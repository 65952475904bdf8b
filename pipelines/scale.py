"""A run of the study scale: five million tokens of Python source, no block seen twice."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.params import Params, Positive, Strict
from pipelines.folders import CORPUS
from pipelines.phases import Texts, record_run
from pipelines.stage import run_stage
from pipelines.study import with_train
from pipelines.tracking import Tracker

TEXT = Path("artifacts/text/scale")
TEXTS = Texts(TEXT / "train", TEXT / "test", CORPUS / "test")


class Batch(Strict):
    """What of `train` the study has values of its own for. prefix_cache: a file a block would fill
    a disk, and save nothing where a block is seen once."""

    per_device_batch_size: Positive
    prefix_cache: bool


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    record_run("scale", args.run, TEXTS, with_train(params, "scale", "batch", Batch), log)


if __name__ == "__main__":
    run_stage("scale", work, "run")

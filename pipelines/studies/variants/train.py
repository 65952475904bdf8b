"""Stage train of the study variants: the base, all of it trained for a while on one text."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.params import Count, Params, Strict
from pipelines.continued import Job, Learner, continue_training
from pipelines.stage import run_stage
from pipelines.study import TrainOverrides, entry, with_train
from pipelines.tracking import Tracker


class Variant(Strict):
    """The base, all of it trained for a while. text: the folder of the blocks `train`. seed: of
    their order."""

    text: str
    seed: Count


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name = args.variant
    variant: Variant = entry("variants", "variants", Variant, name)
    params = with_train(params, "variants", "train", TrainOverrides)
    job = Job(
        study="variants",
        model=name,
        row=Learner(method="base", rate_of="base", seed=variant.seed),
        text=Path(variant.text),
        heldout=None,
    )
    continue_training(params, log, job)


if __name__ == "__main__":
    run_stage("variants-train", work, "variant")

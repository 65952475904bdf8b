"""Study removal: the base's loss on the validation documents with each of its layers left out."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.files import write_json
from lesa.machine import compute_device
from lesa.params import Params
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.heldout import block_losses
from lesa.training.pretrain import dtype_name, load_model
from lesa.training.removal import losses_without
from pipelines.pretrain import CORPUS
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

BASE = Path("artifacts/base")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    validation, train = load_blocks(CORPUS, "validation"), params.train
    model, blocks = load_model(BASE).to(compute_device()), tokens_of(validation)
    found = {
        "profile": params.profile,
        "dtype": dtype_name(train.bf16),
        "heldout_documents": list(validation["document"]),
        "block_losses": block_losses(model, blocks, train.bf16, train.per_device_batch_size),
        "block_losses_without": losses_without(
            model, blocks, train.bf16, train.per_device_batch_size
        ),
    }
    write_json("artifacts/removal/base.json", found)


if __name__ == "__main__":
    run_stage("removal", work)

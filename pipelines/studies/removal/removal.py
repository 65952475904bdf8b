"""Study removal: the base's loss on the validation documents with each of its layers left out."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from lesa.files import read_json, write_json
from lesa.machine import compute_device
from lesa.params import Params
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.heldout import block_losses
from lesa.training.prefix import layers_of
from lesa.training.pretrain import dtype_name, load_model
from lesa.training.removal import losses_without
from pipelines.closure import resumable
from pipelines.folders import BASE, CORPUS
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    validation, bf16 = load_blocks(CORPUS / "validation"), params.train.bf16
    blocks, size = tokens_of(validation), params.train.per_device_batch_size
    model = load_model(BASE).to(compute_device())
    module, read = "pipelines.studies.removal.removal", [BASE, CORPUS / "validation"]
    with resumable("removal", module, read, [bf16, size]) as unfinished:
        without = []
        for i in tqdm(range(len(layers_of(model))), desc="without", unit="layer"):
            done = unfinished / f"{i}.json"
            if not done.is_file():
                write_json(done, losses_without(model, i, blocks, bf16, size))
            without.append(read_json(done))
        found = {
            "profile": params.profile,
            "dtype": dtype_name(bf16),
            "heldout_documents": list(validation["document"]),
            "block_losses": block_losses(model, blocks, bf16, size),
            "block_losses_without": without,
        }
        write_json("artifacts/removal/base.json", found)


if __name__ == "__main__":
    run_stage("removal", work)

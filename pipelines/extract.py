"""Stage extract: the Gram matrix of every matrix kind, one layer in memory at a time."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from lesa.checkpoints.reader import Checkpoint
from lesa.files import whole_folder, write_tensors
from lesa.machine import compute_device
from lesa.method.basis import check_not_zero, gram
from lesa.params import Params
from pipelines.folders import BASE
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    base, device = Checkpoint(BASE), compute_device()
    with whole_folder("artifacts/extract") as folder:
        for kind in base.kinds:
            layers = base.matrices(kind, device)
            total = gram(tqdm(layers, f"extract {kind}", base.num_layers, unit="layer"))
            check_not_zero(total, kind)
            write_tensors(folder / f"{kind}.safetensors", {"gram": total.cpu()})
            del total  # before the next kind's is made
        log.params({"kinds": ",".join(base.kinds), "layers": base.num_layers})


if __name__ == "__main__":
    run_stage("extract", work)

"""Stage svd: the shared basis U, Σ of every matrix kind and its spectrum."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

from safetensors.torch import load_file
from tqdm import tqdm

from lesa.checkpoints.reader import Checkpoint
from lesa.files import whole_folder, write_json
from lesa.machine import compute_device
from lesa.method.basis import from_concat, from_gram, save_basis
from lesa.method.structure import structure, top_rows
from lesa.params import Params
from pipelines.folders import BASE, SVD
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def rounded(values: list[float]) -> list[float]:
    """Six significant digits: enough for every figure, and a metrics file of readable size."""
    return [float(f"{value:.6g}") for value in values]


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    method, tolerance = params.svd.method, params.svd.rank_tolerance
    report: dict[str, Any] = {}
    base, device = Checkpoint(BASE), compute_device()
    with whole_folder(SVD) as folder:
        for kind in tqdm(base.kinds, desc="svd", unit="kind"):
            start = time.perf_counter()
            if method == "gram":
                gram = load_file(f"artifacts/extract/{kind}.safetensors")["gram"]
                basis = from_gram(gram.to(device), tolerance)
                del gram
            else:
                basis = from_concat(base.matrices(kind, device), tolerance)
            seconds = time.perf_counter() - start
            save_basis(basis, folder / f"{kind}.safetensors")
            tops = top_rows(basis, base.matrices(kind, device))
            of_layers = structure(base.matrices(kind, device))
            report[kind] = {
                "method": method,
                "rank": len(basis.s),
                "shape": list(base.shape(kind)),
                "layers": base.num_layers,
                "singular_values": rounded(basis.s.tolist()),
                "top_rows": [rounded(row) for row in tops.tolist()],
                "structure": asdict(of_layers) if of_layers else None,
                "seconds": seconds,
            }
            log.metrics({f"{kind}.rank": len(basis.s), f"{kind}.seconds": seconds})
        write_json("metrics/svd.json", report)


if __name__ == "__main__":
    run_stage("svd", work)

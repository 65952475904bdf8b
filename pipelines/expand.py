"""Stage expand: one model's deepened checkpoint, and what its new layers are made of."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from baselines import method_of
from lesa.checkpoints.reader import Checkpoint
from lesa.files import write_json
from lesa.method.structure import structures
from lesa.params import Params
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source
from lesa.upscaling.plan import LayerPlan, to_json, trainable_parameters
from pipelines.folders import BASE, FITS, INIT, SVD
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def write_model(params: Params, model: str, folder: Path) -> LayerPlan:
    """Write the checkpoint of `model` into `folder`; returns its layer plan."""
    method, options = method_of(params, model)
    entry = params.methods[model]
    runs = [params.fit.runs[need] for need in entry.needs]
    fits = tuple(FITS / run.preset / str(run.seed) for run in runs)
    source = Source(Checkpoint(BASE), SVD, fits, options)
    return expand(source, entry.method, method, params.gaps_of(model), folder)


def describe(folder: Path, plan: LayerPlan) -> dict[str, Any]:
    """Parameters of a deepened checkpoint, and norms and structure of its new matrices."""
    new = Checkpoint(folder)
    added = [slot.layer_idx for slot in plan if slot.new]
    after = new.parameters()
    return {
        "parameters_before": Checkpoint(BASE).parameters(),
        "parameters_after": after,
        "trainable_parameters": trainable_parameters(plan, new.layer_parameters(), after),
        "router": new.family.router is not None,
        "new_weight_norms": {
            kind: [float(new.matrix(kind, i).float().norm()) for i in added] for kind in new.kinds
        },
        "new_weight_structure": structures(new, added),
    }


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    model, folder = args.model, INIT / args.model
    start = time.perf_counter()
    plan = write_model(params, model, folder)
    seconds = time.perf_counter() - start
    entry = params.methods[model]
    report = {"model": model, "method": entry.method, "plan": to_json(plan), "seconds": seconds}
    report |= describe(folder, plan)
    write_json(f"metrics/expand/{model}.json", report)
    log.params({**entry.model_dump(), "layers": len(plan)})
    log.metrics(
        {key: report[key] for key in ("parameters_after", "trainable_parameters", "seconds")}
    )


if __name__ == "__main__":
    run_stage("expand", work, "model")

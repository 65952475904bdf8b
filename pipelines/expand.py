"""Stage expand: one method's deepened checkpoint."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import baselines  # noqa: F401  (registers the baselines)
from lesa import methods
from lesa.checkpoint import KINDS, Checkpoint, layer_tensor
from lesa.errors import UserError
from lesa.expand import expand
from lesa.files import write_json
from lesa.methods import Source
from lesa.params import Params
from lesa.plan import to_json
from lesa.structure import structure
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    if args.model not in params.methods:
        raise UserError(
            f"params.yaml: methods: no model {args.model!r}; it has {sorted(params.methods)}"
        )
    settings = params.methods[args.model]
    method = methods.get(settings.method)
    folder = Path("artifacts/init") / args.model
    start = time.perf_counter()
    base = Checkpoint("artifacts/init/base")
    plan = method.plan(base.num_layers, params.gaps.first, params.gaps.last)
    source = Source(
        base=base,
        svd=Path("artifacts/svd"),
        needs=Path(settings.needs),
        unpredicted=settings.unpredicted,
        seed=settings.seed or 0,
    )
    after = expand(source, method, plan, folder)
    before = sum(base.tensor(name).numel() for name in base.names())
    seconds = time.perf_counter() - start
    new = Checkpoint(folder)
    norms = {
        kind: [float(new.matrix(kind, s.layer_idx).float().norm()) for s in plan if s.new]
        for kind in KINDS
    }
    made = {kind: structure(new.matrix(kind, s.layer_idx) for s in plan if s.new) for kind in KINDS}
    one_layer = sum(new.tensor(layer_tensor(0, s)).numel() for s in new.suffixes())
    everything = all(slot.trainable for slot in plan)
    trainable = after if everything else one_layer * sum(slot.trainable for slot in plan)
    report = {
        "model": args.model,
        "method": settings.method,
        "plan": to_json(plan),
        "parameters_before": before,
        "parameters_after": after,
        "trainable_parameters": trainable,
        "new_weight_norms": norms,
        "new_weight_structure": {kind: asdict(s) if s else None for kind, s in made.items()},
        "seconds": seconds,
    }
    write_json(f"metrics/expand/{args.model}.json", report)
    log.params({"method": settings.method, "needs": settings.needs, "layers": len(plan)})
    log.metrics({"parameters_after": after, "trainable_parameters": trainable, "seconds": seconds})


if __name__ == "__main__":
    run_stage("expand", work, "model")

"""Stage base: a pretrained checkpoint in safetensors, from a wheel, the hub, a folder or chance."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.checkpoints.base import prepare
from lesa.files import tree_digest, whole_folder, write_json
from lesa.params import Params
from pipelines.folders import BASE
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

METRICS = Path("metrics/base.json")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    log.params({"base": params.base.model_dump()})
    with whole_folder(BASE) as partial:
        found = prepare(params.base, partial)
    found.pop("files")
    metrics = found | {
        "profile": params.profile,
        "source": params.base.described,
        "license": params.base.license,
        "digest": tree_digest(BASE),
    }
    write_json(METRICS, metrics)
    log.metrics({"parameters": found["parameters"], "layers": found["num_hidden_layers"]})
    log.artifact(METRICS)


if __name__ == "__main__":
    run_stage("base", work)

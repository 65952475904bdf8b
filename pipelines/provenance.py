"""Where a stage's numbers come from: commit, seeds, model, text, packages, machine, seconds."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lesa.files import write_json
from lesa.machine import compute_device, has_bfloat16, processor, usable_cores
from lesa.params import Params
from pipelines.tracking import digests, flatten, git_state

FOLDER = Path("metrics/provenance")
# They read no text: the one that is there may be of another run.
WITHOUT_DATA = {"base", "extract", "svd", "fit", "expand"}
PACKAGES = ("accelerate", "datasets", "lm_eval", "numpy", "safetensors", "scipy", "tokenizers",
            "torch", "transformers")  # fmt: skip


def record(stage: str, arguments: list[str], params: Params, seconds: float) -> Path:
    """Write metrics/provenance/<stage>-<arguments>.json, once the stage has written its outputs.

    `params`: as the stage used them on this machine. What of them the stage depends on is in
    dvc.lock, value by value; the seeds are here, too.
    """
    read = digests()
    if stage in WITHOUT_DATA:
        read.pop("data", None)
    content = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        **git_state(),
        "profile": params.profile,
        "seeds": seeds(params.model_dump(mode="json")),
        "digests": read,
        "packages": {"python": platform.python_version()} | {n: version(n) for n in PACKAGES},
        "machine": {
            "processor": processor(),
            "cores": usable_cores(),
            "threads": torch.get_num_threads(),
            "device": device(),
            "bfloat16": has_bfloat16(),
        },
        "precision": {
            "train": "bfloat16" if params.train.bf16 else "float32",
            "evaluate": params.evaluate.dtype,
        },
        "seconds": seconds,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    path = FOLDER / f"{'-'.join([stage, *arguments])}.json"
    write_json(path, content)
    return path


def seeds(params: Mapping[str, Any]) -> dict[str, Any]:
    """Every seed among the parameters, by its key in params.yaml."""
    flat = flatten(params)
    return {key: json.loads(value) for key, value in flat.items() if key.endswith("seed")}


def device() -> str:
    """What computes: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name() if compute_device().type == "cuda" else "cpu"

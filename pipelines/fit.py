"""Stage fit: train the predictor G_W of every matrix kind, one preset and seed."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import key_of, tree_digest, whole_folder, work_folder, write_json
from lesa.method.fitting import Job, fit_kinds
from lesa.params import INT32_MAX, Params
from pipelines.closure import code_digest
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

BASE, SVD = Path("artifacts/base"), Path("artifacts/svd")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    preset, said = args.preset, args.seed
    if not said.isdecimal() or int(said) > INT32_MAX:
        raise UserError(f"seed: {said!r}: must be a whole number from 0 to {INT32_MAX:,}")
    seed = int(said)
    if preset not in params.fit.presets:
        raise UserError(
            f"params.yaml: fit.presets: no preset {preset!r}; it has {sorted(params.fit.presets)}"
        )
    base = Checkpoint(BASE)
    if base.num_layers < 3:
        raise UserError(f"{BASE}: {base.num_layers} layers; a predictor needs at least 3")
    settings, every = params.fit.presets[preset], params.fit.heldout_every
    name = f"{preset}-{seed}"
    files = [tree_digest(folder) for folder in (BASE, SVD)]
    key = key_of(settings.model_dump(), seed, every, files, code_digest("pipelines.fit"))
    with work_folder(f"artifacts/work/fit/{name}", key) as unfinished:
        job = Job(BASE, SVD, unfinished, settings, seed, every)
        kinds = fit_kinds(job, f"fit {name}")
        for kind in kinds:
            log.metrics({f"{kind}.{k}": v for k, v in kinds[kind]["train"].items()})
        with whole_folder(f"artifacts/fit/{preset}/{seed}") as folder:
            for kind in kinds:  # copied: a stage killed in between finds them all again
                shutil.copyfile(job.weights(kind), folder / f"{kind}.safetensors")
        log.params(settings.model_dump())
        log.tags({"digest": tree_digest(f"artifacts/fit/{preset}/{seed}")})
        write_json(f"metrics/fit/{name}.json", {"preset": preset, "seed": seed, "kinds": kinds})


if __name__ == "__main__":
    run_stage("fit", work, "preset", "seed")

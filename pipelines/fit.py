"""Stage fit: train the predictor G_W of every matrix kind, one preset and seed."""

from __future__ import annotations

import argparse
import shutil

from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import tree_digest, whole_folder, write_json
from lesa.method.fitting import Job, fit_kinds
from lesa.params import INT32_MAX, Params
from pipelines.closure import resumable
from pipelines.folders import BASE, FITS, SVD
from pipelines.stage import run_stage
from pipelines.tracking import Tracker


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
    name, folder = f"{preset}-{seed}", FITS / preset / str(seed)
    of = [settings.model_dump(), seed, every]
    with resumable(f"fit/{name}", "pipelines.fit", [BASE, SVD], of) as unfinished:
        job = Job(BASE, SVD, unfinished, settings, seed, every)
        kinds = fit_kinds(job, f"fit {name}")
        for kind in kinds:
            log.metrics({f"{kind}.{k}": v for k, v in kinds[kind]["train"].items()})
        with whole_folder(folder) as partial:
            for kind in kinds:  # copied: a stage killed in between finds them all again
                shutil.copyfile(job.weights(kind), partial / f"{kind}.safetensors")
        log.params(settings.model_dump())
        log.tags({"digest": tree_digest(folder)})
        write_json(f"metrics/fit/{name}.json", {"preset": preset, "seed": seed, "kinds": kinds})


if __name__ == "__main__":
    run_stage("fit", work, "preset", "seed")

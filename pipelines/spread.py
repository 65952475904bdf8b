"""Stage spread: perplexity at initialisation over predictor seeds, LESA beside its controls."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from baselines import table
from lesa.checkpoints.reader import Checkpoint
from lesa.files import key_of, read_json, tree_digest, work_folder, write_json
from lesa.params import Params
from lesa.training.heldout import HeldOut, held_out
from lesa.training.pretrain import block_list, load_model
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

CORPUS = Path("artifacts/corpus")
SIDES = ("lesa", "noise", "spectrum")


def measure(folder: Path, params: Params) -> HeldOut:
    return held_out(
        load_model(folder),
        block_list(CORPUS, "test"),
        params.train.bf16,
        params.train.per_device_batch_size,
    )


def build(params: Params, seed: int, name: str, fit: Path, folder: Path) -> None:
    """Expand in `folder` with this seed's predictors, or a control of the same seed."""
    method, base = table()[name], Checkpoint("artifacts/base")
    own = {"seed": seed} if "seed" in method.options.model_fields else {}
    options = method.options(unpredicted="layer_0", **own)
    plan = method.plan(base.num_layers, params.gaps)
    expand(Source(base, Path("artifacts/svd"), (fit,), options), name, method, plan, folder)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    preset = args.preset
    numbers = params.fit.seeds(preset)
    fits = [Path(f"artifacts/fit/{preset}/{seed}") for seed in numbers]
    key = key_of(
        [tree_digest(fit) for fit in fits],
        tree_digest("artifacts/corpus/test"),
        params.gaps.model_dump(),
        params.train.bf16,
    )
    seeds: dict[str, dict[str, float]] = {}
    with work_folder(f"artifacts/work/spread/{preset}", key) as unfinished:
        base = measure(Path("artifacts/base"), params)
        for seed, fit in zip(numbers, fits, strict=True):
            done = unfinished / f"{seed}.json"
            if not done.is_file():
                row = {}
                for name in SIDES:
                    build(params, seed, name, fit, unfinished / name)
                    row[name] = measure(unfinished / name, params).perplexity
                    shutil.rmtree(unfinished / name)
                write_json(done, row)
            seeds[str(seed)] = read_json(done)
            print(f"{preset}, seed {seed}: {seeds[str(seed)]}", flush=True)
            log.metrics(seeds[str(seed)], step=seed)
        blocks = block_list(CORPUS, "test")
        write_json(
            f"metrics/spread/{preset}.json",
            {
                "preset": preset,
                "heldout_tokens": sum(len(block) - 1 for block in blocks),
                "dtype": "bfloat16" if params.train.bf16 else "float32",
                "base": base.perplexity,
                "seeds": seeds,
            },
        )


if __name__ == "__main__":
    run_stage("spread", work, "preset")

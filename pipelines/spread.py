"""Study spread: perplexity at initialisation over predictor seeds, LESA beside its controls."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from baselines import table
from lesa.checkpoints.reader import Checkpoint
from lesa.files import key_of, read_json, tree_digest, work_folder, write_json
from lesa.params import Params
from lesa.training.blocks import block_list
from lesa.training.heldout import held_out
from lesa.training.pretrain import dtype_name, load_model
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source
from pipelines.closure import code_digest
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

BASE, SVD, CORPUS = Path("artifacts/base"), Path("artifacts/svd"), Path("artifacts/corpus")
METHODS = ("lesa", "noise", "spectrum")


def perplexity(folder: Path, params: Params) -> float:
    train, blocks = params.train, block_list(CORPUS, "test")
    return held_out(load_model(folder), blocks, train.bf16, train.per_device_batch_size).perplexity


def deepen(params: Params, name: str, seed: int, fit: Path, folder: Path) -> None:
    """Expand the base into `folder` by a method that reads `fit`; a control takes its `seed`."""
    method, base = table()[name], Checkpoint(BASE)
    own = {"seed": seed} if "seed" in method.options.model_fields else {}
    options = method.options.model_validate({"unpredicted": "layer_0", **own})
    plan = method.plan(base.num_layers, params.gaps)
    expand(Source(base, SVD, (fit,), options), name, method, plan, folder)


def measure(params: Params, seed: int, fit: Path, unfinished: Path) -> dict[str, float]:
    """Perplexity of each method's deepened model, made with the predictors in `fit`."""
    found = {}
    for name in METHODS:
        folder = unfinished / name
        deepen(params, name, seed, fit, folder)
        found[name] = perplexity(folder, params)
        shutil.rmtree(folder)
    return found


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    preset = args.preset
    fits = {seed: Path(f"artifacts/fit/{preset}/{seed}") for seed in params.fit.seeds(preset)}
    key = key_of(
        [tree_digest(fit) for fit in fits.values()],
        [tree_digest(BASE), tree_digest(CORPUS / "test")],
        params.gaps.model_dump(),
        params.train.bf16,
        code_digest("pipelines.spread"),
    )
    seeds: dict[str, dict[str, float]] = {}
    with work_folder(f"artifacts/work/spread/{preset}", key) as unfinished:
        for seed, fit in fits.items():
            done = unfinished / f"{seed}.json"
            if not done.is_file():
                write_json(done, measure(params, seed, fit, unfinished))
            seeds[str(seed)] = read_json(done)
            print(f"{preset}, seed {seed}: {seeds[str(seed)]}", flush=True)
            log.metrics(seeds[str(seed)], step=seed)
        report = {
            "preset": preset,
            "heldout_tokens": sum(len(block) - 1 for block in block_list(CORPUS, "test")),
            "dtype": dtype_name(params.train.bf16),
            "base": perplexity(BASE, params),
            "seeds": seeds,
        }
        write_json(f"artifacts/spread/{preset}.json", report)


if __name__ == "__main__":
    run_stage("spread", work, "preset")

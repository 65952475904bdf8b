"""Stage fit: train the predictor G_W of every matrix kind, one preset and seed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from lesa.checkpoint import KINDS, Checkpoint
from lesa.errors import UserError
from lesa.files import (
    key_of,
    read_json,
    sha256,
    tree_digest,
    whole_folder,
    work_folder,
    write_json,
)
from lesa.layers import load_basis
from lesa.params import Params
from lesa.params import Predictor as Settings
from lesa.predictor import fit, score
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BASE = Path("artifacts/init/base")


def coefficients(base: Checkpoint, kind: str) -> torch.Tensor:
    """`V_1 … V_L` of a kind, (L, r, d2) float32."""
    basis = load_basis("artifacts/svd", kind)
    layers = [basis.coefficients(base.matrix(kind, i)) for i in range(base.num_layers)]
    return torch.stack(layers).to(DEVICE)


def fit_kind(
    kind: str, settings: Settings, seed: int, heldout_every: int, weights: Path, done: Path
) -> str:
    """Fit on all triples and save; refit without every n-th one to score those unseen.

    Writes `weights`, then `done` with the scores: whoever finds `done` need not fit again.
    """
    with Checkpoint(BASE) as base:
        v = coefficients(base, kind)
    triples = list(range(1, len(v) - 1))
    # Kinds of equal width would start from equal weights, and their predictions would lean the
    # same way; the published loop draws every kind anew.
    seed = zlib.crc32(f"{seed} {kind}".encode())
    start = time.perf_counter()
    model = fit(v, triples, settings, seed)
    entry: dict[str, Any] = {
        "triples": len(triples),
        "seconds": time.perf_counter() - start,
        "train": asdict(score(model, v, triples, settings.norm_weight)),
        "heldout": None,
        "heldout_triples": 0,
    }
    if held := triples[heldout_every - 1 :: heldout_every]:
        blind = fit(v, [i for i in triples if i not in held], settings, seed)
        entry["heldout"] = asdict(score(blind, v, held, settings.norm_weight))
        entry["heldout_triples"] = len(held)
    save_file({k: t.cpu().contiguous() for k, t in model.state_dict().items()}, weights)
    write_json(done, entry)
    return kind


def start_worker(parent: int) -> None:
    """One thread a worker: the steps are too small to share, and several kinds run at once."""
    torch.set_num_threads(1)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the stage was killed: do not go on without it

    threading.Thread(target=follow, daemon=True).start()


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    preset, seed = args.preset, int(args.seed)
    if preset not in params.fit.presets:
        raise UserError(
            f"params.yaml: fit.presets: no preset {preset!r}; it has {sorted(params.fit.presets)}"
        )
    settings = params.fit.presets[preset]
    name = f"{preset}-{seed}"
    key = key_of(
        settings.model_dump(),
        seed,
        params.fit.heldout_every,
        tree_digest("artifacts/svd"),
    )
    kinds: dict[str, Any] = {}
    with Checkpoint(BASE) as base:
        if base.num_layers < 3:
            raise UserError(f"{BASE}: {base.num_layers} layers; a predictor needs at least 3")
    with work_folder(f"artifacts/work/fit/{name}", key) as unfinished:
        done = {kind: unfinished / f"{kind}.json" for kind in KINDS}
        # The widest kinds first: they take longest.
        todo = [kind for kind in reversed(KINDS) if not done[kind].is_file()]
        with ProcessPoolExecutor(
            max_workers=min(torch.get_num_threads(), max(len(todo), 1)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=(os.getpid(),),
        ) as pool:
            futures = [
                pool.submit(
                    fit_kind,
                    kind,
                    settings,
                    seed,
                    params.fit.heldout_every,
                    unfinished / f"{kind}.safetensors",
                    done[kind],
                )
                for kind in todo
            ]
            for future in tqdm(as_completed(futures), f"fit {name}", len(futures), unit="kind"):
                future.result()
        for kind in KINDS:
            kinds[kind] = read_json(done[kind])
            log.metrics({f"{kind}.{k}": v for k, v in kinds[kind]["train"].items()})
        with whole_folder(f"artifacts/fit/{preset}/{seed}") as folder:
            for kind in KINDS:
                (unfinished / f"{kind}.safetensors").rename(folder / f"{kind}.safetensors")
        log.params(settings.model_dump())
        log.tags({"digest": sha256(f"artifacts/fit/{preset}/{seed}/gate_proj.safetensors")})
        write_json(f"metrics/fit/{name}.json", {"preset": preset, "seed": seed, "kinds": kinds})


if __name__ == "__main__":
    run_stage("fit", work, "preset", "seed")

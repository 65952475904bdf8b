"""Stage parity of the study variants: does G_W's test error show more than near-copies (claim C2)?

The paper pools the triples of variants of one model and splits them at random, 120 to 30. The
variants of a layer differ little, so for most test triples its near-copies are in the training set.
Here the same pool is split twice: at random, and by layer, where all variants' triples with the
same middle layer are on one side. A held-out layer's weights are still seen there as a neighbour.

Whether the paper took a basis of each variant's own or one for all is not stated, nor which its
variants are and how far apart. Both are measured: where singular values lie close together, little
training turns the columns of U, and variants alike in their weights are not in their coefficients.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import read_json, write_json
from lesa.machine import compute_device
from lesa.method import coefficients
from lesa.method.basis import Basis, from_gram, gram
from lesa.method.coefficients import Coefficients, rows_of
from lesa.method.fitting import kind_seed
from lesa.method.predictor import fit, score
from lesa.params import AtLeastTwo, Count, Params, Predictor, Strict
from pipelines.closure import resumable
from pipelines.folders import BASE
from pipelines.stage import run_stage
from pipelines.study import study_params
from pipelines.tracking import Tracker

TRAINED = Path("artifacts/continued/variants")
BASES = ("own", "base")
Split = tuple[list[int], list[int]]  # middle layers of the pool to train on and to test on


class Parity(Strict):
    preset: str  # of the predictors
    seeds: Annotated[list[Count], Field(min_length=1)]  # of the predictors
    test_every: AtLeastTwo  # one triple, or one layer, of so many is held out
    split_seed: Count  # of the random split


def pooled_split(way: str, variants: int, num_layers: int, own: Parity) -> Split:
    """Middle layers of all variants' triples, numbered through the variants' layers in turn.

    One triple in `own.test_every` is drawn for the test ("random"), or one middle layer in so
    many is, in all variants ("layer"). Raises UserError for another `way` or too few layers.
    """
    middles = range(1, num_layers - 1)
    pool = [variant * num_layers + i for variant in range(variants) for i in middles]
    if way == "layer":
        tested = set(middles[own.test_every - 1 :: own.test_every])
        test = [index for index in pool if index % num_layers in tested]
    elif way == "random":
        count = len(pool) // own.test_every
        test = sorted(random.Random(own.split_seed).sample(pool, count))
    else:
        raise UserError(f"split: {way!r} is none of random, layer")
    if not test:
        raise UserError(
            f"variants: parity.test_every: {own.test_every}, but the base has {len(middles)} "
            "layers between two others"
        )
    return sorted(set(pool) - set(test)), test


def bases(models: list[Checkpoint], kind: str, which: str, tolerance: float) -> list[Basis]:
    """The basis of a kind for each variant, all cut to the lowest of their ranks.

    which: "own", a basis of the variant's own, or "base", that of the first for all.
    """
    device = compute_device()
    found = [
        from_gram(gram(m.matrices(kind, device)), tolerance)
        for m in (models if which == "own" else models[:1])
    ]
    if which == "base":
        return found * len(models)
    rank = min(len(basis.s) for basis in found)
    return [Basis(basis.u[:, :rank], basis.s[:rank]) for basis in found]


def pool(models: list[Checkpoint], kind: str, which: str, tolerance: float) -> Iterator[Tensor]:
    """Coefficients (r, d2) of all layers of the first variant, then of the second, and so on."""
    for model, basis in zip(models, bases(models, kind, which, tolerance), strict=True):
        yield from map(basis.coefficients, model.matrices(kind, basis.u.device))


def nearest_copy_mse(v: Coefficients, split: Split, num_layers: int) -> float | None:
    """What a test triple's own layer in the nearest of the training set's variants would get.

    Mean over the test triples that have one there; None where none has.
    """
    train, test = split
    errors = []
    for index in test:
        copies = [other for other in train if other % num_layers == index % num_layers]
        target = v.take(rows_of(v, index))
        if copies:
            errors.append(
                min(float((v.take(rows_of(v, i)) - target).square().mean()) for i in copies)
            )
    return sum(errors) / len(errors) if errors else None


def distance(base: Checkpoint, other: Checkpoint, kind: str) -> float:
    """‖W' - W‖ / ‖W‖ over all layers of a kind."""
    moved, size = 0.0, 0.0
    for i in range(base.num_layers):
        weight = base.matrix(kind, i).double()
        moved += float((other.matrix(kind, i).double() - weight).square().sum())
        size += float(weight.square().sum())
    return math.sqrt(moved / size)


def parity(v: Coefficients, split: Split, preset: Predictor, seed: int) -> dict[str, Any]:
    """One predictor, fitted on the training triples and scored by the same measures on both."""
    train, test = split
    device, begun = compute_device(), time.perf_counter()
    model = fit(v, train, preset, seed, device)
    seconds = time.perf_counter() - begun
    both = {"train": train, "test": test}
    scores = {
        name: asdict(score(model, v, middles, preset.norm_weight, device))
        for name, middles in both.items()
    }
    return {**scores, "seconds": seconds}


def pooled(
    models: list[Checkpoint], kind: str, which: str, tolerance: float, file: Path
) -> Coefficients:
    """Coefficients of a kind of all variants' layers, which are kept in `file`."""
    coefficients.write(file, pool(models, kind, which, tolerance))
    layers, (_, d2) = len(models) * models[0].num_layers, models[0].shape(kind)
    return coefficients.read(file, layers, d2, compute_device())


def check(own: Parity, params: Params, basis: str) -> None:
    if basis not in BASES:
        raise UserError(f"basis: {basis!r} is none of {', '.join(BASES)}")
    if own.preset not in params.fit.presets:
        raise UserError(f"variants: parity.preset: params.yaml has no fit.presets.{own.preset}")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    own: Parity = study_params("variants", "parity", Parity)
    variants = list(study_params("variants", "variants", dict[str, Any]))
    check(own, params, args.basis)
    name, preset = f"{args.split}-{args.basis}", params.fit.presets[own.preset]
    folders = [BASE, *(TRAINED / variant for variant in variants)]
    models = [Checkpoint(folder) for folder in folders]
    base, tolerance = models[0], params.svd.rank_tolerance
    split = pooled_split(args.split, len(models), base.num_layers, own)
    train, test = split
    fits = len(base.kinds) * len(own.seeds)
    print(f"variants {name}: {fits} predictors, each on {len(train)} triples", flush=True)
    module = "pipelines.studies.variants.parity"
    of = [own.model_dump(), preset.model_dump(), tolerance]
    kinds: dict[str, Any] = {}
    with resumable(f"variants-parity/{name}", module, folders, of) as unfinished:
        for kind in tqdm(base.kinds, desc=f"variants {name}", unit="kind"):
            done, file = unfinished / f"{kind}.json", unfinished / f"{kind}.coefficients"
            if not done.is_file():
                v = pooled(models, kind, args.basis, tolerance, file)
                numbers = {
                    "nearest_copy_mse": nearest_copy_mse(v, split, base.num_layers),
                    "distance": {m.folder.name: distance(base, m, kind) for m in models[1:]},
                    "seeds": {
                        str(seed): parity(v, split, preset, kind_seed(seed, kind))
                        for seed in own.seeds
                    },
                }
                write_json(done, numbers)
                file.unlink()
            kinds[kind] = read_json(done)
        report = {
            "profile": params.profile,
            "split": args.split,
            "basis": args.basis,
            "variants": ["base", *variants],
            "preset": own.preset,
            "triples": {"train": len(train), "test": len(test)},
            "held_out_layers": sorted({i % base.num_layers for i in test}),
            "kinds": kinds,
        }
        write_json(f"artifacts/variants/parity-{name}.json", report)


if __name__ == "__main__":
    run_stage("variants-parity", work, "split", "basis")

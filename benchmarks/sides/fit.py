"""Sides of `benchmarks.fit`: what is fitted on, both fits, how they differ and what bounds them."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.base import default_base
from benchmarks.measure import report
from benchmarks.profiling import PRODUCTS, shares, spent
from benchmarks.published_fit import published_fit
from benchmarks.shapes import Shape
from benchmarks.sides import checkpoint
from lesa import params
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.presets import RANK_TOLERANCE
from lesa.machine import set_threads
from lesa.method.basis import from_gram, gram, load_basis, save_basis
from lesa.method.coefficients import InMemory
from lesa.method.fitting import ALL_TRIPLES, Job, fit_kinds, kind_seed
from lesa.method.predictor import fit

SEED = 0
PRODUCT_RUNS = 100  # of a step's matrix products, for the median of their time
OPERATIONS = {
    "aten::mm": PRODUCTS,
    "aten::addmm": PRODUCTS,
    "aten::_fused_adamw_": "AdamW",
    "aten::index_select": "gathering rows",
}

TINY = Shape(24, 40, heads=3, kv_heads=1, layers=5, vocabulary=8, dtype="float32")


def prepare(folder: Path, tiny: bool) -> dict[str, Any]:
    """Make `folder`/base and `folder`/svd; the result says of what."""
    link, origin = folder / "base", "random"
    if tiny:
        checkpoint.write(TINY, link)
    else:
        found, origin = default_base(folder)
        if found != link:
            link.symlink_to(found)
    base = Checkpoint(link)
    (folder / "svd").mkdir()
    for kind in base.kinds:
        total = gram(base.matrices(kind))
        save_basis(from_gram(total, RANK_TOLERANCE), folder / "svd" / f"{kind}.safetensors")
    return {
        "weights": origin,
        "layers": base.num_layers,
        "shapes": {kind: list(base.shape(kind)) for kind in base.kinds},
    }


def preset(tiny: bool) -> Any:
    settings = params.load().fit.presets["paper"]
    return settings.model_copy(update={"epochs": 2, "hidden_size": 8}) if tiny else settings


def project(folder: Path, tiny: bool) -> dict[str, Any]:
    set_threads()  # as a stage does
    out = folder / "project"
    out.mkdir()
    job = Job(folder / "base", folder / "svd", out, preset(tiny), SEED, ALL_TRIPLES)
    kinds = fit_kinds(job, "fit")
    return {"losses": {kind: found["train"]["loss"] for kind, found in kinds.items()}}


def all_coefficients(folder: Path, kind: str) -> list[Any]:
    """`V_1 … V_L` of a kind, (r, d2) float32 each."""
    base, basis = Checkpoint(folder / "base"), load_basis(folder / "svd", kind)
    return list(map(basis.coefficients, base.matrices(kind)))


def published(folder: Path, tiny: bool) -> dict[str, Any]:

    settings = preset(tiny).model_dump(exclude={"fitted_on"})
    losses = {}
    (folder / "published").mkdir()
    for kind in Checkpoint(folder / "base").kinds:
        layers = all_coefficients(folder, kind)
        middles = range(1, len(layers) - 1)
        seed = kind_seed(SEED, kind)
        model, curve = published_fit(layers, middles, seed=seed, **settings)
        save_file(model.state_dict(), folder / "published" / f"{kind}.safetensors")
        losses[kind] = curve[-1]
    return {"losses": losses}


def differences(folder: Path, tiny: bool) -> dict[str, Any]:
    """The largest difference of a weight between the sides, and the largest weight, by kind."""
    found = {}
    for path in sorted((folder / "published").glob("*.safetensors")):
        one, other = load_file(folder / "project" / path.name), load_file(path)
        found[path.stem] = {
            "difference": max(float((one[k] - other[k]).abs().max()) for k in other),
            "largest": max(float(t.abs().max()) for t in other.values()),
        }
    return found


def profile(folder: Path, tiny: bool) -> dict[str, Any]:
    """What bounds the fit: shares of its time by operation, over an epoch of every kind on one
    thread, and the seconds that all steps' matrix products take by themselves on all threads.
    """

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = preset(tiny)
    taken: Counter[str] = Counter()
    seconds = 0.0
    for kind in Checkpoint(folder / "base").kinds:
        v = InMemory(torch.stack(all_coefficients(folder, kind)))
        middles = range(1, v.num_layers - 1)
        once = settings.model_copy(update={"epochs": 1})
        with profiler(activities=[ProfilerActivity.CPU]) as found:
            fit(v, middles, once, kind_seed(SEED, kind))
        taken += spent(found, OPERATIONS)
        steps = settings.epochs * -(-len(middles) * v.rank // settings.batch_size)
        seconds += steps * products_seconds(v.d2, settings.hidden_size, settings.batch_size)
    return {"shares": shares(taken), "products_seconds": seconds / threads}


def products_seconds(d2: int, hidden_size: int, batch_size: int) -> float:
    """Median seconds of one step's eight matrix products, forward and backward."""
    h, n = hidden_size, batch_size
    # (rows, inner, columns): each layer's output, its weights' and its inputs' gradient but for
    # the first layer, whose inputs need none.
    sizes = [(n, 2 * d2, h), (n, h, h), (n, h, d2), (d2, n, h), (h, n, h), (h, n, 2 * d2)]
    sizes += [(n, d2, h), (n, h, h)]
    pairs = [(torch.randn(m, k), torch.randn(k, c)) for m, k, c in sizes]
    taken = []
    for _ in range(PRODUCT_RUNS):
        start = time.perf_counter()
        for one, other in pairs:
            one @ other
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


SIDES = {f.__name__: f for f in (prepare, project, published, differences, profile)}


if __name__ == "__main__":
    _, name, folder, *tiny = sys.argv
    report(lambda: SIDES[name](Path(folder), bool(tiny)))

"""The fit of all seven predictors: this project's against the published loop, one after another.

Both sides begin with the base's weights and the stored bases, take the preset `paper` and the same
seeds, and end with the weights on disk; starting the workers counts. Neither holds out triples.
On the CPU, on the default model if the pipeline has made it, else on random matrices of its
shapes: the arithmetic does not depend on the values.

    python -m benchmarks.fit [--repetitions 5] [--tiny]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.base import default_base, run, work_folder
from benchmarks.measure import compare, report, save, side
from benchmarks.profiling import PRODUCTS, shares, spent
from benchmarks.shapes import Shape

MODULE = "benchmarks.fit"
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
    from benchmarks.sides import checkpoint
    from lesa.checkpoints.reader import Checkpoint
    from lesa.commands.presets import RANK_TOLERANCE
    from lesa.method.basis import from_gram, gram, save_basis

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
        total = gram(base.matrix(kind, i) for i in range(base.num_layers))
        save_basis(from_gram(total, RANK_TOLERANCE), folder / "svd" / f"{kind}.safetensors")
    return {
        "weights": origin,
        "layers": base.num_layers,
        "shapes": {kind: list(base.shape(kind)) for kind in base.kinds},
    }


def preset(tiny: bool) -> Any:
    from lesa import params

    settings = params.load().fit.presets["paper"]
    return settings.model_copy(update={"epochs": 2, "hidden_size": 8}) if tiny else settings


def project(folder: Path, tiny: bool) -> dict[str, Any]:
    from lesa.machine import set_threads
    from lesa.method.fitting import ALL_TRIPLES, Job, fit_kinds

    set_threads()  # as a stage does
    out = folder / "project"
    out.mkdir()
    job = Job(folder / "base", folder / "svd", out, preset(tiny), SEED, ALL_TRIPLES)
    kinds = fit_kinds(job, "fit")
    return {"losses": {kind: found["train"]["loss"] for kind, found in kinds.items()}}


def all_coefficients(folder: Path, kind: str) -> list[Any]:
    """`V_1 … V_L` of a kind, (r, d2) float32 each."""
    from lesa.checkpoints.reader import Checkpoint
    from lesa.method.basis import load_basis

    base, basis = Checkpoint(folder / "base"), load_basis(folder / "svd", kind)
    return [basis.coefficients(base.matrix(kind, i)) for i in range(base.num_layers)]


def published(folder: Path, tiny: bool) -> dict[str, Any]:
    from safetensors.torch import save_file

    from benchmarks.published_fit import published_fit
    from lesa.checkpoints.reader import Checkpoint
    from lesa.method.fitting import kind_seed

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
    from safetensors.torch import load_file

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
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from lesa.checkpoints.reader import Checkpoint
    from lesa.method.coefficients import InMemory
    from lesa.method.fitting import kind_seed
    from lesa.method.predictor import fit

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
    import torch

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


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a smoke test, nothing is stored")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        # Imported before the clock starts; the project's workers import theirs while it runs.
        import benchmarks.published_fit  # noqa: F401
        import lesa.method.fitting  # noqa: F401

        report(lambda: SIDES[args.side](args.folder, args.tiny))
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with work_folder() as folder:

        def part(name: str) -> Any:
            shutil.rmtree(folder / name, ignore_errors=True)
            tiny = ["--tiny"] if args.tiny else []
            return side(MODULE, "--side", name, "--folder", str(folder), *tiny)

        inputs = part("prepare").result
        sides = {name: lambda name=name: part(name) for name in ("project", "published")}
        found = compare("fit", sides, args.repetitions)
        weights = part("differences").result
        bound = part("profile").result
    for kind, row in weights.items():
        print(f"{kind}: weights differ by {row['difference']:.2e}, largest {row['largest']:.2e}")
    # What is left of the published loop's time if everything but the products took none.
    bound["most_times_as_fast"] = (
        found["medians"]["published"]["seconds"] / bound["products_seconds"]
    )
    print(f"fit: {bound}")
    if not args.tiny:
        print(save("fit", {"inputs": inputs, "weights": weights, "profile": bound, **found}))


if __name__ == "__main__":
    run(main)

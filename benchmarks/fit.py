"""The fit of all seven predictors: this project's against the published loop, one after another.

Both sides begin with the base's weights and the stored bases, take the preset `paper` and the same
seeds, and end with the weights on disk; starting the workers counts. Neither holds out triples.
On the CPU, with the default model's artifacts if they are there, else on random matrices of its
shapes: the arithmetic does not depend on the values.

    python -m benchmarks.fit [--repetitions 5] [--tiny]
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.base import work_folder
from benchmarks.measure import compare, report, save, side
from benchmarks.shapes import DEFAULT, Shape

MODULE = "benchmarks.fit"
SEED = 0


TINY = Shape(24, 40, heads=3, kv_heads=1, layers=5, vocabulary=8, dtype="float32")


def prepare(folder: Path, tiny: bool) -> dict[str, Any]:
    """Make `folder`/base and `folder`/svd; the result says of what."""
    from benchmarks.sides import checkpoint
    from lesa.basis import from_gram, gram
    from lesa.checkpoint import KINDS, Checkpoint
    from lesa.layers import save_basis

    made = Path("artifacts/init/base"), Path("artifacts/svd")
    if not tiny and all(path.is_dir() for path in made):
        (folder / "base").symlink_to(made[0].resolve())
        (folder / "svd").symlink_to(made[1].resolve())
    else:
        checkpoint.write(TINY if tiny else DEFAULT, folder / "base")
        (folder / "svd").mkdir()
        base = Checkpoint(folder / "base")
        for kind in KINDS:
            total = gram(base.matrix(kind, i) for i in range(base.num_layers))
            save_basis(from_gram(total, 1e-6), folder / "svd" / f"{kind}.safetensors")
    base = Checkpoint(folder / "base")
    return {
        "weights": "random" if tiny or not (folder / "base").is_symlink() else str(made[0]),
        "layers": base.num_layers,
        "shapes": {kind: list(base.matrix(kind, 0).shape) for kind in KINDS},
    }


def preset(tiny: bool) -> Any:
    from lesa import params

    settings = params.load().fit.presets["paper"]
    return settings.model_copy(update={"epochs": 2, "hidden_size": 8}) if tiny else settings


def project(folder: Path, tiny: bool) -> dict[str, Any]:
    from lesa.fitting import Job, fit_kinds
    from pipelines.stage import settle

    settle()
    settings, none = preset(tiny), 10**6  # no triple has that number: none is held out
    (folder / "project").mkdir()
    job = Job(folder / "base", folder / "svd", folder / "project", settings, SEED, none)
    kinds = fit_kinds(job, "fit")
    return {"losses": {kind: found["train"]["loss"] for kind, found in kinds.items()}}


def published(folder: Path, tiny: bool) -> dict[str, Any]:
    from safetensors.torch import save_file

    from benchmarks.published_fit import published_fit
    from lesa.checkpoint import KINDS, Checkpoint
    from lesa.fitting import kind_seed
    from lesa.layers import load_basis

    settings = preset(tiny).model_dump()
    losses = {}
    (folder / "published").mkdir()
    base = Checkpoint(folder / "base")
    for kind in KINDS:
        basis = load_basis(folder / "svd", kind)
        layers = [basis.coefficients(base.matrix(kind, i)) for i in range(base.num_layers)]
        middles = range(1, base.num_layers - 1)
        seed = kind_seed(SEED, kind)
        model, curve = published_fit(layers, middles, seed=seed, **settings)
        save_file(model.state_dict(), folder / "published" / f"{kind}.safetensors")
        losses[kind] = curve[-1]
    return {"losses": losses}


def apart(folder: Path, tiny: bool) -> dict[str, Any]:
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


SIDES = {f.__name__: f for f in (prepare, project, published, apart)}


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
        import lesa.fitting  # noqa: F401

        report(lambda: SIDES[args.side](args.folder, args.tiny))
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with work_folder() as folder:

        def run(name: str) -> Any:
            shutil.rmtree(folder / name, ignore_errors=True)
            tiny = ["--tiny"] if args.tiny else []
            return side(MODULE, "--side", name, "--folder", str(folder), *tiny)

        inputs = run("prepare").result
        sides = {name: lambda name=name: run(name) for name in ("project", "published")}
        found = compare("fit", sides, args.repetitions)
        weights = run("apart").result
    for kind, row in weights.items():
        print(f"{kind}: weights apart by {row['difference']:.2e}, largest {row['largest']:.2e}")
    if not args.tiny:
        print(save("fit", {"inputs": inputs, "weights": weights, **found}))


if __name__ == "__main__":
    main()

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
from typing import Any

from benchmarks.base import run, work_folder
from benchmarks.measure import compare, save, side


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a smoke test, nothing is stored")
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with work_folder() as folder:

        def part(name: str) -> Any:
            shutil.rmtree(folder / name, ignore_errors=True)
            tiny = ["--tiny"] if args.tiny else []
            return side("benchmarks.sides.fit", name, str(folder), *tiny)

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

"""A training step of LESA beside those of the methods it is compared with, in turn."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks import measure
from benchmarks.base import deepened, default_base, run, work_folder
from benchmarks.shapes import DEFAULT, layer_bytes

STEPS = 12  # of each: two to warm up, the others timed
WARM_UP = 2
# Which method writes the checkpoint that is trained. Weights change no work: LESA's new layers are
# their neighbours' mean, so that nothing need be fitted.
METHODS = {"lesa": "average", "llama_pro": "llama_pro", "solar": "solar", "identity": "identity"}
Side = subprocess.Popen[str]


def said(side: Side) -> dict[str, Any]:
    """The next line of a side that reports seconds. RuntimeError if it has ended before."""
    assert side.stdout is not None
    for line in side.stdout:
        if found := measure.reported_by([line]):
            return found
    raise RuntimeError(f"{side.args!r}: ended without its seconds")


def asked(side: Side) -> dict[str, Any]:
    """What a side says when it has taken one more step; the others wait meanwhile."""
    assert side.stdin is not None
    print(file=side.stdin, flush=True)
    return said(side)


def in_turn(sides: Mapping[str, Sequence[str]], steps: int) -> dict[str, Any]:
    """Run programs that take steps when asked to, alternately, every other round backwards.

    `seconds` are those of the steps after `WARM_UP`; `result` is what each says at its end.
    """
    with ExitStack() as stack:
        running: dict[str, Side] = {}
        for name, argv in sides.items():  # the next one starts when this one has taken a step
            running[name] = stack.enter_context(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            said(running[name])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(1, steps):
            for name in measure.order(sides, number):
                seconds[name].append(asked(running[name])["seconds"])
                print(f"training_steps: {name}: {seconds[name][-1]:.2f} s", flush=True)
        results = {name: asked(side)["result"] for name, side in running.items()}
    return {
        name: {"seconds": taken[WARM_UP - 1 :], "result": results[name]}
        for name, taken in seconds.items()
    }


def methods(found: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Of each method its steps' seconds, and those of the frozen layers below, for a step."""
    return {
        name: {
            "seconds": side["seconds"],
            "prefix_seconds_per_step": side["result"]["prefix_seconds"] / steps,
            "trainable_parameters": side["result"]["trainable_parameters"],
        }
        for name, side in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.training_steps", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    with work_folder(needed_bytes=8 * DEFAULT.layers * layer_bytes(DEFAULT)) as work:
        base, origin = default_base(work)
        argv = [sys.executable, "-m", "benchmarks.sides.training_steps"]
        folders = {n: deepened(base, method, work / n / "init") for n, method in METHODS.items()}
        sides = {name: [*argv, str(folder), str(steps)] for name, folder in folders.items()}
        found = in_turn(sides, steps)
    taken = methods(found, steps)
    whole = {
        name: statistics.median(side["seconds"]) + side["prefix_seconds_per_step"]
        for name, side in taken.items()
    }
    for name, seconds in whole.items():
        ratio = seconds / whole["lesa"]
        print(f"training_steps: {name}: {seconds:.2f} s a step, {ratio:.2f} of LESA's")
    dtype = found["lesa"]["result"]["dtype"]
    about = {"weights": origin, "shape": asdict(DEFAULT), "dtype": dtype}
    measure.save("training_steps", {**about, "methods": taken})


if __name__ == "__main__":
    run(main)

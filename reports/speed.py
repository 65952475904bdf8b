"""Tables of the benchmarks: what `make bench` measured, beside each peer and over depths."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from reports.measured import Json, Metrics, files
from reports.paired import Interval, ratio_of_medians
from reports.tables import Row, Table, number

MIB = 2**20
STEPS_FILE = "metrics/benchmarks/training_steps.json"
PROFILED = {
    "fit": "the fit's time",
    "pretrain-bfloat16": "the time of a training step under bfloat16 autocast",
    "pretrain-float32": "the time of a training step in float32",
}


def comparisons(label: str, content: Json) -> Iterator[tuple[str, Json]]:
    """Every comparison in a benchmark's file, wherever it stands, with the keys that lead to it."""
    if "medians" in content and "ratios" in content:
        yield label, content
        return
    for key, inner in content.items():
        if isinstance(inner, dict):
            yield from comparisons(f"{label}, {key}", inner)


def agreement(comparison: Json) -> str:
    """How far the two sides' results are the same, as far as the benchmark says."""
    if (value := comparison.get("largest_relative_difference")) is not None:
        return f"singular values to {number(value)}"
    if (value := comparison.get("largest_loss_difference")) is not None:
        return f"losses to {number(value)}"
    if (tensors := comparison.get("tensors")) is not None:
        signs = comparison["zeros_differ_in_sign"]
        said = f"{comparison['bit_for_bit']} of {tensors} tensors bit for bit"
        return f"{said}, {signs} but for the sign of zeros" if signs else said
    return ""


def beside_peers(m: Metrics) -> Table:
    """A row per comparison and peer: medians of both sides and what the peer takes over ours."""
    rows: list[Row] = []
    for name, content in m.benchmarks.items():
        for label, comparison in comparisons(name, content):
            medians: dict[str, Any] = comparison["medians"]
            (own,) = medians.keys() - comparison["ratios"].keys()
            for peer, ratio in comparison["ratios"].items():
                rows.append(
                    {
                        "benchmark": label,
                        "side": own,
                        "peer": peer,
                        "runs": int(comparison["repetitions"]),
                        "seconds": float(medians[own]["seconds"]),
                        "seconds, peer": float(medians[peer]["seconds"]),
                        "times as fast": float(ratio["seconds"]),
                        "peak MiB": medians[own]["peak_bytes"] / MIB,
                        "peak MiB, peer": medians[peer]["peak_bytes"] / MIB,
                        "memory, peer over side": float(ratio["peak_bytes"]),
                        "agreement": agreement(comparison),
                    }
                )
    return Table(
        "benchmarks",
        "Speed and memory beside a peer: medians over runs, each in a fresh process",
        files("benchmarks", list(m.benchmarks)),
        rows,
        of_benchmark,
    )


def of_benchmark(row: Row, _: str) -> str:
    """The file of a row whose label `comparisons` began with the benchmark's name."""
    return f"metrics/benchmarks/{str(row['benchmark']).partition(',')[0]}.json"


def profiles(m: Metrics) -> list[Table]:
    """Where our side's time goes, and how many times as fast as the peer it could be at most."""
    found = []
    for name, what in PROFILED.items():
        if (profile := m.benchmarks.get(name, {}).get("profile")) is None:
            continue
        row: Row = dict(profile["shares"])
        row["seconds of the products alone"] = profile["products_seconds"]
        row["times as fast with nothing else"] = profile["most_times_as_fast"]
        found.append(
            Table(
                f"benchmark_{name}_profile",
                f"Shares of {what} by operation, and the peer's time over that of the matrix "
                "products alone",
                files("benchmarks", [name]),
                [row],
            )
        )
    return found


def over_depths(m: Metrics) -> Table:
    """LESA end to end at growing depth."""
    rows: list[Row] = []
    for depth in m.benchmarks.get("depth", {}).get("depths", []):
        anonymous = depth["peak_anonymous_bytes"]
        rows.append(
            {
                "layers": int(depth["layers"]),
                "layers after": int(depth["layers_after"]),
                "base, MiB": depth["base_bytes"] / MIB,
                **{f"{stage}, s": float(s) for stage, s in depth["seconds_by_stage"].items()},
                "all, s": float(depth["seconds"]),
                "all, s a layer": float(depth["seconds_per_layer"]),
                "peak MiB": depth["peak_bytes"] / MIB,
                "peak MiB, no file pages": None if anonymous is None else anonymous / MIB,
            }
        )
    return Table(
        "benchmark_depth",
        "LESA end to end at Llama-3-8B's widths, random weights, one epoch of the fit",
        files("benchmarks", ["depth"]),
        rows,
    )


def depth_lines(m: Metrics) -> Table:
    """How well each stage's time is a straight line in the depth."""
    lines = m.benchmarks.get("depth", {}).get("lines", {})
    rows: list[Row] = [
        {
            "stage": stage,
            "seconds a layer": line["seconds_per_layer"],
            "seconds at no depth": line["seconds_at_no_depth"],
            "largest distance from the line": line["largest_residual"],
        }
        for stage, line in lines.items()
        if line is not None
    ]
    return Table(
        "benchmark_depth_lines",
        "Seconds over depth as a straight line (distance: relative to the measured seconds)",
        files("benchmarks", ["depth"]),
        rows,
    )


def machines(m: Metrics) -> Table:
    """What each benchmark ran on."""
    rows: list[Row] = [
        {
            "benchmark": name,
            "processor": str(content["machine"]["processor"]),
            "instructions": content["machine"].get("instructions"),
            "cores": int(content["machine"]["cores"]),
            "memory, GiB": content["machine"]["memory_bytes"] / 2**30,
            "torch": str(content["machine"]["torch"]),
            "date": str(content["machine"]["date"]),
        }
        for name, content in m.benchmarks.items()
    ]
    return Table(
        "benchmark_machines",
        "What the benchmarks ran on",
        files("benchmarks", list(m.benchmarks)),
        rows,
        of_benchmark,
    )


def of_this_base(m: Metrics, benchmark: Json) -> bool:
    """Whether it was of a model of this run's size: of another it says nothing of this run."""
    shape = benchmark["shape"]
    size = (shape["layers"], shape["hidden"])
    return size == (m.base["num_hidden_layers"], m.base["hidden_size"])


def step_seconds(m: Metrics, prefix: bool = True) -> dict[str, list[float]]:
    """Seconds of a training step by method, a value a repetition, methods in turn; none where the
    benchmark was not made or is of another model.

    prefix: with the frozen layers below the first trainable one, which a cache only moves off the
    clock where each block is seen once.
    """
    found = m.benchmarks.get("training_steps", {})
    methods: dict[str, Json] = found["methods"] if found and of_this_base(m, found) else {}
    return {
        name: [float(s) + prefix * float(c["prefix_seconds_per_step"]) for s in c["seconds"]]
        for name, c in methods.items()
    }


def time_ratio(m: Metrics, name: str, prefix: bool = True) -> Interval | None:
    """A method's median step over LESA's, repetitions paired; None if one was not measured."""
    steps = step_seconds(m, prefix)
    if name not in steps or "lesa" not in steps:
        return None
    return ratio_of_medians(steps[name], steps["lesa"])


def training_steps(m: Metrics) -> Table:
    """A training step of every method, measured in turn: whole, and without the frozen layers."""
    whole, cached = step_seconds(m), step_seconds(m, prefix=False)
    rows: list[Row] = [
        {
            "method": name,
            "repetitions": len(seconds),
            "seconds a step, whole": statistics.median(seconds),
            "over LESA's": time_ratio(m, name),
            "seconds a step, frozen layers cached": statistics.median(cached[name]),
            "cached, over LESA's": time_ratio(m, name, prefix=False),
        }
        for name, seconds in whole.items()
    ]
    return Table(
        "benchmark_training_steps",
        "Medians of a training step, the methods in turn in one run",
        STEPS_FILE,
        rows,
    )

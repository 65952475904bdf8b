"""What a stage found, in a line for the terminal as it ends, from the metrics it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lesa.files import read_json

METRICS = Path("metrics")
Found = dict[str, Any]


def base(found: Found) -> str:
    return f"{found['num_hidden_layers']} layers, {millions(found['parameters'])} parameters"


def corpus(found: Found) -> str:
    tokens = ", ".join(f"{split} {number(n)}" for split, n in found["tokens"].items())
    return f"tokens: {tokens}"


def svd(found: Found) -> str:
    return "ranks " + ", ".join(f"{kind} {content['rank']}" for kind, content in found.items())


def fit(found: Found) -> str:
    errors = {
        kind: content["heldout"]["mse"] / content["heldout"]["zero_mse"]
        for kind, content in found["kinds"].items()
        if content["heldout"]
    }
    said = ", ".join(f"{kind} {number(error)}" for kind, error in errors.items())
    return f"held-out error over that of predicting zero: {said or 'too few layers'}"


def expand(found: Found) -> str:
    new = sum(slot["new"] for slot in found["plan"])
    after = millions(found["parameters_after"])
    return f"{len(found['plan'])} layers, {new} of them new, {after} parameters"


def pretrain(found: Found) -> str:
    first, last = (found["steps"][i]["heldout_perplexity"] for i in (0, -1))
    steps = found["steps"][-1]["step"]
    said = f"held-out perplexity {number(first)} before, {number(last)} after {steps} steps"
    return f"{said} of {number(found['seconds'] / max(1, steps))} s"


def evaluate(found: Found) -> str:
    scores = [
        f"{task} {metric} {number(entry['value'])}"
        for task, content in found["tasks"].items()
        for metric, entry in content["metrics"].items()
    ]
    if documents := found.get("document_perplexity"):
        scores.insert(0, f"perplexity of documents {number(documents['value'])}")
    return ", ".join(scores)


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} million"


# Of a stage and its arguments: the metrics file it wrote, and what to say of it.
LINES: dict[str, tuple[str, Callable[[Found], str]]] = {
    "base": ("base", base),
    "corpus": ("corpus", corpus),
    "svd": ("svd", svd),
    "fit": ("fit/{}-{}", fit),
    "expand": ("expand/{}", expand),
    "pretrain": ("pretrain/{}", pretrain),
    "evaluate": ("evaluate/{}/{}", evaluate),
}


def line(stage: str, arguments: Sequence[str]) -> str | None:
    """What a stage that has ended found; None of those that measure nothing by themselves."""
    if stage not in LINES:
        return None
    name, say = LINES[stage]
    return say(read_json(METRICS / f"{name.format(*arguments)}.json"))

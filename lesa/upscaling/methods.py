"""The interface of a depth up-scaling method: a layer plan, and a maker of its new layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lesa.checkpoints.reader import Checkpoint
from lesa.params import Gaps, Strict
from lesa.upscaling.plan import LayerPlan, Slot

Layer = dict[str, Tensor]  # all tensors of one layer, by their names without the layer's prefix


class NoOptions(Strict):
    """Of a method that takes none."""


@dataclass(frozen=True)
class Source:
    """What a method may read.

    base: the checkpoint that is deepened. svd: folder of its bases U Σ, one file a kind. fits:
    folders of fitted predictors, those that its params `needs`. options: of its own class.
    `expand` adds the rest. plan: the whole plan, of which a method makes a slot at a time. memo:
    empty at first; what a method computes for one slot and uses for the next ones.
    """

    base: Checkpoint
    svd: Path
    fits: tuple[Path, ...]
    options: Any
    plan: LayerPlan = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)


def no_layer(source: Source, slot: Slot) -> Layer:
    """Of a method whose plan holds plain copies alone."""
    raise AssertionError("a plain copy is not made")


@dataclass(frozen=True)
class Method:
    """`plan(num_layers, gaps)`, and `layer(source, slot)` of each new slot of that plan.

    fits: how many sets of fitted predictors it reads. options: the class of its own params, which
    are refused where it does not have them.
    """

    plan: Callable[[int, Gaps], LayerPlan]
    layer: Callable[[Source, Slot], Layer] = no_layer
    fits: int = 0
    options: type[Strict] = NoOptions


def neighbours_mean(lower: Tensor, upper: Tensor) -> Tensor:
    """Mean of two tensors, computed in float32, in the dtype of the lower one."""
    return ((lower.float() + upper.float()) / 2).to(lower.dtype)

"""The interface of a depth up-scaling method: a layer plan, and a maker of its new layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from lesa.checkpoints.families import ends_block
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.params import Places, Strict, reason
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
    memo: dict[Any, Any] = field(default_factory=dict)


MakeLayer = Callable[[Source, Slot], Layer]


def copied_layer(source: Source, slot: Slot) -> Layer:
    """The base layer that the slot is made from, as stored."""
    assert slot.copy_of is not None
    return source.base.layer(slot.copy_of)


@dataclass(frozen=True)
class Method:
    """`plan(num_layers, gaps)`, and `layer(source, slot)` of each new slot of that plan.

    fits: how many sets of fitted predictors it reads. bases: does it read the bases, though no
    predictors? options: the class of its own params, which are refused where it does not have them.
    """

    plan: Callable[[int, Places], LayerPlan]
    layer: MakeLayer = copied_layer
    fits: int = 0
    bases: bool = False
    options: type[Strict] = NoOptions

    @property
    def reads_bases(self) -> bool:
        """Predictors are of no use without the bases that they were fitted in."""
        return self.bases or self.fits > 0


def named(name: str, methods: Mapping[str, Method], key: str) -> Method:
    """The method `name`, asked for under `key`. Raises UserError if there is none."""
    if name not in methods:
        raise UserError(f"{key}: unknown method {name!r}; known are {', '.join(sorted(methods))}")
    return methods[name]


def options(method: Method, given: Mapping[str, Any], key: str, name: str) -> Strict:
    """The options of method `name`, checked. Raises UserError naming one of `key` that is wrong."""
    try:
        return method.options.model_validate(given)
    except ValidationError as error:
        option = ".".join(map(str, error.errors()[0]["loc"]))
        known = ", ".join(method.options.model_fields) or "none"
        raise UserError(f"{key}.{option}: {reason(error)}; options of {name}: {known}") from None


def neighbours_mean(lower: Tensor, upper: Tensor) -> Tensor:
    """Mean of two tensors, computed in float32, in the dtype of the lower one."""
    return ((lower.float() + upper.float()) / 2).to(lower.dtype)


def zero_outputs(base: Checkpoint, layer: Layer) -> Layer:
    """`layer` with all that its blocks add to the residual stream zeroed, their biases too."""
    names = {view.tensor for kind, view in base.views.items() if ends_block(kind)}
    names |= {name.removesuffix("weight") + "bias" for name in names}
    return {
        suffix: torch.zeros_like(tensor) if suffix in names else tensor
        for suffix, tensor in layer.items()
    }


def zeroed(make: MakeLayer) -> MakeLayer:
    """`make` with zeroed outputs: a layer that is the identity until it is trained."""

    def layer(source: Source, slot: Slot) -> Layer:
        return zero_outputs(source.base, make(source, slot))

    return layer

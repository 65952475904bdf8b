"""Depth up-scaling methods as registered pairs of functions: a layer plan and a tensor maker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from lesa import layers, plan
from lesa.checkpoint import KINDS, Checkpoint, layer_tensor
from lesa.errors import UserError
from lesa.plan import LayerPlan, Slot

KIND_OF = {suffix: kind for kind, suffix in KINDS.items()}
Unpredicted = Literal["layer_0", "neighbours", "copied"]


@dataclass(frozen=True)
class Source:
    """What a method may read: the base, its bases U Σ, and what else it `needs`."""

    base: Checkpoint
    svd: Path
    needs: Path
    unpredicted: Unpredicted
    seed: int


@dataclass(frozen=True)
class Method:
    """`plan(num_layers, first_gap, last_gap)`; `tensor(source, slot, suffix)` for new slots."""

    plan: Callable[[int, int, int], LayerPlan]
    tensor: Callable[[Source, Slot, str], Tensor]


METHODS: dict[str, Method] = {}


def register(name: str, method: Method) -> None:
    METHODS[name] = method


def get(name: str) -> Method:
    if name not in METHODS:
        raise UserError(
            f"params.yaml: methods: unknown method {name!r}; known are {', '.join(sorted(METHODS))}"
        )
    return METHODS[name]


def unpredicted(source: Source, slot: Slot, suffix: str) -> Tensor:
    """A layer norm or bias of a new layer between two others.

    The official code makes a new layer as a deep copy of layer 0, so all that is not predicted
    is layer 0's; the paper does not state it (docs/method.md, "Where the paper and its code
    disagree").
    """
    if source.unpredicted == "layer_0":
        return source.base.tensor(layer_tensor(0, suffix))
    return neighbours_mean(source, slot, suffix)


def neighbours_mean(source: Source, slot: Slot, suffix: str) -> Tensor:
    """Mean of the two neighbours' tensors, computed in float32, in the base's dtype."""
    assert slot.between is not None
    left, right = (source.base.tensor(layer_tensor(i, suffix)) for i in slot.between)
    return ((left.float() + right.float()) / 2).to(left.dtype)


def _lesa_tensor(source: Source, slot: Slot, suffix: str) -> Tensor:
    kind = KIND_OF.get(suffix)
    if kind is None:
        return unpredicted(source, slot, suffix)
    assert slot.between is not None
    # Loaded anew for every matrix: one basis in memory at a time, whatever the width.
    basis = layers.load_basis(source.svd, kind)
    model = layers.load_predictor(source.needs, kind)
    return layers.predict(source.base, basis, model, kind, slot.between)


register("lesa", Method(plan=plan.insert_between, tensor=_lesa_tensor))

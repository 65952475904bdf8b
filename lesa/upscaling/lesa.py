"""LESA: a new layer is what the predictors say stands between its neighbours (method step 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from lesa.checkpoints.reader import Checkpoint
from lesa.method.basis import load_basis
from lesa.method.prediction import load_predictor, predict
from lesa.params import Number, Strict
from lesa.upscaling.methods import Layer, Method, Source, neighbours_mean
from lesa.upscaling.plan import Slot, insert_predicted


class Options(Strict):
    """unpredicted: where a new layer's norms and biases come from. The official code makes a new
    layer as a deep copy of layer 0, so all that is not predicted is layer 0's; the paper does not
    state it (docs/method.md, "Where the paper and its code disagree"). norm_scale: what a new
    layer's norms, taken from there, are multiplied with; 1 is the published way."""

    unpredicted: Literal["layer_0", "neighbours"]
    norm_scale: Annotated[Number, Field(ge=0, allow_inf_nan=False)] = 1.0


def is_norm(base: Checkpoint, suffix: str) -> bool:
    """Is it the weight or bias of a norm, whose weight is neither predicted nor a router's?"""
    module, _, parameter = suffix.rpartition(".")
    weight = f"{module}.weight"
    predicted = {view.tensor for view in base.views.values()}
    return (
        parameter in ("weight", "bias")
        and weight in base.suffixes()
        and weight not in predicted
        and not base.family.is_router(weight)
    )


def unpredicted(source: Source, between: tuple[int, int], suffix: str) -> Tensor:
    """A tensor of a new layer that holds no predicted matrix: a norm, a bias, a router.

    How to predict a mixture's router is left open by the paper: it is the lower neighbour's.
    """
    base = source.base
    lower, upper = (base.layer_tensor(i, suffix) for i in between)
    if base.family.is_router(suffix):
        return base.tensor(lower)
    tensor = (
        base.tensor(base.layer_tensor(0, suffix))
        if source.options.unpredicted == "layer_0"
        else neighbours_mean(base.tensor(lower), base.tensor(upper))
    )
    # A norm's own bias too, so that all it gives is scaled; the biases of projections are not a
    # norm's. Gemma's norms multiply with 1 + weight: there the scale acts on the weight alone.
    return tensor * source.options.norm_scale if is_norm(base, suffix) else tensor


def assembled(source: Source, slot: Slot, matrix: Callable[[str], Tensor]) -> Layer:
    """All tensors of the layer between `slot.neighbours`, in the base's dtypes.

    Each kind's matrix is `matrix(kind)` (d1, d2) of any dtype; the rest is `unpredicted`.
    """
    base = source.base
    fused = {view.tensor for view in base.views.values()}
    made: Layer = {}
    for suffix in base.suffixes():
        made[suffix] = (
            base.empty(base.layer_tensor(slot.neighbours[0], suffix))
            if suffix in fused
            else unpredicted(source, slot.neighbours, suffix)
        )
    for kind, view in base.views.items():
        view.write(made[view.tensor], matrix(kind))
    return made


def predicted(source: Source, kind: str, between: tuple[int, int]) -> Tensor:
    """The matrix (d1, d2) that LESA predicts between two base layers, in the base's dtype."""
    (fit,) = source.fits
    # Loaded anew for every matrix: one basis in memory at a time, whatever the width.
    basis, model = load_basis(source.svd, kind), load_predictor(fit, kind)
    return predict(source.base, basis, model, kind, between)


def layer(source: Source, slot: Slot) -> Layer:
    return assembled(source, slot, lambda kind: predicted(source, kind, slot.neighbours))


METHODS = {"lesa": Method(insert_predicted, layer, fits=1, options=Options)}

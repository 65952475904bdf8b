"""LESA: a new layer is what the predictors say stands between its neighbours (method step 6)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lesa.method.basis import load_basis
from lesa.method.prediction import load_predictor, predict
from lesa.params import Strict
from lesa.upscaling.methods import Layer, Method, Source, neighbours_mean
from lesa.upscaling.plan import Slot, insert_between


class Options(Strict):
    """unpredicted: where a new layer's norms and biases come from. The official code makes a new
    layer as a deep copy of layer 0, so all that is not predicted is layer 0's; the paper does not
    state it (docs/method.md, "Where the paper and its code disagree")."""

    unpredicted: Literal["layer_0", "neighbours"]


def unpredicted(source: Source, between: tuple[int, int], suffix: str) -> Tensor:
    """A tensor of a new layer that holds no predicted matrix: a norm, a bias, a router.

    How to predict a mixture's router is left open by the paper: it is the lower neighbour's.
    """
    base = source.base
    router = base.family.router
    if router is not None and suffix.endswith(router):
        return base.tensor(base.layer_tensor(between[0], suffix))
    if source.options.unpredicted == "layer_0":
        return base.tensor(base.layer_tensor(0, suffix))
    lower, upper = (base.tensor(base.layer_tensor(i, suffix)) for i in between)
    return neighbours_mean(lower, upper)


def layer(source: Source, slot: Slot) -> Layer:
    """All tensors of the layer between `slot.between`, in the base's dtypes."""
    base, (fit,) = source.base, source.fits
    assert slot.between is not None
    fused = {view.tensor for view in base.views.values()}
    made: Layer = {}
    for suffix in base.suffixes():
        made[suffix] = (
            torch.empty_like(base.tensor(base.layer_tensor(slot.between[0], suffix)))
            if suffix in fused
            else unpredicted(source, slot.between, suffix)
        )
    for kind, view in base.views.items():
        # Loaded anew for every matrix: one basis in memory at a time, whatever the width.
        basis, model = load_basis(source.svd, kind), load_predictor(fit, kind)
        view.write(made[view.tensor], predict(base, basis, model, kind, slot.between))
    return made


METHODS = {"lesa": Method(insert_between, layer, fits=1, options=Options)}

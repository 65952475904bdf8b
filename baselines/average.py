"""Avg-DeUS: a new layer is the mean of its two neighbours, in LESA's gaps."""

from __future__ import annotations

from lesa.upscaling.methods import Layer, Method, Source, neighbours_mean
from lesa.upscaling.plan import Slot, insert_between


def layer(source: Source, slot: Slot) -> Layer:
    lower, upper = (source.base.layer(i) for i in slot.neighbours)
    return {suffix: neighbours_mean(lower[suffix], upper[suffix]) for suffix in lower}


METHODS = {"average": Method(insert_between, layer)}

"""The control of place: LESA's predictions, each one put into another gap than it was made for.

Norms, biases and routers are those of the gap itself. What LESA gains over it is what a prediction
knows of the two layers it stands between.
"""

from __future__ import annotations

import torch

from lesa.errors import UserError
from lesa.upscaling import lesa
from lesa.upscaling.methods import Layer, Method, Source
from lesa.upscaling.plan import Slot, insert_between


class Options(lesa.Options):
    """seed: of the permutation."""

    seed: int


def derangement(n: int, seed: int) -> list[int]:
    """A permutation of `range(n)`, n > 1, that leaves nothing in its place; all are as likely."""
    generator = torch.Generator().manual_seed(seed)
    while True:  # one in e is such
        order: list[int] = torch.randperm(n, generator=generator).tolist()
        if all(i != place for place, i in enumerate(order)):
            return order


def layer(source: Source, slot: Slot) -> Layer:
    """Raises UserError if the plan has one gap alone."""
    assert slot.between is not None
    gaps = [each.between for each in source.plan if each.between]
    if len(gaps) < 2:
        raise UserError("params.yaml: gaps: lesa_permuted has 1 gap; it needs 2 or more")
    other = gaps[derangement(len(gaps), source.options.seed)[gaps.index(slot.between)]]
    return lesa.assembled(source, slot, lambda kind: lesa.predicted(source, kind, other))


METHODS = {"lesa_permuted": Method(insert_between, layer, fits=1, options=Options)}

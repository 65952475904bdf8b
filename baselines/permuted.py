"""The control of place: LESA's predictions, each one put into another gap than it was made for.

Norms, biases and routers are those of the gap itself. What LESA gains over it is what a prediction
knows of the two layers it stands between.
"""

from __future__ import annotations

import torch

from lesa.errors import UserError
from lesa.params import Count, Places
from lesa.upscaling import lesa
from lesa.upscaling.methods import Layer, Method, Source
from lesa.upscaling.plan import LayerPlan, Slot, insert_predicted

Gap = tuple[int, int]  # the base layers on both sides of it


class Options(lesa.Options):
    """seed: of the permutation."""

    seed: Count


def derangement(n: int, seed: int) -> list[int]:
    """A permutation of `range(n)`, n > 1, that leaves nothing in its place; all are as likely."""
    generator = torch.Generator().manual_seed(seed)
    while True:  # one in e is such
        order: list[int] = torch.randperm(n, generator=generator).tolist()
        if all(i != place for place, i in enumerate(order)):
            return order


def exchanged(source: Source) -> dict[Gap, Gap]:
    """For each gap of the plan the one whose prediction it gets; drawn once for all layers."""
    gaps = [slot.between for slot in source.plan if slot.between]
    order = derangement(len(gaps), source.options.seed)
    return {gap: gaps[i] for gap, i in zip(gaps, order, strict=True)}


def layer(source: Source, slot: Slot) -> Layer:
    if not source.memo:
        source.memo.update(exchanged(source))
    other = source.memo[slot.neighbours]
    return lesa.assembled(source, slot, lambda kind: lesa.predicted(source, kind, other))


def plan(num_layers: int, gaps: Places) -> LayerPlan:
    """LESA's. Raises UserError for one gap, which there is none to exchange with."""
    if gaps.count < 2:
        raise UserError("params.yaml: gaps: lesa_permuted has 1 gap; it needs 2 or more")
    return insert_predicted(num_layers, gaps)


METHODS = {"lesa_permuted": Method(plan, layer, fits=1, options=Options)}

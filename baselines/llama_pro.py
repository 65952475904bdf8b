"""LLaMA Pro (arXiv:2401.02415): copies that are the identity at initialisation."""

from __future__ import annotations

import torch

from lesa.checkpoints.families import ends_block
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.params import Gaps
from lesa.upscaling.methods import Layer, Method, Source
from lesa.upscaling.plan import LayerPlan, Slot, changed_copy, copied, stack


def plan(num_layers: int, gaps: Gaps) -> LayerPlan:
    """After every group of layers a copy of the group's last one (section 3.2); the copies train.

    As published over the whole depth: `gaps` only says how many layers to add.
    """
    if num_layers % gaps.count:
        raise UserError(
            f"params.yaml: gaps: LLaMA Pro needs a number of new layers that divides "
            f"{num_layers}, the base's layers; the gaps name {gaps.count}"
        )
    group = num_layers // gaps.count
    slots: list[Slot] = []
    for i in range(num_layers):
        slots.append(copied(i))
        if (i + 1) % group == 0:
            slots.append(changed_copy(i))
    return stack(slots)


def zero_outputs(base: Checkpoint, layer: Layer) -> Layer:
    """`layer` with all that its blocks add to the residual stream zeroed, their biases too."""
    names = {view.tensor for kind, view in base.views.items() if ends_block(kind)}
    names |= {name.removesuffix("weight") + "bias" for name in names}
    return {
        suffix: torch.zeros_like(tensor) if suffix in names else tensor
        for suffix, tensor in layer.items()
    }


def layer(source: Source, slot: Slot) -> Layer:
    assert slot.copy_of is not None
    return zero_outputs(source.base, source.base.layer(slot.copy_of))


METHODS = {"llama_pro": Method(plan, layer)}

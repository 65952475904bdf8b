"""LLaMA Pro (arXiv:2401.02415): copies that are the identity at initialisation."""

from __future__ import annotations

import torch
from torch import Tensor

from lesa import plan
from lesa.checkpoint import KINDS, layer_tensor
from lesa.methods import Method, Source, register
from lesa.plan import LayerPlan, Slot

# With both output projections zero, a block adds nothing to the residual stream; that takes their
# biases too, which Llama has where attention_bias or mlp_bias is set.
ZEROED = tuple(
    KINDS[kind].removesuffix("weight") + part
    for kind in ("o_proj", "down_proj")
    for part in ("weight", "bias")
)


def _tensor(source: Source, slot: Slot, suffix: str) -> Tensor:
    assert slot.copy_of is not None
    tensor = source.base.tensor(layer_tensor(slot.copy_of, suffix))
    return torch.zeros_like(tensor) if suffix in ZEROED else tensor


def _plan(num_layers: int, first: int, last: int) -> LayerPlan:
    # As published over the whole depth: the gaps only say how many layers to add.
    return plan.llama_pro(num_layers, last - first + 1)


register("llama_pro", Method(plan=_plan, tensor=_tensor))

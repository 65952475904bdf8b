"""LLaMA Pro's start in LESA's gaps: a copy of one neighbour whose outputs are zeroed.

LLaMA Pro (arXiv:2401.02415, section 3.2) differs from LESA in where its layers stand, in which
layer they copy and in starting as the identity. `identity` has LESA's gaps and, as LLaMA Pro, a
copy of the layer below: what it differs from LLaMA Pro by is the place alone. `identity_upper`
copies the layer above: between the two, only the neighbour differs.
"""

from __future__ import annotations

from functools import partial

from lesa.params import Places
from lesa.upscaling.methods import Method, copied_layer, zeroed
from lesa.upscaling.plan import LayerPlan, changed_copy, insert_between, stack


def copies_between(num_layers: int, gaps: Places, side: int) -> LayerPlan:
    """LESA's plan with a changed copy, its per-layer settings too, in each gap i|i+1: of layer i
    (side 0) or of layer i+1 (side 1)."""
    return stack(
        changed_copy(slot.between[side]) if slot.between else slot
        for slot in insert_between(num_layers, gaps)
    )


copies_of_lower, copies_of_upper = (partial(copies_between, side=side) for side in (0, 1))

METHODS = {
    "identity": Method(copies_of_lower, zeroed(copied_layer)),
    "identity_upper": Method(copies_of_upper, zeroed(copied_layer)),
}

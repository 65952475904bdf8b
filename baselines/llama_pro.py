"""LLaMA Pro (arXiv:2401.02415): copies that are the identity at initialisation.

`llama_pro_upper` is this project's own: the same places, and copies of the layer above in place of
the one below. The new layer then reads what that layer reads, and its features are those that the
model itself makes of it next.
"""

from __future__ import annotations

from functools import partial

from lesa.errors import UserError
from lesa.params import Places
from lesa.upscaling.methods import Method, copied_layer, zeroed
from lesa.upscaling.plan import LayerPlan, Slot, changed_copy, copied, stack


def plan(num_layers: int, gaps: Places, above: int = 0) -> LayerPlan:
    """After every group of layers a copy of the group's last one (section 3.2); the copies train.

    As published over the whole depth: `gaps` only says how many layers to add. above: a copy of a
    layer so much higher, or of the last one where there is none.
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
            slots.append(changed_copy(min(i + above, num_layers - 1)))
    return stack(slots)


METHODS = {
    "llama_pro": Method(plan, zeroed(copied_layer)),
    "llama_pro_upper": Method(partial(plan, above=1), zeroed(copied_layer)),
}

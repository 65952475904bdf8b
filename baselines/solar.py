"""SOLAR depth up-scaling (arXiv:2312.15166): two overlapping parts of the base, stacked."""

from __future__ import annotations

from lesa.errors import UserError
from lesa.params import Places
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import LayerPlan, copied, stack


def plan(num_layers: int, gaps: Places) -> LayerPlan:
    """Layers `0 … n-m-1` under layers `m … n-1` (section 2.1); all train.

    `gaps` only says how many layers to add. An odd target depth gives the upper part the extra
    layer: 30 to 45 is first 22 + last 23.
    """
    target = num_layers + gaps.count
    lower = target // 2
    upper = target - lower
    if upper > num_layers:
        raise UserError(
            f"params.yaml: gaps: SOLAR stacks two parts of at most {num_layers} layers; "
            f"{target} layers would need a part of {upper}"
        )
    indexes = [*range(lower), *range(num_layers - upper, num_layers)]
    return stack(copied(i, trainable=True) for i in indexes)


METHODS = {"solar": Method(plan)}

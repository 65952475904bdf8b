"""The untouched base: no layer is added, and all of it trains."""

from __future__ import annotations

from lesa.params import Gaps
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import LayerPlan, copied, stack


def plan(num_layers: int, gaps: Gaps) -> LayerPlan:
    return stack(copied(i, trainable=True) for i in range(num_layers))


METHODS = {"base": Method(plan)}

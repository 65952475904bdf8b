"""The untouched base: no layer is added, and all of it trains."""

from __future__ import annotations

from lesa.params import Places
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import LayerPlan, copied, stack


def plan(num_layers: int, gaps: Places) -> LayerPlan:
    return stack(copied(i, trainable=True) for i in range(num_layers))


METHODS = {"base": Method(plan)}

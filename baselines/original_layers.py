"""No new layer: as many of the base's own layers train as LESA adds, in the same place.

The control for whether depth is what helps, or training that many parameters there. It is of this
project, no published method.
"""

from __future__ import annotations

from lesa.params import Places
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import LayerPlan, copied, insert_between, stack


def plan(num_layers: int, gaps: Places) -> LayerPlan:
    """The untouched base, of which layer i+1 of each gap i|i+1 trains; gaps are refused as LESA's
    are."""
    above = {slot.between[1] for slot in insert_between(num_layers, gaps) if slot.between}
    return stack(copied(i, trainable=i in above) for i in range(num_layers))


METHODS = {"original_layers": Method(plan)}

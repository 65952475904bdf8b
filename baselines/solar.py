"""SOLAR depth up-scaling (arXiv:2312.15166): two overlapping parts of the base, stacked."""

from __future__ import annotations

from torch import Tensor

from lesa import plan
from lesa.methods import Method, Source, register
from lesa.plan import LayerPlan, Slot


def _tensor(source: Source, slot: Slot, suffix: str) -> Tensor:
    raise AssertionError("every layer of SOLAR is a plain copy")


def _plan(num_layers: int, first: int, last: int) -> LayerPlan:
    return plan.solar(num_layers, last - first + 1)


register("solar", Method(plan=_plan, tensor=_tensor))

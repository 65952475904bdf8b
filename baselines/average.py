"""Avg-DeUS: a new layer is the mean of its two neighbours, in LESA's gaps."""

from __future__ import annotations

from lesa import plan
from lesa.methods import Method, neighbours_mean, register

register("average", Method(plan=plan.insert_between, tensor=neighbours_mean))

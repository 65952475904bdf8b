"""Avg-DeUS and LESA as identity starts: their new layers with `o_proj` and `down_proj` zeroed.

Controls of this project, no published methods. With LLaMA Pro's zeroed outputs (arXiv:2401.02415,
section 3.2) every start has the base's loss, and what remains of a method is the values that its
other matrices begin to train from.
"""

from __future__ import annotations

from dataclasses import replace

from baselines import average
from lesa.upscaling import lesa
from lesa.upscaling.methods import zeroed

METHODS = {
    f"{name}_zeroed": replace(method, layer=zeroed(method.layer))
    for name, method in (average.METHODS | lesa.METHODS).items()
}

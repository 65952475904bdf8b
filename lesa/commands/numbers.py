"""Checks of numbers that a command or a function was given."""

from __future__ import annotations

import math
from numbers import Integral

from lesa.errors import UserError
from lesa.params import INT32_MAX


def check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{name}: {value}: must be a finite number above 0")


def check_count(name: str, value: int, least: int = 0) -> None:
    """As params.yaml's counts and seeds are bound: every library's generators take such a seed."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= INT32_MAX:
        raise UserError(f"{name}: {value}: must be a whole number from {least} to {INT32_MAX:,}")

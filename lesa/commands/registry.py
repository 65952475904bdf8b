"""Every method that is installed: LESA's, and those that packages offer.

A package offers methods by an entry point of the group `lesa.methods`: a function without arguments
that returns them by name. The baselines of this project come in this way, too, so that the library
names none of them.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from lesa.upscaling import lesa
from lesa.upscaling.methods import Method

GROUP = "lesa.methods"


def installed() -> dict[str, Method]:
    """Every installed method by name. Raises ValueError where two methods have one name."""
    found = dict(lesa.METHODS)
    for point in sorted(entry_points(group=GROUP)):
        offered: dict[str, Method] = point.load()()
        for name, method in offered.items():
            if found.setdefault(name, method) is not method:
                raise ValueError(f"{point.value}: the method {name} is there twice")
    return found

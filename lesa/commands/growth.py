"""How much deeper, and where: what users say of it, as gaps and as a layer plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lesa.checkpoints.reader import MANY
from lesa.commands.registry import installed
from lesa.errors import UserError
from lesa.params import Gaps, Strict
from lesa.upscaling.methods import Method, named, options
from lesa.upscaling.plan import LayerPlan

# The lowest gap of `new` ones in a row, of a base of `layers` layers.
PLACES: dict[str, Callable[[int, int], int]] = {
    "top": lambda layers, new: layers - 1 - new,
    "middle": lambda layers, new: (layers - 1 - new) // 2,
    "bottom": lambda layers, new: 0,
}


def gaps_of(num_layers: int, layers: int | None, positions: str | None) -> Gaps:
    """The gaps of a base of `num_layers` layers that new ones go into.

    layers: of the deepened model. positions: "top" (the default, as published), "middle" or
    "bottom", or the gaps themselves: "15-30" is one new layer in each gap 15|16 … 30|31, 0-based.
    Raises UserError where the two do not say how many, or contradict each other.
    """
    if positions and (match := re.fullmatch(r"(\d{1,9})-(\d{1,9})", positions)):
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise UserError(f"positions: {positions}: the last gap must not be below the first")
        if layers not in (None, num_layers + last - first + 1):
            raise UserError(
                f"layers: {layers}: {positions} adds {last - first + 1} to the base's "
                f"{num_layers}; leave one of the two out"
            )
        return Gaps(first=first, last=last)
    if positions not in (None, *PLACES):
        raise UserError(
            f"positions: {positions!r} must be {', '.join(PLACES)} or gaps such as 15-30"
        )
    if layers is None:
        raise UserError("layers: how many the deeper model has must be given, or positions")
    new = layers - num_layers
    if not 1 <= new <= MANY:
        raise UserError(
            f"layers: {layers} must be more than the base's {num_layers}, by {MANY} at most"
        )
    first = max(0, PLACES[positions or "top"](num_layers, new))
    return Gaps(first=first, last=first + new - 1)


def layer_plan(method: Method, num_layers: int, gaps: Gaps) -> LayerPlan:
    """The method's plan; where it has none, a UserError that names the command's arguments."""
    try:
        plan = method.plan(num_layers, gaps)
    except UserError as error:
        said = str(error).removeprefix("params.yaml: ")
        raise UserError(f"layers, positions: {said}") from None
    if len(plan) != num_layers + gaps.count:
        raise UserError(
            f"method: it makes {len(plan)} layers of {num_layers}, where {num_layers + gaps.count} "
            "are asked for; name another one"
        )
    return plan


def chosen(name: str, seed: int, given: Mapping[str, Any]) -> tuple[Method, Strict]:
    """The installed method `name` and its options: as published where `given` does not say.

    The published way is layer 0's norms (docs/method.md), and `seed` for whatever is drawn.
    """
    method = named(name, installed(), "method")
    usual = {"unpredicted": "layer_0", "seed": seed}
    known = {key: usual[key] for key in usual.keys() & method.options.model_fields.keys()}
    return method, options(method, known | dict(given), "option", name)


def sizes(method: Method, num_layers: int) -> list[int]:
    """How many layers the method can add to a base of `num_layers`, at the top; up to as many."""

    def possible(new: int) -> bool:
        try:
            layer_plan(method, num_layers, gaps_of(num_layers, num_layers + new, None))
        except UserError:
            return False
        return True

    return [new for new in range(1, num_layers + 1) if possible(new)]

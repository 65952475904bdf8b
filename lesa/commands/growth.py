"""How much deeper, and where: what users say of it, as gaps and as a layer plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from lesa.checkpoints.reader import MANY
from lesa.commands.numbers import check_count
from lesa.commands.registry import installed
from lesa.errors import UserError
from lesa.params import Gaps, ListedGaps, Places, Strict
from lesa.upscaling.methods import Method, named, options
from lesa.upscaling.plan import LayerPlan

# The lowest gap of `new` ones in a row, of a base of `layers` layers.
PLACES: dict[str, Callable[[int, int], int]] = {
    "top": lambda layers, new: layers - 1 - new,
    "middle": lambda layers, new: (layers - 1 - new) // 2,
    "bottom": lambda layers, new: 0,
}


def gaps_of(num_layers: int, layers: int | None, positions: str | None) -> Places:
    """The gaps of a base of `num_layers` layers that new ones go into.

    layers: of the deepened model. positions: "top" (the default, as published), "middle" or
    "bottom", or the gaps themselves: "15-30" is one new layer in each gap 15|16 … 30|31, 0-based,
    and "3,7,11" one after each of these layers. Raises UserError where the two do not say how many,
    or contradict each other.
    """
    if positions and (gaps := written_gaps(positions)):
        if layers not in (None, num_layers + gaps.count):
            raise UserError(
                f"layers: {layers}: {positions} adds {gaps.count} to the base's {num_layers}; "
                "leave one of the two out"
            )
        return gaps
    if positions not in (None, *PLACES):
        raise UserError(
            f"positions: {positions!r} must be {', '.join(PLACES)} or gaps such as 15-30 or 3,7,11"
        )
    if layers is None:
        raise UserError("layers: how many the deeper model has must be given, or positions")
    check_count("layers", layers, 1)
    new = layers - num_layers
    if not 1 <= new <= MANY:
        raise UserError(
            f"layers: {layers} must be more than the base's {num_layers}, by {MANY} at most"
        )
    first = max(0, PLACES[positions or "top"](num_layers, new))
    return Gaps(first=first, last=first + new - 1)


def written_gaps(positions: str) -> Places | None:
    """The gaps that `positions` names by number, or None. Raises UserError for a wrong order."""
    try:
        if match := re.fullmatch(r"(\d{1,9})-(\d{1,9})", positions):
            return Gaps(first=int(match[1]), last=int(match[2]))
        if re.fullmatch(r"\d{1,9}(,\d{1,9})*", positions):
            return ListedGaps(after=[int(part) for part in positions.split(",")])
    except ValidationError:
        raise UserError(f"positions: {positions}: the gaps must ascend, each named once") from None
    return None


def layer_plan(method: Method, num_layers: int, gaps: Places) -> LayerPlan:
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
    check_count("seed", seed)
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

"""Layer plans: what stands at each index of the deepened model, as data and without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lesa.errors import UserError


@dataclass(frozen=True)
class Slot:
    """One layer of the deepened model.

    A layer is a bit-for-bit copy of base layer `copy_of`, or a new one made `between` two base
    layers; a copy may be `new` too (LLaMA Pro's, whose output projections are zeroed).
    """

    layer_idx: int
    copy_of: int | None
    between: tuple[int, int] | None
    new: bool
    trainable: bool


LayerPlan = list[Slot]


def _numbered(slots: Sequence[tuple[int | None, tuple[int, int] | None, bool, bool]]) -> LayerPlan:
    return [Slot(i, *slot) for i, slot in enumerate(slots)]


def insert_between(num_layers: int, first: int, last: int) -> LayerPlan:
    """One new trainable layer in each gap i|i+1, `first <= i <= last` (docs/method.md, 6 and 7)."""
    if last + 1 >= num_layers:
        raise UserError(
            f"params.yaml: gaps.last: {last} inserts outside the model of {num_layers} layers; "
            f"the last gap is {num_layers - 2}"
        )
    slots: list[tuple[int | None, tuple[int, int] | None, bool, bool]] = []
    for i in range(num_layers):
        slots.append((i, None, False, False))
        if first <= i <= last:
            slots.append((None, (i, i + 1), True, True))
    return _numbered(slots)


def llama_pro(num_layers: int, new_layers: int) -> LayerPlan:
    """After every group of `num_layers / new_layers` layers, a copy of the group's last layer.

    Block expansion of arXiv:2401.02415, section 3.2; only the copies train.
    """
    if num_layers % new_layers:
        raise UserError(
            f"params.yaml: gaps: LLaMA Pro needs a number of new layers that divides "
            f"{num_layers}, the base's layers; the gaps name {new_layers}"
        )
    group = num_layers // new_layers
    slots: list[tuple[int | None, tuple[int, int] | None, bool, bool]] = []
    for i in range(num_layers):
        slots.append((i, None, False, False))
        if (i + 1) % group == 0:
            slots.append((i, None, True, True))
    return _numbered(slots)


def solar(num_layers: int, new_layers: int) -> LayerPlan:
    """Layers `0 … n-m-1` under layers `m … n-1` (arXiv:2312.15166, section 2.1); all train.

    An odd target depth gives the upper part the extra layer: 30 to 45 is first 22 + last 23.
    """
    target = num_layers + new_layers
    lower = target // 2
    upper = target - lower
    if upper > num_layers:
        raise UserError(
            f"params.yaml: gaps: SOLAR stacks two parts of at most {num_layers} layers; "
            f"{target} layers would need a part of {upper}"
        )
    copies = [*range(lower), *range(num_layers - upper, num_layers)]
    return _numbered([(i, None, False, True) for i in copies])


def to_json(plan: LayerPlan) -> list[dict[str, Any]]:
    return [asdict(slot) for slot in plan]


def from_json(rows: list[dict[str, Any]]) -> LayerPlan:
    return [
        Slot(**{**row, "between": tuple(row["between"]) if row["between"] else None})
        for row in rows
    ]

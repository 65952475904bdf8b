"""Layer plans: what stands at each index of the deepened model, as data and without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lesa.checkpoints.writer import PLAN_FILE
from lesa.errors import UserError
from lesa.files import read_json
from lesa.params import Gaps, Places


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

    @property
    def source_idx(self) -> int:
        """The base layer whose per-layer settings it takes: of two neighbours, the lower one."""
        return self.neighbours[0] if self.copy_of is None else self.copy_of

    @property
    def neighbours(self) -> tuple[int, int]:
        """The base layers on both sides of a layer that is made between two."""
        assert self.between is not None
        return self.between


LayerPlan = list[Slot]


def copied(layer_idx: int, trainable: bool = False) -> Slot:
    """An untouched base layer; `stack` gives it its place."""
    return Slot(-1, layer_idx, None, False, trainable)


def changed_copy(layer_idx: int) -> Slot:
    """A new layer that is made from one base layer and trains."""
    return Slot(-1, layer_idx, None, True, True)


def predicted(lower_idx: int) -> Slot:
    """A new layer between a base layer and the next one, which trains."""
    return Slot(-1, None, (lower_idx, lower_idx + 1), True, True)


def stack(slots: Iterable[Slot]) -> LayerPlan:
    """Number the layers of a deepened model, given from the lowest up."""
    return [replace(slot, layer_idx=i) for i, slot in enumerate(slots)]


def insert_between(num_layers: int, gaps: Places) -> LayerPlan:
    """One new trainable layer in each of the gaps i|i+1 (docs/method.md, 6 and 7)."""
    if num_layers < 2:
        raise UserError("params.yaml: base: 1 layer; a gap is between two")
    key = "last" if isinstance(gaps, Gaps) else "after"
    if gaps.after[-1] + 1 >= num_layers:
        raise UserError(
            f"params.yaml: gaps.{key}: {gaps.after[-1]} inserts outside the model of {num_layers} "
            f"layers; the last gap is {num_layers - 2}"
        )
    slots: list[Slot] = []
    for i in range(num_layers):
        slots.append(copied(i))
        if i in gaps.after:
            slots.append(predicted(i))
    return stack(slots)


def insert_predicted(num_layers: int, gaps: Places) -> LayerPlan:
    """`insert_between`, for what is learned from three layers in a row."""
    if num_layers < 3:
        raise UserError(f"params.yaml: base: {num_layers} layers; a predictor needs at least 3")
    return insert_between(num_layers, gaps)


def everything_trains(plan: LayerPlan) -> bool:
    """Do all layers train? Then the embedding and the output layer do, too."""
    return all(slot.trainable for slot in plan)


def trained_layers(plan: LayerPlan) -> int:
    return sum(slot.trainable for slot in plan)


def trainable_parameters(plan: LayerPlan, layer: int, whole: int) -> int:
    """Those that train of a model of `whole` parameters with `layer` in each of its layers."""
    return whole if everything_trains(plan) else layer * trained_layers(plan)


def ranges(numbers: Iterable[int]) -> list[str]:
    """`[1, 2, 3, 5]` to `["1-3", "5"]`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]


def plan_line(plan: LayerPlan) -> str:
    """A plan in one line: `0-14` copies of base layers, `+` a new layer between its neighbours,
    `+3` a new layer made of layer 3."""
    words: list[str] = []
    for new, slots in groupby(plan, key=lambda slot: slot.new):
        sources = [slot.copy_of for slot in slots]
        if new:
            words += ["+" if source is None else f"+{source}" for source in sources]
        else:
            words += ranges(source for source in sources if source is not None)
    return " ".join(words)


def to_json(plan: LayerPlan) -> list[dict[str, Any]]:
    return [asdict(slot) for slot in plan]


def from_json(rows: Any) -> LayerPlan:
    """What `to_json` gave. Raises ValidationError for anything else."""
    return TypeAdapter(LayerPlan).validate_python(rows)


def read_plan(folder: Path, num_layers: int) -> LayerPlan:
    """The plan of a deepened checkpoint of `num_layers` layers. Raises UserError, one line, for a
    folder without one, and for a plan that is damaged or not of these layers."""
    path = folder / PLAN_FILE
    if not path.is_file():
        raise UserError(f"{folder}: has no {PLAN_FILE}; give a folder that `lesa expand` made")
    rows = read_json(path)
    try:
        plan = from_json(rows)
    except ValueError:
        raise UserError(f"{path}: is no layer plan as `lesa expand` writes it") from None
    if [slot.layer_idx for slot in plan] != list(range(num_layers)):
        raise UserError(
            f"{path}: does not name the layers 0 to {num_layers - 1} of this checkpoint, each once"
        )
    if not any(slot.trainable for slot in plan):
        raise UserError(f"{path}: marks no layer as trainable")
    return plan

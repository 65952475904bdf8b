"""The learning rate that the grid chose for a model, and whether it was chosen for such a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lesa.errors import UserError
from lesa.files import read_object
from lesa.params import Params
from lesa.training.pretrain import dtype_name


def read_grid(model: str) -> tuple[Path, dict[str, Any]]:
    """The file in which the grid's choice of a learning rate is committed, and its content."""
    path = Path(f"metrics/grid/{model}.json")
    if not path.is_file():
        raise UserError(f"{path}: missing; `make grid` chooses each model's learning rate")
    grid = read_object(path)
    best = grid.get("best")
    if not isinstance(best, float) or not best > 0:
        raise UserError(f"{path}: best: {best!r}: must be a number above 0; `make grid` writes it")
    return path, grid


def chosen_for(params: Params, checkpoint: str) -> dict[str, Any]:
    """What a grid's file must name for its rate to be the one of a run of the checkpoint."""
    return {
        "profile": params.profile,
        "checkpoint": checkpoint,
        "dtype": dtype_name(params.train.bf16),
        "max_steps": params.grid.max_steps,
    }


def rate_warnings(path: Path, grid: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """A line for each key of `own` in which the grid was not that of this run."""
    lines = []
    for key, value in own.items():
        if key not in grid:
            lines.append(f"{path}: does not say for which {key} the rate was chosen; `make grid`")
        elif grid[key] != value:
            lines.append(f"{path}: {key} was {grid[key]}, but this run's is {value}; `make grid`")
    return lines

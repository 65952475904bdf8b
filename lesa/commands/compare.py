"""`lesa compare`: what several methods start from, on one text."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lesa.checkpoints.check import check
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.evaluate import check_text, evaluate
from lesa.commands.growth import chosen, gaps_of, layer_plan
from lesa.commands.presets import preset_of
from lesa.commands.registry import installed
from lesa.commands.workshop import Model, Workshop
from lesa.errors import UserError
from lesa.upscaling.methods import named

BASE = "(base)"  # the base itself, among the methods' names


def compare(
    base: str | Path,
    methods: Sequence[str],
    text: str | Path,
    *,
    layers: int | None = None,
    positions: str | None = None,
    preset: str = "paper",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> list[Model]:
    """The base, called "(base)", and the start of each method on one text, in the order given.

    The other arguments are those of `expand`; of `options` each method takes those that it has.
    Checkpoints are written to the system's folder for temporary files, one at a time.
    """
    folder, scored = Path(base), Path(text)
    check_text(scored)
    shared = options_of(methods, options or {})
    entries = {name: chosen(name, seed, shared[name]) for name in methods}
    settings = preset_of(preset)
    parameters, source = check(folder)["parameters"], Checkpoint(folder)
    gaps = gaps_of(source.num_layers, layers, positions)
    for method, _ in entries.values():  # all are checked before the first is made
        layer_plan(method, source.num_layers, gaps)
    layers_of_base = f"0-{source.num_layers - 1}"
    score = evaluate(folder, scored)
    models = [Model(BASE, source.num_layers, layers_of_base, parameters, parameters, score)]
    with tempfile.TemporaryDirectory(prefix="lesa-") as work:
        workshop, made = Workshop(source, Path(work), settings, seed), Path(work) / "checkpoint"
        for name, (method, own) in tqdm(entries.items(), desc="methods", unit="method"):
            models.append(workshop.make(name, method, own, gaps, made, scored))
            shutil.rmtree(made)
    return models


def options_of(methods: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of `options` those that each method has. Raises UserError for one that none has."""
    if not methods:
        raise UserError("methods: name at least one")
    table = installed()
    fields = {name: named(name, table, "methods").options.model_fields for name in methods}
    for key in options:
        if not any(key in own for own in fields.values()):
            raise UserError(f"option {key}: none of {', '.join(methods)} has it")
    return {
        name: {key: options[key] for key in options.keys() & own.keys()}
        for name, own in fields.items()
    }

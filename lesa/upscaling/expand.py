"""Write the deepened checkpoint: base tensors copied bit for bit, new ones made by the method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from lesa.checkpoints.depth import deepened_config
from lesa.checkpoints.writer import CARD, PLAN_FILE, copy_side_files, write_checkpoint
from lesa.files import read_object, whole_folder, write_json, write_text
from lesa.params import Places
from lesa.upscaling.card import card
from lesa.upscaling.methods import Method, Source, copied_layer
from lesa.upscaling.plan import LayerPlan, to_json


def layers(source: Source, method: Method, plan: LayerPlan) -> Iterator[tuple[str, Tensor]]:
    """Named tensors of all layers of the deepened model, one layer in memory at a time."""
    source, base = replace(source, plan=plan, memo={}), source.base
    for slot in tqdm(plan, desc="layers", unit="layer", leave=False):
        made = (method.layer if slot.new else copied_layer)(source, slot)
        for suffix in base.suffixes():
            yield base.layer_tensor(slot.layer_idx, suffix), made[suffix]


def expand(source: Source, name: str, method: Method, gaps: Places, folder: Path) -> LayerPlan:
    """Write a checkpoint that `AutoModelForCausalLM.from_pretrained` loads, made by method `name`.

    Returns the plan that the method makes of `gaps`. `layer_plan.json` beside the checkpoint says
    which layers are new and which may train; README.md is its model card. Nothing is left at
    `folder` on failure.
    """
    base = source.base
    plan = method.plan(base.num_layers, gaps)
    sources, where = [slot.source_idx for slot in plan], str(base.folder / "config.json")

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for stored in base.names():
            if base.family.split(stored) is None:
                yield stored, base.tensor(stored)
        yield from layers(source, method, plan)

    with whole_folder(folder) as partial:
        copy_side_files(base.folder, partial)
        config = read_object(partial / "config.json")
        write_json(partial / "config.json", deepened_config(config, sources, where))
        write_checkpoint(partial, tensors())
        write_json(partial / PLAN_FILE, to_json(plan))
        write_text(partial / CARD, card(base, name, method, plan))
    return plan

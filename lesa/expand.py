"""Write the deepened checkpoint: base tensors copied bit for bit, new ones made by the method."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from lesa.checkpoint import (
    PLAN_FILE,
    deepened_config,
    layer_tensor,
    split_layer,
    write_checkpoint,
)
from lesa.files import whole_folder, write_json
from lesa.methods import Method, Source
from lesa.plan import LayerPlan, Slot, to_json


def slot_tensors(source: Source, method: Method, slot: Slot) -> Iterator[tuple[str, Tensor]]:
    """Named tensors of one layer of the deepened model."""
    for suffix in source.base.suffixes():
        if slot.new:
            tensor = method.tensor(source, slot, suffix)
        else:
            assert slot.copy_of is not None
            tensor = source.base.tensor(layer_tensor(slot.copy_of, suffix))
        yield layer_tensor(slot.layer_idx, suffix), tensor


def expand(source: Source, method: Method, plan: LayerPlan, folder: Path) -> int:
    """Write a checkpoint that `AutoModelForCausalLM.from_pretrained` loads; returns parameters.

    `layer_plan.json` beside it says which layers are new and which may train. Nothing is left
    at `folder` on failure.
    """
    base = source.base

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in base.names():
            if split_layer(name) is None:
                yield name, base.tensor(name)
        for slot in plan:
            yield from slot_tensors(source, method, slot)

    with whole_folder(folder) as partial:
        for path in base.folder.iterdir():
            if path.suffix != ".safetensors" and "safetensors.index" not in path.name:
                shutil.copyfile(path, partial / path.name)
        parameters = write_checkpoint(partial, tensors())
        sources = [s.copy_of if s.copy_of is not None else (s.between or (0, 0))[0] for s in plan]
        write_json(partial / "config.json", deepened_config(base.config, sources))
        write_json(partial / PLAN_FILE, to_json(plan))
    return parameters

"""A trained checkpoint: the one that training started from, with the trained tensors in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import AutoModelForCausalLM

from lesa.checkpoints.reader import Checkpoint
from lesa.checkpoints.writer import CARD, PLAN_FILE, copy_side_files, write_checkpoint
from lesa.errors import UserError
from lesa.files import whole_folder


def stored_tensors(trained: Mapping[str, Tensor], init: Checkpoint) -> dict[str, Tensor]:
    """Trained parameters, by their names in transformers' model, as `init` stores them.

    The model that undoes what loading renames is on the meta device, which takes no memory. A
    stored output layer that is the embedding gets the embedding's values. Raises UserError for a
    tensor that `init` lacks.
    """
    model = AutoModelForCausalLM.from_pretrained(
        init.folder, device_map="meta", local_files_only=True
    )
    found = init.as_stored(model, trained)
    for head, embedding in init.aliases.items():
        if embedding in found:
            found[head] = found[embedding]
    if lost := found.keys() - set(init.names()):
        raise UserError(f"{init.folder}: holds no {min(lost)}, which was trained")
    return found


def save(trained: Mapping[str, Tensor], init: Path, folder: Path) -> None:
    """Write the checkpoint at `init` with the trained tensors in place of its own.

    `trained` goes by the names of transformers' model; each tensor gets the dtype of the one it
    replaces. All others are copied bit for bit, one shard in memory at a time.
    """
    start = Checkpoint(init)
    new = stored_tensors(trained, start)

    def tensor(name: str) -> Tensor:
        own = start.tensor(name)
        return new[name].to(own.dtype) if name in new else own

    with whole_folder(folder) as partial:
        copy_side_files(init, partial, PLAN_FILE, CARD)
        write_checkpoint(partial, ((name, tensor(name)) for name in start.names()))

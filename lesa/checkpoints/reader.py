"""Checkpoints in safetensors, read tensor by tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lesa.checkpoints.families import Views, family_of
from lesa.errors import UserError
from lesa.files import read_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD = re.compile(r"[^/\\\0\n]{1,200}\.safetensors")
# Of layers and experts, of each of which transformers makes an object when it reads a config.
COUNTS = {"num_hidden_layers", "n_layer", "num_local_experts", "num_experts"}
MANY = 10_000
# Entries of a config under which the weights beside it are not what is read here.
REFUSED = {
    "use_return_dict": "follows from return_dict, which is what can be set; take the entry out",
    "quantization_config": "quantised weights cannot be deepened; where the weights are plain "
    "floats, take the entry out",
    "transformers_weights": "names other weights than those of transformers' own names; rename "
    "these and take the entry out",
    "per_layer_config": "settings of single layers, which a deeper model cannot keep; take the "
    "entry out",
    **dict.fromkeys(
        ("decoder", "generator", "text_config"),
        "transformers takes it for the config of the text model; take the entry out",
    ),
    "configuration_files": "names other configs, of which transformers takes one by its version; "
    "rename it and take the entry out",
}
# Entries that name what computes attention and experts, which is no part of a model, and those that
# train and score in every dtype and on every device.
COMPUTES = {
    "attn_implementation": {"eager", "sdpa"},
    "experts_implementation": {"eager", "batched_mm", "grouped_mm"},
}
# Masks and rotary positions that older versions of transformers stored and no model reads.
BUFFER = re.compile(r"(.+\.)?((attn|attention)\.(masked_)?bias|rotary_emb(_local)?\.\w+)")
# The output layer as transformers' model has it, a name that it reads whatever the family's is.
OUTPUT = "lm_head.weight"


def weight_files(folder: Path) -> list[str]:
    """Names of the files that `from_pretrained` would read, sorted.

    Others that lie beside them are not the model's.
    """
    names = weight_names(folder)
    there = {path.name for path in folder.iterdir() if path.is_file()}
    for name in names:
        if name not in there:
            raise UserError(f"{folder / INDEX}: names the file {name}, which is not there")
    return names


def weight_names(folder: Path) -> list[str]:
    """The single file where there is one, else what the index names, sorted.

    Names of files in the same folder: no path leads out of it.
    """
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder}: holds neither {SINGLE} nor {INDEX}; pickles are not read")
    index = read_object(folder / INDEX)
    where = index.get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{folder / INDEX}: has no weight_map")
    if not isinstance(index.get("metadata"), dict):  # transformers writes into it
        raise UserError(f"{folder / INDEX}: metadata: must be a mapping, which may be empty")
    for name in where.values():
        if not (isinstance(name, str) and SHARD.fullmatch(name)):
            raise UserError(
                f"{folder / INDEX}: names the file {str(name)[:100]!r}; a shard's name ends in "
                ".safetensors and has no folder in it"
            )
    return sorted(set(where.values()))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers' reports of a load, which would say in pages what one line will say."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def read_config(config: dict[str, Any], where: str) -> Any:
    """transformers' config of a raw one, with everything its class derives made explicit.

    Raises UserError, one line with `where`, for a family that is not in the table, a config that
    its class refuses, and settings that a deeper model of the family cannot keep.
    """
    from transformers import AutoConfig

    family = family_of(config, where)
    for key, why in REFUSED.items():
        if config.get(key) is not None:
            raise UserError(f"{where}: {key}: {why}")
    for name, known in COMPUTES.items():
        for key in (name, f"_{name}"):
            value = config.get(key)
            if value is not None and not (isinstance(value, str) and value in known):
                raise UserError(
                    f"{where}: {key}: {value!r:.100}: is not for training and scoring in any dtype "
                    f"on any device, as {' and '.join(sorted(known))} are; take the entry out"
                )
    for key in sorted(COUNTS & config.keys()):
        if isinstance(config[key], int) and config[key] > MANY:
            raise UserError(f"{where}: {key}: {config[key]}; must be {MANY} at most")
    try:
        with quiet_transformers():
            explicit: Any = AutoConfig.for_model(**deepcopy(config))  # which edits its arguments
    except Exception as error:  # the class's own arithmetic on numbers of any kind: anything
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: transformers refuses it ({line[:200]})") from None
    if not isinstance(explicit.dtype, torch.dtype | None):
        raise UserError(f"{where}: dtype {explicit.dtype!r} is none of torch's, such as bfloat16")
    family.check_settings(explicit, where)
    return explicit


class Checkpoint:
    """Lazy reader of a folder with `config.json` and safetensors, sharded or single.

    No tensor is read until asked for, and no file stays open: a shard that does keeps every page
    read from it in the process, so memory would grow with the depth. What no model reads (`BUFFER`)
    is left out.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = read_object(self.folder / "config.json")
        self.family = family_of(self.config, str(self.folder / "config.json"))
        self._where: dict[str, Path] = {}
        for name in weight_files(self.folder):
            path = self.folder / name
            try:
                with safe_open(path, framework="pt") as shard:
                    stored = list(shard.keys())
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a whole safetensors file ({error})") from None
            names = [name for name in stored if not BUFFER.fullmatch(name)]
            if twice := self._where.keys() & names:
                other = self._where[min(twice)].name
                raise UserError(f"{path}: holds {min(twice)}, which {other} holds too")
            self._where.update(dict.fromkeys(names, path))
        pattern = self.family.layer_pattern()
        matches = [match for name in self._where if (match := pattern.fullmatch(name))]
        if not matches:
            raise UserError(f"{self.folder}: holds no tensor of a layer ({self.family.layers}.0)")
        self._prefix = matches[0][1]
        if len(prefixes := sorted({match[1] for match in matches})) > 1:
            raise UserError(
                f"{self.folder}: holds layers as {' and as '.join(prefixes)}; one must do"
            )
        self._suffixes = [match[3] for match in matches if match[2] == "0"]
        self.num_layers = 1 + max(int(match[2]) for match in matches)
        for name in self._where:
            if (short := name.removeprefix(self.family.inner)) != name and short in self._where:
                raise UserError(f"{self.folder}: holds {name} and {short}; one must do")

    @cached_property
    def explicit(self) -> Any:
        """transformers' config, with everything its class derives."""
        return read_config(self.config, str(self.folder / "config.json"))

    @cached_property
    def views(self) -> Views:
        """Where each matrix kind of a layer is stored, by kind."""
        views = self.family.views(lambda: self.explicit, self._suffixes)
        for kind, view in views.items():
            if view.tensor not in self._suffixes:
                raise UserError(
                    f"{self.folder}: model type {self.config['model_type']!r} lacks "
                    f"{self.layer_tensor(0, view.tensor)} ({kind})"
                )
        return views

    @property
    def kinds(self) -> list[str]:
        """The matrix kinds of a layer, in the family's order."""
        return list(self.views)

    @cached_property
    def aliases(self) -> dict[str, str]:
        """A stored output layer that is the input embedding, by the embedding's name.

        Where the config ties the two, transformers does not read the stored output layer.
        """
        if not self.explicit.tie_word_embeddings:
            return {}
        heads = {self.stored_name(self.family.head), OUTPUT} & self._where.keys()
        return dict.fromkeys(heads, self.stored_name(self.family.embedding))

    def stored_name(self, name: str) -> str:
        """How this checkpoint calls a tensor: one of the inner model alone lacks its prefix."""
        short = name.removeprefix(self.family.inner)
        return name if name in self._where or short not in self._where else short

    def as_stored(self, model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors by their names in transformers' model, by those that they are stored under here.

        transformers renames tensors and stacks a mixture's experts as it loads a checkpoint;
        `model`, which it loaded from this one, on the meta device or not, knows how to undo that.
        """
        from transformers.core_model_loading import revert_weight_conversion

        reverted = revert_weight_conversion(model, dict(tensors))
        return {self.stored_name(name): tensor for name, tensor in reverted.items()}

    def names(self) -> list[str]:
        return list(self._where)

    def suffixes(self) -> list[str]:
        """Names of one layer's tensors, without the layer's prefix."""
        return list(self._suffixes)

    def layer_tensor(self, layer_idx: int, suffix: str) -> str:
        """The stored name of a layer's tensor."""
        return f"{self._prefix}{layer_idx}.{suffix}"

    def _shard_of(self, name: str) -> Any:
        """The file that holds a tensor, open. Raises UserError where none does."""
        if name not in self._where:
            raise UserError(f"{self.folder}: holds no {name}")
        return safe_open(self._where[name], framework="pt")

    def tensor(self, name: str) -> torch.Tensor:
        with self._shard_of(name) as shard:
            tensor: torch.Tensor = shard.get_tensor(name)
        return tensor

    def layer(self, layer_idx: int) -> dict[str, torch.Tensor]:
        """All tensors of one layer, as stored, by suffix."""
        return {s: self.tensor(self.layer_tensor(layer_idx, s)) for s in self._suffixes}

    def matrix(self, kind: str, layer_idx: int) -> torch.Tensor:
        """One layer's matrix `(d1, d2)` of a kind, in the stored dtype.

        Of a stack of experts the one alone is read.
        """
        view = self.views[kind]
        name = self.layer_tensor(layer_idx, view.tensor)
        if view.expert is None:
            return view.read(self.tensor(name))
        with self._shard_of(name) as shard:
            return replace(view, expert=None).read(shard.get_slice(name)[view.expert])

    def matrices(self, kind: str, device: torch.device | str = "cpu") -> Iterator[torch.Tensor]:
        """`matrix` of every layer on a device, one after the other."""
        return (self.matrix(kind, i).to(device) for i in range(self.num_layers))

    def empty(self, name: str) -> torch.Tensor:
        """A tensor of the shape and dtype of a stored one, whose values are not read."""
        with self._shard_of(name) as shard:
            stored = shard.get_slice(name)
            return torch.empty(stored.get_shape(), dtype=stored[:0].dtype)

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a stored tensor, which is not read."""
        with self._shard_of(name) as shard:
            return tuple(shard.get_slice(name).get_shape())

    def shape(self, kind: str) -> tuple[int, int]:
        """(d1, d2) of a matrix kind."""
        view = self.views[kind]
        stored = self.stored_shape(self.layer_tensor(0, view.tensor))
        d1, d2 = view.read(torch.empty(stored, device="meta")).shape
        return d1, d2

    def layer_parameters(self) -> int:
        """Stored parameters of one layer."""
        names = (self.layer_tensor(0, suffix) for suffix in self._suffixes)
        return sum(math.prod(self.stored_shape(name)) for name in names)

    def parameters(self) -> int:
        """Stored parameters; an output layer that is the embedding counts once."""
        names = (name for name in self._where if name not in self.aliases)
        return sum(math.prod(self.stored_shape(name)) for name in names)

"""The shapes of a base model from its config alone: no weight is read and no model made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from lesa.checkpoints.base import Base, random_config
from lesa.checkpoints.check import NOTE, check_running, model_on_meta
from lesa.checkpoints.families import Family, family_of
from lesa.checkpoints.reader import read_config
from lesa.errors import UserError, explained
from lesa.files import named_folder, read_object
from lesa.params import HubBase, PathBase, RandomBase


@dataclass(frozen=True)
class Architecture:
    """What costs depend on.

    kinds: matrix kind to (d1, d2), PyTorch's (out, in). layer_parameters: of one layer, norms and
    biases too. other_parameters: embeddings, last norm and output layer; a tied one counts once.
    active_parameters: of one layer's matrices, those that a token is multiplied with; of a
    mixture, its router and the experts it chooses. query_width, key_value_width: of all heads.
    norm_width: of what all norms of a layer take in, those of each head too. feed_forward_width: of
    all experts that a token meets. gated: has the feed-forward a gate?
    itemsize: bytes of a stored parameter.
    """

    num_layers: int
    kinds: Mapping[str, tuple[int, int]]
    layer_parameters: int
    other_parameters: int
    active_parameters: int
    vocab_size: int
    hidden_size: int
    query_width: int
    key_value_width: int
    norm_width: int
    feed_forward_width: int
    gated: bool
    itemsize: int

    @property
    def embedding_parameters(self) -> int:
        """Of the input embedding, and as many of the output layer."""
        return self.vocab_size * self.hidden_size

    @property
    def layer_matrices(self) -> int:
        """Parameters of all matrices of a layer that are predicted."""
        return sum(d1 * d2 for d1, d2 in self.kinds.values())

    def parameters(self, num_layers: int) -> int:
        """Parameters of the model with `num_layers` layers."""
        return self.layer_parameters * num_layers + self.other_parameters

    def rank(self, kind: str) -> int:
        """r: rows of the coefficients of a kind, if no singular value is dropped."""
        d1, d2 = self.kinds[kind]
        return min(d1, self.num_layers * d2)


def find_config(base: Base, described: Path, prepared: Path) -> tuple[dict[str, Any], str]:
    """A base's `config.json` and where it was found, in words.

    Looked for in turn: the base section or folder itself, the configs in the folder `described`,
    the checkpoint that the base stage left at `prepared`, the hub (this one file).
    """
    if isinstance(base, RandomBase):
        return {"model_type": "llama", **random_config(base)}, "params: base"
    if isinstance(base, PathBase):
        path = named_folder(base.path, "base.path") / "config.json"
        return read_object(path), str(path)
    given = base.model_dump()
    for path in sorted(described.glob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if all(given.get(key) == value for key, value in tree["base"].items()):
            return tree["config"], str(path)
    if (prepared / NOTE).is_file() and read_object(prepared / NOTE)["source"] == base.described:
        path = prepared / "config.json"
        return read_object(path), str(path)
    if isinstance(base, HubBase):
        return hub_config(base), f"config.json of {base.described}"
    raise UserError(
        f"base: no config.json of {base.described} is known before the base stage has run; "
        f"run `dvc repro base` first, or describe it in {described}/"
    )


def hub_config(base: HubBase) -> dict[str, Any]:
    """Fetch one file of a checkpoint, or take it from the hub's cache."""
    from huggingface_hub import hf_hub_download

    with explained(f"base.id: cannot get config.json of {base.described}"):
        return read_object(Path(hf_hub_download(base.id, "config.json", revision=base.revision)))


def layer_shapes(model: Any, family: Family, where: str) -> dict[str, torch.Size]:
    """Shapes of a layer's parameters, by name without the layer's prefix: of all layers the same.

    A mixture's experts are stacked in transformers' model, which the family reads as well as the
    one file entry an expert that hubs have.
    """
    layers: dict[int, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        if split := family.split(name):
            layers.setdefault(split[0], {})[split[1]] = parameter.shape
    if not layers or any(layer != layers[0] for layer in layers.values()):
        raise UserError(f"{where}: {len(layers)} layers; must be some, all of the same shapes")
    return layers[0]


def architecture(config: dict[str, Any], where: str) -> Architecture:
    """Build the model on the meta device and read off its shapes; `where` names the config.

    Raises UserError, one line, for a family that is not in the table, a config that transformers
    refuses, a model that cannot run, and one that the method cannot expand.
    """
    family, explicit = family_of(config, where), read_config(config, where)
    dtype = explicit.dtype or torch.float32
    model = model_on_meta(explicit, where)
    check_running(model, where)
    shapes = layer_shapes(model, family, where)
    kinds: dict[str, tuple[int, int]] = {}
    for kind, view in family.views(lambda: explicit, shapes).items():
        d1, d2 = view.read(torch.empty(shapes[view.tensor], device="meta")).shape
        kinds[kind] = (d1, d2)
    layer = sum(shape.numel() for shape in shapes.values())
    heads, hidden_size = explicit.num_attention_heads, explicit.hidden_size
    head_dim = getattr(explicit, "head_dim", None) or hidden_size // heads
    groups = getattr(explicit, "num_key_value_heads", None) or heads
    whole = {"q_norm.weight": heads * head_dim, "k_norm.weight": groups * head_dim}
    norms = [name for name, shape in shapes.items() if len(shape) == 1 and name.endswith("weight")]
    # Of a mixture's experts a token meets some; all are of one shape.
    met = explicit.num_experts_per_tok / explicit.num_local_experts if family.router else 1
    sizes = {kind: d1 * d2 for kind, (d1, d2) in kinds.items()}
    active = sum(met * n if kind.startswith("experts.") else n for kind, n in sizes.items())
    active += sum(shape.numel() for name, shape in shapes.items() if family.is_router(name))
    up = sum(d1 for kind, (d1, _) in kinds.items() if kind.endswith("up_proj"))
    return Architecture(
        num_layers=explicit.num_hidden_layers,
        kinds=kinds,
        layer_parameters=layer,
        other_parameters=model.num_parameters() - layer * explicit.num_hidden_layers,
        active_parameters=round(active),
        vocab_size=explicit.vocab_size,
        hidden_size=hidden_size,
        query_width=heads * head_dim,
        key_value_width=groups * head_dim,
        norm_width=sum(whole.get(name.split(".", 1)[-1], shapes[name][0]) for name in norms),
        feed_forward_width=round(met * up),
        gated=any(kind.endswith("gate_proj") for kind in kinds),
        itemsize=dtype.itemsize,
    )

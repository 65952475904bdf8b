"""The shapes of a base model from its config alone: no weight is read or model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lesa.checkpoints.base import NOTE, Base, describe, local_folder, random_config
from lesa.checkpoints.check import read_object
from lesa.checkpoints.reader import KINDS, layer_tensor, split_layer
from lesa.downloads import explained
from lesa.errors import UserError
from lesa.params import HubBase, PathBase, RandomBase


@dataclass(frozen=True)
class Architecture:
    """What costs depend on.

    kinds: matrix kind to (d1, d2), PyTorch's (out, in). layer_parameters: of one layer, norms and
    biases too. other_parameters: embeddings, last norm and output head; a tied head counts once.
    itemsize: bytes of a stored parameter.
    """

    layers: int
    kinds: Mapping[str, tuple[int, int]]
    layer_parameters: int
    other_parameters: int
    vocabulary: int
    itemsize: int

    @property
    def hidden(self) -> int:
        return self.kinds["q_proj"][1]

    def parameters(self, layers: int) -> int:
        """Parameters of the model with `layers` layers."""
        return self.layer_parameters * layers + self.other_parameters

    def rank(self, kind: str) -> int:
        """r: rows of the coefficients of a kind, if no singular value is dropped."""
        d1, d2 = self.kinds[kind]
        return min(d1, self.layers * d2)


def find_config(base: Base, kept: Path, prepared: Path) -> tuple[dict[str, Any], str]:
    """A base's `config.json` and where it was found, in words.

    Looked for in turn: the base section or folder itself, the folder `kept` of architectures in
    the repository, the checkpoint that the base stage left at `prepared`, the hub (this one file).
    """
    if isinstance(base, RandomBase):
        return {"model_type": "llama", **random_config(base)}, "params: base"
    if isinstance(base, PathBase):
        path = local_folder(base) / "config.json"
        return read_object(path), str(path)
    given = base.model_dump()
    for path in sorted(kept.glob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if all(given.get(key) == value for key, value in tree["base"].items()):
            return tree["config"], str(path)
    if (prepared / NOTE).is_file() and read_object(prepared / NOTE)["source"] == describe(base):
        path = prepared / "config.json"
        return read_object(path), str(path)
    if isinstance(base, HubBase):
        return hub_config(base), f"config.json of {describe(base)}"
    raise UserError(
        f"base: no config.json of {describe(base)} is known before the base stage has run; "
        f"run `dvc repro base` first, or describe it in {kept}/"
    )


def hub_config(base: HubBase) -> dict[str, Any]:
    """Fetch one file of a checkpoint, or take it from the hub's cache."""
    from huggingface_hub import hf_hub_download

    with explained(f"base.id: cannot get config.json of {base.id} at revision {base.revision}"):
        return read_object(Path(hf_hub_download(base.id, "config.json", revision=base.revision)))


def architecture(config: dict[str, Any], where: str) -> Architecture:
    """Build the model on the meta device and read off its shapes; `where` names the config.

    Raises UserError for a config that transformers does not know or that the method cannot expand.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(config)
    named = settings.pop("torch_dtype", None) or settings.get("dtype") or "float32"
    dtype = getattr(torch, str(named), None)
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"{where}: dtype {named!r} is none of torch's, such as bfloat16")
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                AutoConfig.for_model(**settings)
            )
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        line = " ".join(str(error).split())
        raise UserError(
            f"{where}: no causal language model of transformers ({line[:120]})"
        ) from None
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    by_layer: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if split := split_layer(name):
            by_layer.setdefault(split[0], {})[split[1]] = shape
    first = by_layer.get(0, {})
    for suffix in KINDS.values():
        if len(first.get(suffix, ())) != 2:
            raise UserError(
                f"{where}: model type {settings['model_type']!r} lacks {layer_tensor(0, suffix)}; "
                f"the method needs {', '.join(KINDS)} in every layer"
            )
    if len(by_layer) < 3 or any(layer != first for layer in by_layer.values()):
        raise UserError(
            f"{where}: {len(by_layer)} layers; the method needs at least 3, all of the same shapes"
        )
    layer = sum(sizes[layer_tensor(0, suffix)] for suffix in first)
    return Architecture(
        layers=len(by_layer),
        kinds={kind: (first[suffix][0], first[suffix][1]) for kind, suffix in KINDS.items()},
        layer_parameters=layer,
        other_parameters=sum(sizes.values()) - layer * len(by_layer),
        vocabulary=model.get_input_embeddings().weight.shape[0],
        itemsize=dtype.itemsize,
    )

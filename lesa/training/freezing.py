"""Which parameters train: those of the layers that a checkpoint's plan marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lesa.checkpoints.families import Family, family_of
from lesa.upscaling.plan import everything_trains, read_plan


def model_family(model: nn.Module) -> Family:
    """The family of a model of transformers."""
    config: Any = model.config
    return family_of({"model_type": config.model_type}, type(model).__name__)


def model_depth(model: nn.Module) -> int:
    config: Any = model.config
    return int(config.num_hidden_layers)


def freeze(model: nn.Module, folder: Path) -> int:
    """Apply the freezing policy that `folder`'s layer plan states; returns trainable parameters.

    With a plan that trains every layer (SOLAR, the base) all parameters train, embeddings too;
    otherwise only the layers that the plan marks. Nothing then requires a gradient below the first
    of them, so autograd records nothing there; frozen layers above it get gradients of their
    activations, and none of their weights.
    """
    plan = read_plan(folder, model_depth(model))
    everything, family = everything_trains(plan), model_family(model)
    trainable = {slot.layer_idx for slot in plan if slot.trainable}
    for name, parameter in model.named_parameters():
        layer = family.split(name)
        parameter.requires_grad = everything or (layer is not None and layer[0] in trainable)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def first_trainable(model: nn.Module) -> int:
    """Index of the lowest layer that trains; 0 if anything outside the layers trains."""
    family = model_family(model)
    layers = [family.split(name) for name, p in model.named_parameters() if p.requires_grad]
    return min((layer[0] if layer else 0 for layer in layers), default=0)


def round_frozen(model: nn.Module, exempt: nn.Parameter | None) -> None:
    """Hold frozen matrices in bfloat16, as autocast would round them anew in every step.

    `exempt` is left alone: the embedding that an output layer may be tied to. Autocast does not
    round embeddings, nor norms.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight is not exempt:
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()

"""LoRA (peft) on every matrix of a model's layers: a control that adds no depth.

Its rank is the one that trains as many parameters as a given number, such as that of new layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from lesa.errors import UserError
from lesa.training.freezing import model_family
from lesa.training.pretrain import Run, load_model

A, B = (f".lora_{letter}.default.weight" for letter in "AB")


@dataclass(frozen=True)
class AdapterRun(Run):
    """A run that trains what the plan marks; or `everything`, whatever it marks; or adapters of
    nearly `parameters` parameters."""

    parameters: int | None = None
    everything: bool = False

    def prepare_model(self, model: Any) -> None:
        if self.parameters is not None:
            adapt(model, self.parameters, self.settings.seed)
        elif self.everything:
            model.requires_grad_(True)
        else:
            super().prepare_model(model)


def adapt(model: nn.Module, parameters: int, seed: int) -> int:
    """Freeze `model` and put adapters beside its layers' `nn.Linear`; returns their rank.

    Of rank r, one of a matrix (out, in) has r (out + in) parameters: A (r, in), drawn by `seed`,
    and B (out, r), zero, whose product is added to the matrix. All together have nearly
    `parameters`. Raises UserError where there is no `nn.Linear` in the layers (GPT-2), where rank 1
    has more than twice as many, or where r would be above the width of every matrix: a mixture's
    experts, which transformers stacks, have no adapters.
    """
    family = model_family(model)
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and family.split(f"{name}.weight") is not None
    }
    if not linear:
        kind = type(model).__name__
        raise UserError(f"LoRA: the layers of {kind} have no nn.Linear; train `new` or `all`")
    rank = round(parameters / sum(map(sum, linear.values())))
    if not 0 < rank <= max(map(min, linear.values())):
        raise UserError(
            f"LoRA: {len(linear)} matrices cannot have {parameters:,} parameters: rank {rank}"
        )
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(linear))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    return rank


def merged(trained: Mapping[str, Tensor], init: Path) -> dict[str, Tensor]:
    """The matrices (out, in) of the checkpoint at `init` with trained adapters added, float32."""
    model = load_model(init)
    prefixes = [name.removesuffix(A) for name in trained if name.endswith(A)]
    return {
        f"{prefix}.weight": model.get_parameter(f"{prefix}.weight").detach()
        + trained[prefix + B] @ trained[prefix + A]
        for prefix in prefixes
    }

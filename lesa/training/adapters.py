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
from lesa.training.saving import save

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

    def save(self, trained: Mapping[str, Tensor], folder: Path) -> None:
        """Write the trained checkpoint; adapters are merged into the matrices they stand beside."""
        save(merged(trained, self.init) if self.parameters else trained, self.init, folder)


def layer_linears(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Widths (in, out) of the `nn.Linear` in a model's layers, by name. GPT-2 has none, and of a
    mixture's experts, which transformers stacks, none is one."""
    family = model_family(model)
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and family.split(f"{name}.weight") is not None
    }


def adapter_rank(model: nn.Module, parameters: int) -> int:
    """The rank at which a model's adapters have nearly `parameters` parameters; the model may be on
    the meta device.

    Raises UserError where the layers have no `nn.Linear`, where rank 1 has more than twice as many,
    or where the rank would be above the width of every matrix.
    """
    linear = layer_linears(model)
    if not linear:
        kind = type(model).__name__
        raise UserError(f"LoRA: the layers of {kind} have no nn.Linear; train `new` or `all`")
    of_rank_1, largest = sum(map(sum, linear.values())), max(map(min, linear.values()))
    rank = round(parameters / of_rank_1)
    if not 0 < rank <= largest:
        raise UserError(
            f"LoRA: {len(linear)} matrices cannot have {parameters:,} parameters, but "
            f"{of_rank_1:,} (rank 1) to {largest * of_rank_1:,}; train `new` or `all`"
        )
    return rank


def adapt(model: nn.Module, parameters: int, seed: int) -> int:
    """Freeze `model` and put adapters beside its layers' `nn.Linear`; returns their rank.

    Of rank r, one of a matrix (out, in) has r (out + in) parameters: A (r, in), drawn by `seed`,
    and B (out, r), zero, whose product is added to the matrix. All together have nearly
    `parameters`. Raises UserError as `adapter_rank` does.
    """
    rank = adapter_rank(model, parameters)
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layer_linears(model)))
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

"""What each layer is worth to a model: held-out loss with that layer left out.

ADEPT (arXiv:2510.10071) chooses by it the layers that it copies: those whose removal hurts least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lesa.training.freezing import model_family
from lesa.training.heldout import block_losses


@contextmanager
def left_out(layer: nn.Module) -> Iterator[None]:
    """The layer gives its input (batch, tokens, hidden_size) unchanged."""

    def unchanged(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hook = layer.register_forward_hook(unchanged, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's layers, from the lowest up."""
    family = model_family(model)
    return [
        module
        for name, module in model.named_modules()
        if (at := family.split(f"{name}.weight")) is not None and at[1] == "weight"
    ]


def losses_without(
    layer: nn.Module, model: nn.Module, blocks: Sequence[Tensor], bf16: bool, batch_size: int
) -> list[float]:
    """The losses of `blocks`, as `block_losses` has them, without one of the model's layers."""
    with left_out(layer):
        return block_losses(model, blocks, bf16, batch_size)

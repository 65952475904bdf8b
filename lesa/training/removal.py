"""What each layer is worth to a model: held-out loss with that layer left out.

ADEPT (arXiv:2510.10071) chooses by it the layers that it copies: those whose removal hurts least.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lesa.training.heldout import block_losses
from lesa.training.prefix import Skipped, layers_of


def losses_without(
    model: nn.Module, layer_idx: int, blocks: Sequence[Tensor], bf16: bool, batch_size: int
) -> list[float]:
    """The losses of `blocks`, as `block_losses` has them, without one of the model's layers."""
    layers = layers_of(model)
    layer, layers[layer_idx] = layers[layer_idx], Skipped()
    try:
        return block_losses(model, blocks, bf16, batch_size)
    finally:
        layers[layer_idx] = layer

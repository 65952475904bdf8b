"""Next-token loss of a frozen output layer without the logits of a whole batch.

A small model's vocabulary outweighs its layers: logits, their log-softmax and its gradient are
written to memory and read again several times. Here a chunk of tokens goes from hidden states to
the gradient by them while its logits are still in the processor's cache, so nothing of the size
tokens · vocabulary exists. The arithmetic is that of transformers' loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 128  # tokens of a chunk
IGNORED = -100  # labels that are no target, as in transformers

Loss = Callable[..., Tensor]


class NextTokenLoss(torch.autograd.Function):
    """Loss in nats (), float32, of hidden states (n, hidden) whose targets are (n,) int64: summed
    and divided by `count` ().

    The logits are `hidden @ weight.T`, weight (vocabulary, hidden), in autocast's dtype if it is
    on. The gradient is computed on the way: the backward pass only scales it.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor) -> Tensor:
        kind = hidden.device.type
        rounds = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if rounds else hidden.dtype
        weight = weight.to(dtype)
        total = torch.zeros((), device=hidden.device)
        slope = torch.empty_like(hidden)
        chunks = (torch.split(tensor, ROWS) for tensor in (hidden, targets, slope))
        for rows, wanted, out in zip(*chunks, strict=True):
            found = nn.functional.log_softmax((rows.to(dtype) @ weight.T).float(), dim=1)
            index = wanted.clamp_min(0)[:, None]
            share = (wanted != IGNORED)[:, None] / count
            total -= (found.gather(1, index) * share).sum()
            # The slope of the loss by a token's logits: its probabilities, less one at the target.
            # Scaled before it is rounded, as in torch's own backward pass.
            found.exp_().scatter_add_(1, index, found.new_full(index.shape, -1.0)).mul_(share)
            out.copy_(found.to(dtype) @ weight)
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    def backward(ctx: Any, by_total: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * by_total, None, None, None


class TrainingHead(nn.Module):
    """A model's output layer that hands hidden states on while the model trains."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states if self.training else nn.functional.linear(hidden_states, self.weight)


def chunked_loss(model: Any, bf16: bool) -> Loss | None:
    """Put a `TrainingHead` in `model`; returns the loss of its outputs, Trainer's
    `compute_loss_func`. `bf16`: the model runs under bfloat16 autocast.

    None, and the model as it was, where the output layer trains or has a bias, or where the model
    does more to its logits than multiply.
    """
    head = model.get_output_embeddings()
    if head.weight.requires_grad or head.bias is not None:
        return None
    model.set_output_embeddings(TrainingHead(head))
    if not logits_are_plain(model, bf16):
        model.set_output_embeddings(head)
        return None

    def loss(
        outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        hidden = outputs.logits[:, :-1].flatten(0, 1)
        targets = labels[:, 1:].flatten().to(hidden.device)
        items = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(items, device=hidden.device)
        found: Tensor = NextTokenLoss.apply(hidden, head.weight, targets, count)  # type: ignore[no-untyped-call]
        return found

    return loss


@torch.no_grad()
def logits_are_plain(model: Any, bf16: bool) -> bool:
    """Are the logits what the output layer, here a `TrainingHead`, returns, and no more?

    A model may scale them or cap them.
    """
    entered: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: entered.append(args[0])
    )
    training = model.training
    weight = model.get_output_embeddings().weight
    probe = torch.rand(1, 2, weight.shape[1], device=weight.device)
    try:
        with torch.autocast(probe.device.type, torch.bfloat16, enabled=bf16):
            left = model.train()(inputs_embeds=probe, use_cache=False).logits
    finally:
        hook.remove()
        model.train(training)
    return torch.equal(left, entered[0])

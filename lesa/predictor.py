"""The predictor G_W of one matrix kind (docs/method.md steps 4 and 5).

Each of the r coefficient rows of a layer is one example: input the rows of its two neighbours,
`[V_{i-1}, V_{i+1}]` (2·d2), target its own row of `V_i` (d2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lesa.params import Predictor as Settings


def network(d2: int, hidden_size: int) -> nn.Sequential:
    """Three-layer MLP with ReLU, (n, 2·d2) to (n, d2)."""
    return nn.Sequential(
        nn.Linear(2 * d2, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, d2),
    )


def loss(prediction: Tensor, target: Tensor, norm_weight: float) -> Tensor:
    """`(1-λ)·MSE + λ·(‖pred‖₂ - ‖target‖₂)²`, both norms over the whole batch."""
    mse = nn.functional.mse_loss(prediction, target)
    norms = (torch.linalg.vector_norm(prediction) - torch.linalg.vector_norm(target)) ** 2
    total: Tensor = (1 - norm_weight) * mse + norm_weight * norms
    return total


def neighbours(coefficients: Tensor, middle: int) -> Tensor:
    """Input rows (r, 2·d2) for the layer `middle` of `coefficients` (L, r, d2)."""
    return torch.cat([coefficients[middle - 1], coefficients[middle + 1]], dim=1)


def fit(
    coefficients: Tensor,
    middles: Sequence[int],
    settings: Settings,
    seed: int,
    on_epoch: Callable[[float], None] = lambda mean_loss: None,
) -> nn.Sequential:
    """Train G_W on the triples (i-1, i, i+1) for i in `middles`.

    `coefficients`: (L, r, d2) float32 on the device to train on. Batches are drawn without
    replacement from all rows of all triples, shuffled anew each epoch; the last, smaller batch
    counts (docs/method.md, official code).
    """
    layers, rows, d2 = coefficients.shape
    torch.manual_seed(seed)
    model = network(d2, settings.hidden_size).to(coefficients.device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    flat = coefficients.view(layers * rows, d2)
    # Example e of the flattened list is row e of the target layer; neighbours lie `rows` away.
    targets = torch.cat([torch.arange(i * rows, (i + 1) * rows) for i in middles])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = targets[torch.randperm(len(targets), generator=generator)]
        total = 0.0
        batches = torch.split(order.to(flat.device), settings.batch_size)
        for batch in batches:
            inputs = torch.cat([flat[batch - rows], flat[batch + rows]], dim=1)
            value = loss(model(inputs), flat[batch], settings.norm_weight)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            optimizer.step()
            total += float(value.detach())
        on_epoch(total / len(batches))
    return model.eval()


@dataclass(frozen=True)
class Score:
    """How well predictions match held-out or training targets, over all rows of all triples.

    mse: mean squared error of a coefficient; explained_variance: 1 - mse / variance of the
    targets (0: as good as predicting their mean, below 0: worse); cosine: mean over triples of
    the cosine between predicted and true coefficient matrix; norm_ratio: ‖pred‖_F / ‖target‖_F;
    loss: the training objective with each triple as one batch, averaged.
    """

    mse: float
    explained_variance: float
    cosine: float
    norm_ratio: float
    loss: float


@torch.no_grad()
def score(
    model: nn.Module, coefficients: Tensor, middles: Sequence[int], norm_weight: float
) -> Score:
    """Score G_W on the triples around `middles`; `coefficients` is (L, r, d2)."""
    error = square = mean = predicted = cosine = objective = 0.0
    count = 0
    for i in middles:
        prediction, target = model(neighbours(coefficients, i)), coefficients[i]
        error += float((prediction - target).double().square().sum())
        square += float(target.double().square().sum())
        mean += float(target.double().sum())
        predicted += float(prediction.double().square().sum())
        cosine += float(torch.cosine_similarity(prediction.flatten(), target.flatten(), dim=0))
        objective += float(loss(prediction, target, norm_weight))
        count += target.numel()
    variance = square / count - (mean / count) ** 2
    return Score(
        mse=error / count,
        explained_variance=1 - error / count / variance,
        cosine=cosine / len(middles),
        norm_ratio=(predicted / square) ** 0.5,
        loss=objective / len(middles),
    )

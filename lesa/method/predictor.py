"""The predictor G_W of one matrix kind (docs/method.md steps 4 and 5).

Each of the r coefficient rows of a layer is one example: input the rows of its two neighbours,
`[V_{i-1}, V_{i+1}]` (2·d2), target its own row of `V_i` (d2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from lesa.method.coefficients import Coefficients
from lesa.params import Predictor as Settings

threshold_backward = torch.ops.aten.threshold_backward
CPU = torch.device("cpu")
SCORED_ROWS = 512  # predicted at once when scoring


def network(d2: int, hidden_size: int) -> nn.Sequential:
    """Three-layer MLP with ReLU, (n, 2·d2) to (n, d2)."""
    return nn.Sequential(
        nn.Linear(2 * d2, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, d2),
    )


def loss_slope(prediction: Tensor, target: Tensor, norm_weight: float) -> Tensor:
    """The derivative of a batch's loss by the prediction (n, d2).

    The loss is `(1-λ)·MSE + λ·(‖pred‖₂ - ‖target‖₂)²`, both norms over the whole batch; its slope
    `(1-λ)·2/(n·d2)·(pred - target) + λ·2·(‖pred‖₂ - ‖target‖₂)·pred/‖pred‖₂`, where the second
    term is 0 if the prediction is, as in autograd. Training needs no more than the slope.
    """
    size = torch.linalg.vector_norm(prediction)
    excess = size - torch.linalg.vector_norm(target)
    slope = (prediction - target).mul_((1 - norm_weight) * 2 / prediction.numel())
    return slope.addcmul_(prediction, excess / size.clamp_min(1e-30), value=norm_weight * 2)


def gradient(
    parameters: Sequence[Tensor],
    inputs: Tensor,
    target: Tensor,
    norm_weight: float,
    out: Sequence[Tensor],
) -> None:
    """Write the derivative of a batch's loss by each of `network`'s parameters to `out`.

    Autograd's arithmetic without its bookkeeping and without fresh memory for the gradients at
    every step: of so small a batch the matrix products are short enough for both to show.
    """
    w1, b1, w2, b2, w3, b3 = parameters
    by_w1, by_b1, by_w2, by_b2, by_w3, by_b3 = out
    first = torch.addmm(b1, inputs, w1.T).relu_()
    second = torch.addmm(b2, first, w2.T).relu_()
    prediction = torch.addmm(b3, second, w3.T)

    slope = loss_slope(prediction, target, norm_weight)
    torch.mm(slope.T, second, out=by_w3)
    torch.sum(slope, 0, out=by_b3)
    slope = threshold_backward(slope @ w3, second, 0)  # ReLU's
    torch.mm(slope.T, first, out=by_w2)
    torch.sum(slope, 0, out=by_b2)
    slope = threshold_backward(slope @ w2, first, 0)
    torch.mm(slope.T, inputs, out=by_w1)
    torch.sum(slope, 0, out=by_b1)


def examples(v: Coefficients, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs (n, 2·d2) and targets (n, d2) of the target rows `rows`, counted over all layers."""
    # A target's neighbours stand one layer before and one after it; taken in turn they lie side
    # by side.
    neighbours = v.take(torch.stack([rows - v.rows, rows + v.rows], dim=1).flatten())
    return neighbours.view(-1, 2 * v.d2).to(device), v.take(rows).to(device)


def cut(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """A flat tensor's consecutive parts, seen in these shapes; no copies."""
    parts = torch.split(flat, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


@torch.no_grad()
def fit(
    v: Coefficients,
    middles: Sequence[int],
    settings: Settings,
    seed: int,
    device: torch.device = CPU,
    on_epoch: Callable[[], None] = lambda: None,
) -> nn.Sequential:
    """Train G_W on the triples (i-1, i, i+1) for i in `middles`, in the dtype of `v` on `device`.

    Batches are drawn without replacement from all rows of all triples, shuffled anew each epoch;
    the last, smaller batch counts (docs/method.md, official code).
    """
    torch.manual_seed(seed)
    model = network(v.d2, settings.hidden_size).to(device, v.dtype)
    # All parameters lie in one tensor, so that the optimiser's step is one pass over it.
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.flatten() for p in model.parameters()])
    flat_gradient, first, second = (torch.zeros_like(flat) for _ in range(3))
    parameters, gradients = cut(flat, shapes), cut(flat_gradient, shapes)
    # AdamW with torch's defaults. Its class would load torch's compiler, in every worker.
    step = partial(
        adamw,
        [flat],
        [flat_gradient],
        [first],
        [second],
        [],
        [torch.zeros((), device=device)],
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        eps=1e-8,
        maximize=False,
    )
    targets = torch.cat([torch.arange(i * v.rows, (i + 1) * v.rows) for i in middles])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = targets[torch.randperm(len(targets), generator=generator)].to(v.device)
        for batch in torch.split(order, settings.batch_size):
            inputs, target = examples(v, batch, device)
            gradient(parameters, inputs, target, settings.norm_weight, gradients)
            step()
        on_epoch()
    for parameter, trained in zip(model.parameters(), parameters, strict=True):
        parameter.copy_(trained)
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
    model: nn.Module,
    v: Coefficients,
    middles: Sequence[int],
    norm_weight: float,
    device: torch.device = CPU,
) -> Score:
    """Score G_W, which lies on `device`, on the triples around `middles`.

    Every score follows from five sums over a triple's entries, so no more than `SCORED_ROWS` rows
    are predicted at once; the sums are float64.
    """
    sums = torch.stack([moments(model, v, i, device) for i in middles])  # (triples, 5)
    errors, predicted, targets, products, _ = sums.T
    entries = v.rows * v.d2
    sizes = predicted.sqrt(), targets.sqrt()
    cosines = products / (sizes[0] * sizes[1]).clamp_min(1e-300)
    objectives = (1 - norm_weight) * errors / entries + norm_weight * (sizes[0] - sizes[1]) ** 2
    error, square, mean = (float(sums[:, k].mean()) / entries for k in (0, 2, 4))
    return Score(
        mse=error,
        explained_variance=1 - error / (square - mean**2),
        cosine=float(cosines.mean()),
        norm_ratio=float(predicted.sum() / targets.sum()) ** 0.5,
        loss=float(objectives.mean()),
    )


def moments(model: nn.Module, v: Coefficients, middle: int, device: torch.device) -> Tensor:
    """Sums over one triple's entries (5,) float64: of squared errors, of squared predictions, of
    squared targets, of the products of both, and of targets."""
    total = torch.zeros(5, dtype=torch.float64)
    for rows in torch.split(torch.arange(v.rows) + middle * v.rows, SCORED_ROWS):
        inputs, target = examples(v, rows, device)
        prediction = model(inputs)
        total += torch.stack(
            [
                (prediction - target).square().sum(dtype=torch.float64),
                prediction.square().sum(dtype=torch.float64),
                target.square().sum(dtype=torch.float64),
                (prediction * target).sum(dtype=torch.float64),
                target.sum(dtype=torch.float64),
            ]
        ).cpu()
    return total

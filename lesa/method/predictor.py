"""The predictor G_W of one matrix kind (docs/method.md steps 4 and 5).

Each of the r rows of a layer's coefficients is one example: the input is the same row of both
neighbours, `[V_{i-1}, V_{i+1}]` (2·d2), the target is the row of `V_i` (d2). Layers i-1, i and i+1
are a triple, and i is its middle layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from lesa.method.coefficients import Coefficients, rows_of
from lesa.params import Predictor as Settings

threshold_backward = torch.ops.aten.threshold_backward
CPU = torch.device("cpu")
SCORED_ROWS = 512  # predicted at once when scoring


def network(d2: int, hidden_size: int) -> nn.Sequential:
    """G_W before training: a three-layer MLP with ReLU, (n, 2·d2) to (n, d2), float32."""
    return nn.Sequential(
        nn.Linear(2 * d2, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, d2),
    )


def loss_gradient(prediction: Tensor, target: Tensor, norm_weight: float) -> Tensor:
    """The derivative (n, d2) of a batch's loss by the prediction (n, d2).

    The loss is `(1-λ)·MSE + λ·(‖pred‖₂ - ‖target‖₂)²`, both norms over the whole batch, with λ =
    `norm_weight`. Its derivative is
    `(1-λ)·2/(n·d2)·(pred - target) + λ·2·(‖pred‖₂ - ‖target‖₂)·pred/‖pred‖₂`, where the second
    term is 0 if the prediction is, as in autograd. Training needs the derivative alone.
    """
    norm = torch.linalg.vector_norm(prediction)
    excess = norm - torch.linalg.vector_norm(target)
    of_mse = (prediction - target).mul_((1 - norm_weight) * 2 / prediction.numel())
    return of_mse.addcmul_(prediction, excess / norm.clamp_min(1e-30), value=norm_weight * 2)


def gradient(
    parameters: Sequence[Tensor],
    inputs: Tensor,
    target: Tensor,
    norm_weight: float,
    gradients: Sequence[Tensor],
) -> None:
    """Write the derivative of a batch's loss by each of `network`'s parameters to `gradients`.

    inputs: (n, 2·d2); target: (n, d2); parameters, gradients: in the order of
    `network(…).parameters()`. The arithmetic is autograd's, without its bookkeeping and without
    new memory for the gradients at every step: the matrix products of so small a batch are short
    enough for both to show.
    """
    w1, b1, w2, b2, w3, b3 = parameters
    w1_gradient, b1_gradient, w2_gradient, b2_gradient, w3_gradient, b3_gradient = gradients
    hidden1 = torch.addmm(b1, inputs, w1.T).relu_()
    hidden2 = torch.addmm(b2, hidden1, w2.T).relu_()
    prediction = torch.addmm(b3, hidden2, w3.T)

    upstream = loss_gradient(prediction, target, norm_weight)
    torch.mm(upstream.T, hidden2, out=w3_gradient)
    torch.sum(upstream, 0, out=b3_gradient)
    upstream = threshold_backward(upstream @ w3, hidden2, 0)  # ReLU's
    torch.mm(upstream.T, hidden1, out=w2_gradient)
    torch.sum(upstream, 0, out=b2_gradient)
    upstream = threshold_backward(upstream @ w2, hidden1, 0)
    torch.mm(upstream.T, inputs, out=w1_gradient)
    torch.sum(upstream, 0, out=b1_gradient)


def examples(v: Coefficients, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs (n, 2·d2) and targets (n, d2), on `device`, of the target rows `rows`.

    rows: (n,) int64 on `v.device`, numbered through all layers as in `Coefficients`.
    """
    # A target's neighbours stand one layer before and one after it; taken in turn they lie side
    # by side.
    neighbours = v.take(torch.stack([rows - v.rank, rows + v.rank], dim=1).flatten())
    return neighbours.view(-1, 2 * v.d2).to(device), v.take(rows).to(device)


def split_views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Consecutive parts of a flat tensor in these shapes; they share its memory."""
    parts = torch.split(flat, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


@torch.no_grad()
def fit(
    v: Coefficients,
    middles: Sequence[int],
    settings: Settings,
    seed: int,
    device: torch.device = CPU,
    on_epoch: Callable[[nn.Sequential], None] = lambda _: None,
) -> nn.Sequential:
    """Train G_W on the triples whose middle layers are `middles`, in the dtype of `v` on `device`.

    Every epoch visits all rows of all triples once, in a new order; the last, smaller batch is a
    step like the others (docs/method.md, official code). `seed` decides the initial weights and
    the orders. `on_epoch` is called with the predictor after each epoch.
    """
    torch.manual_seed(seed)
    model = network(v.d2, settings.hidden_size).to(device, v.dtype)
    # All parameters lie in one tensor, so that the optimiser's step is one pass over it.
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.flatten() for p in model.parameters()])
    flat_gradient, first_moment, second_moment = (torch.zeros_like(flat) for _ in range(3))
    parameters, gradients = split_views(flat, shapes), split_views(flat_gradient, shapes)
    # AdamW with torch's defaults. Its class would load torch's compiler, in every worker.
    step = partial(
        adamw,
        [flat],
        [flat_gradient],
        [first_moment],
        [second_moment],
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
    targets = torch.cat([rows_of(v, i) for i in middles]).cpu()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = targets[torch.randperm(len(targets), generator=generator)].to(v.device)
        for batch in torch.split(order, settings.batch_size):
            inputs, target = examples(v, batch, device)
            gradient(parameters, inputs, target, settings.norm_weight, gradients)
            step()
        for parameter, trained in zip(model.parameters(), parameters, strict=True):
            parameter.copy_(trained)
        on_epoch(model)
    return model.eval()


def any_target(v: Coefficients, middles: Sequence[int]) -> bool:
    """Has any layer of `middles` a coefficient other than zero?"""
    return any(
        bool(v.take(rows).any())
        for i in middles
        for rows in torch.split(rows_of(v, i), SCORED_ROWS)
    )


@dataclass(frozen=True)
class Score:
    """How well predictions match held-out or training targets, over all rows of all triples.

    mse: mean squared error of a coefficient. zero_mse: that of predicting zero. explained_variance:
    1 - mse / variance of the targets; 0 is as good as predicting their mean, below 0 is worse.
    cosine: mean over triples of the cosine between the predicted and the true coefficient matrix.
    norm_ratio: ‖pred‖_F / ‖target‖_F. loss: the training loss with each triple as one batch,
    averaged.
    """

    mse: float
    zero_mse: float
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
    """Score G_W, which lies on `device`, on the triples whose middle layers are `middles`.

    Every score follows from five sums over a triple's entries, so no more than `SCORED_ROWS` rows
    are predicted at once; the sums are float64. Raises ZeroDivisionError where there is not
    `any_target`.
    """
    sums = torch.stack([moments(model, v, i, device) for i in middles])  # (triples, 5)
    errors, predicted, targets, products, _ = sums.T
    entries = v.rank * v.d2
    predicted_norms, target_norms = predicted.sqrt(), targets.sqrt()
    cosines = products / (predicted_norms * target_norms).clamp_min(1e-300)
    norm_terms = norm_weight * (predicted_norms - target_norms) ** 2
    losses = (1 - norm_weight) * errors / entries + norm_terms
    error, square, mean = (float(sums[:, k].mean()) / entries for k in (0, 2, 4))
    return Score(
        mse=error,
        zero_mse=square,
        explained_variance=1 - error / (square - mean**2),
        cosine=float(cosines.mean()),
        norm_ratio=float(predicted.sum() / targets.sum()) ** 0.5,
        loss=float(losses.mean()),
    )


def moments(model: nn.Module, v: Coefficients, middle: int, device: torch.device) -> Tensor:
    """Sums over one triple's entries (5,) float64 on the CPU: of squared errors, of squared
    predictions, of squared targets, of the products of both, and of targets."""
    total = torch.zeros(5, dtype=torch.float64)
    for rows in torch.split(rows_of(v, middle), SCORED_ROWS):
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

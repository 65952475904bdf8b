"""The published fit of one predictor as a plain loop, from docs/method.md steps 4 and 5 alone.

Nothing of this project's is used: examples are materialised, batches come from a DataLoader,
gradients from autograd, steps from torch's AdamW as it is by default. `lesa.method.predictor` is
timed against it (benchmarks/fit.py) and tested against (tests/test_predictor.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def published_fit(
    coefficients: Sequence[Tensor],
    middles: Sequence[int],
    norm_weight: float,
    epochs: int,
    hidden_size: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> tuple[nn.Sequential, list[float]]:
    """The network trained on the triples around `middles`, and each epoch's mean loss.

    `coefficients`: `V_1 … V_L`, (r, d2) each.
    """
    d2 = coefficients[0].shape[1]
    data = TensorDataset(
        torch.cat([torch.cat([coefficients[i - 1], coefficients[i + 1]], 1) for i in middles]),
        torch.cat([coefficients[i] for i in middles]),
    )
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(2 * d2, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.ReLU(),
        nn.Linear(hidden_size, d2),
    ).to(coefficients[0].dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    shuffle = torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=shuffle).tolist()
        losses = []
        for inputs, target in DataLoader(data, batch_size=batch_size, sampler=order):
            prediction = model(inputs)
            mse = nn.functional.mse_loss(prediction, target)
            norms = (prediction.norm() - target.norm()) ** 2
            loss = (1 - norm_weight) * mse + norm_weight * norms
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curve.append(sum(losses) / len(losses))
    return model, curve

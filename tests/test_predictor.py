"""The predictor against a plain training loop, and its loss and scores against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lesa import predictor
from lesa.params import Predictor as Settings

SETTINGS = Settings(
    norm_weight=0.3, epochs=3, hidden_size=12, batch_size=7, learning_rate=1e-2, weight_decay=0.01
)


def coefficients(layers: int = 6, rows: int = 5, d2: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(layers, rows, d2, generator=torch.Generator().manual_seed(seed))


def plain_fit(
    v: Tensor, middles: list[int], settings: Settings, seed: int
) -> tuple[list[Tensor], list[float]]:
    """docs/method.md steps 4 and 5 without the library: lists of rows, and AdamW written out."""
    d2 = v.shape[2]
    torch.manual_seed(seed)
    layers = [
        nn.Linear(2 * d2, settings.hidden_size),
        nn.Linear(settings.hidden_size, settings.hidden_size),
        nn.Linear(settings.hidden_size, d2),
    ]
    weights = [p for layer in layers for p in (layer.weight, layer.bias)]
    first = [torch.zeros_like(p) for p in weights]
    second = [torch.zeros_like(p) for p in weights]
    examples = [
        (torch.cat([v[i - 1, row], v[i + 1, row]]), v[i, row])
        for i in middles
        for row in range(v.shape[1])
    ]
    generator = torch.Generator().manual_seed(seed)
    step, curve = 0, []
    for _ in range(settings.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        losses = []
        for start in range(0, len(order), settings.batch_size):
            batch = [examples[e] for e in order[start : start + settings.batch_size]]
            x = torch.stack([pair[0] for pair in batch])
            target = torch.stack([pair[1] for pair in batch])
            x = torch.relu(x @ weights[0].T + weights[1])
            x = torch.relu(x @ weights[2].T + weights[3])
            prediction = x @ weights[4].T + weights[5]
            mse = ((prediction - target) ** 2).mean()
            norms = ((prediction**2).sum().sqrt() - (target**2).sum().sqrt()) ** 2
            value = (1 - settings.norm_weight) * mse + settings.norm_weight * norms
            losses.append(float(value.detach()))
            step += 1
            for p, g, m, n in zip(
                weights, torch.autograd.grad(value, weights), first, second, strict=True
            ):
                with torch.no_grad():
                    p.mul_(1 - settings.learning_rate * settings.weight_decay)
                    m.mul_(0.9).add_(g, alpha=0.1)
                    n.mul_(0.999).add_(g * g, alpha=0.001)
                    size = (n / (1 - 0.999**step)).sqrt() + 1e-8
                    p.sub_(settings.learning_rate / (1 - 0.9**step) * m / size)
        curve.append(sum(losses) / len(losses))
    return [p.detach() for p in weights], curve


# 20 rows in batches of 7: the last batch of an epoch has 6, and counts.
@pytest.mark.parametrize("middles", [[1, 2, 3, 4], [2, 4], [3]])
def test_fit_equals_a_plain_loop(middles: list[int]) -> None:
    v = coefficients()
    curve: list[float] = []
    model = predictor.fit(v, middles, SETTINGS, seed=5, on_epoch=curve.append)
    wanted, wanted_curve = plain_fit(v, middles, SETTINGS, seed=5)
    assert curve == pytest.approx(wanted_curve, rel=1e-4)
    for found, other in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(found, other, atol=1e-4)
    assert not model.training


def test_fit_is_deterministic_and_depends_on_its_seed() -> None:
    v = coefficients()
    torch.manual_seed(1)
    one = predictor.fit(v, [1, 2, 3, 4], SETTINGS, seed=0).state_dict()
    torch.manual_seed(2)
    same = predictor.fit(v, [1, 2, 3, 4], SETTINGS, seed=0).state_dict()
    other = predictor.fit(v, [1, 2, 3, 4], SETTINGS, seed=1).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_fit_reads_only_its_triples() -> None:
    """A held-out layer's coefficients must not reach the weights."""
    v = coefficients(layers=8)
    changed = v.clone()
    changed[4:] = 100.0
    one = predictor.fit(v, [1, 2], SETTINGS, seed=0).state_dict()
    other = predictor.fit(changed, [1, 2], SETTINGS, seed=0).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_network_is_three_linear_layers_with_relu() -> None:
    model = predictor.network(4, 256)
    assert [type(part) for part in model] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
    assert shapes == [(256, 8), (256, 256), (4, 256)]


def test_loss_closed_form() -> None:
    prediction = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # norm 5
    target = torch.tensor([[0.0, 0.0], [0.0, 2.0]])  # norm 2
    mse = (9 + 4) / 4
    for weight in (0.0, 5e-5, 0.25, 1.0):
        wanted = (1 - weight) * mse + weight * (5 - 2) ** 2
        assert float(predictor.loss(prediction, target, weight)) == pytest.approx(wanted)


def test_neighbours_stand_side_by_side() -> None:
    v = coefficients()
    rows = predictor.neighbours(v, 2)
    assert torch.equal(rows, torch.stack([torch.cat([v[1, r], v[3, r]]) for r in range(5)]))


class Apply(nn.Module):
    """A predictor of the form `function(left, right)`."""

    def __init__(self, left: float, right: float, shift: float = 0.0) -> None:
        super().__init__()
        self.left, self.right, self.shift = left, right, shift

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=1)
        return self.left * one + self.right * other + self.shift


def test_score_of_zero() -> None:
    v = coefficients() + 0.5
    found = predictor.score(Apply(0, 0), v, [1, 2, 4], 0.1)
    targets = v[[1, 2, 4]].double().numpy()
    assert found.mse == pytest.approx((targets**2).mean())
    assert found.explained_variance == pytest.approx(1 - (targets**2).mean() / targets.var())
    assert found.explained_variance <= 0
    assert found.norm_ratio == 0
    assert found.cosine == 0


def test_score_of_the_mean_explains_nothing() -> None:
    v = coefficients()
    mean = float(v[[2, 3]].double().mean())
    found = predictor.score(Apply(0, 0, mean), v, [2, 3], 0.1)
    assert found.explained_variance == pytest.approx(0, abs=1e-6)


def test_score_of_perfect_predictions() -> None:
    """Coefficients on a straight line: the mean of the neighbours is the layer."""
    start, slope = coefficients(2)
    v = torch.stack([start + i * slope for i in range(6)])
    found = predictor.score(Apply(0.5, 0.5), v, [1, 2, 3, 4], 0.1)
    assert found.mse == pytest.approx(0, abs=1e-12)
    assert found.explained_variance == pytest.approx(1)
    assert found.cosine == pytest.approx(1)
    assert found.norm_ratio == pytest.approx(1)
    assert found.loss == pytest.approx(0, abs=1e-9)


def test_score_against_numpy() -> None:
    v, middles = coefficients() + 0.2, [1, 3, 4]
    found = predictor.score(Apply(0.7, -0.2, 0.1), v, middles, 0.25)
    a = v.double().numpy()
    pairs = [(0.7 * a[i - 1] - 0.2 * a[i + 1] + 0.1, a[i]) for i in middles]
    predicted, targets = (np.stack(column) for column in zip(*pairs, strict=True))
    mse = ((predicted - targets) ** 2).mean()
    size = np.linalg.norm
    cosines = [(p * t).sum() / size(p) / size(t) for p, t in pairs]
    losses = [0.75 * ((p - t) ** 2).mean() + 0.25 * (size(p) - size(t)) ** 2 for p, t in pairs]
    assert found.mse == pytest.approx(mse, rel=1e-5)
    assert found.explained_variance == pytest.approx(1 - mse / targets.var(), rel=1e-5)
    assert found.cosine == pytest.approx(np.mean(cosines), rel=1e-5)
    assert found.norm_ratio == pytest.approx(size(predicted) / size(targets), rel=1e-5)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert all(math.isfinite(x) for x in vars(found).values())

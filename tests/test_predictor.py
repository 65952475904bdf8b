"""The predictor against a plain training loop, and its loss and scores against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.published_fit import published_fit
from lesa.method import predictor
from lesa.method.coefficients import InMemory
from lesa.params import Predictor as Settings

SETTINGS = Settings(
    norm_weight=0.3, epochs=3, hidden_size=12, batch_size=7, learning_rate=1e-2, weight_decay=0.01
)


def coefficients(layers: int = 6, rows: int = 5, d2: int = 4) -> Tensor:
    return torch.randn(layers, rows, d2, generator=torch.Generator().manual_seed(0))


def published(v: Tensor, middles: list[int], settings: Settings, seed: int) -> dict[str, Tensor]:
    """Weights of the published loop."""
    published = settings.model_dump(exclude={"fitted_on"})
    model, _ = published_fit(list(v), middles, seed=seed, **published)
    return dict(model.state_dict())


def closed_form(prediction: Tensor, target: Tensor, norm_weight: float) -> Tensor:
    """The paper's objective, written as it stands in docs/method.md."""
    mse = (prediction - target).square().mean()
    norms = torch.linalg.vector_norm(prediction) - torch.linalg.vector_norm(target)
    found: Tensor = (1 - norm_weight) * mse + norm_weight * norms**2
    return found


def largest_difference(model: nn.Module, wanted: dict[str, Tensor]) -> float:
    """The largest difference of two networks' weights."""
    found = model.state_dict()
    assert list(found) == list(wanted)
    return max(float((found[name] - wanted[name]).abs().max()) for name in found)


# 20 rows in batches of 7: the last batch of an epoch has 6, and counts.
@pytest.mark.parametrize("middles", [[1, 2, 3, 4], [2, 4], [3]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fit_equals_the_published_loop(
    middles: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    v = coefficients().to(dtype)
    epochs: list[int] = []
    model = predictor.fit(InMemory(v), middles, SETTINGS, 5, on_epoch=lambda _: epochs.append(1))
    assert len(epochs) == SETTINGS.epochs
    assert largest_difference(model, published(v, middles, SETTINGS, seed=5)) < tolerance
    assert not model.training
    assert next(model.parameters()).dtype == dtype


@pytest.mark.parametrize("norm_weight", [0.0, 5e-5, 5e-4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_hundreds_of_published_steps(
    norm_weight: float, dtype: torch.dtype, tolerance: float
) -> None:
    """The presets' own settings, 300 steps; weights are of size 0.1."""
    settings = Settings(
        norm_weight=norm_weight,
        epochs=5,
        hidden_size=64,
        batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.01,
    )
    v = coefficients(layers=14, rows=320, d2=24).to(dtype) / 10
    middles = list(range(1, 13))
    model = predictor.fit(InMemory(v), middles, settings, seed=3)
    wanted = published(v, middles, settings, seed=3)
    assert largest_difference(model, wanted) < tolerance
    untrained = published(v, middles, settings.model_copy(update={"epochs": 0}), seed=3)
    assert largest_difference(model, untrained) > 100 * tolerance


@pytest.mark.parametrize("norm_weight", [0.0, 5e-4, 0.5, 1.0])
def test_gradient_is_that_of_autograd(norm_weight: float) -> None:
    generator = torch.Generator().manual_seed(1)
    model = predictor.network(6, 10).double()
    parameters = list(model.parameters())
    inputs = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    target = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    prediction = model(inputs)
    wanted = torch.autograd.grad(closed_form(prediction, target, norm_weight), parameters)
    out = [torch.full_like(p, 7.0) for p in parameters]
    with torch.no_grad():
        predictor.gradient(parameters, inputs, target, norm_weight, out)
    for one, other in zip(out, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm_weight", [0.0, 5e-5, 0.5, 1.0])
def test_loss_gradient_by_finite_differences(norm_weight: float) -> None:
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found = predictor.loss_gradient(prediction, target, norm_weight)
    for row, column in np.ndindex(4, 3):
        step = torch.zeros(4, 3, dtype=torch.float64)
        step[row, column] = 1e-6
        rise = closed_form(prediction + step, target, norm_weight)
        rise -= closed_form(prediction - step, target, norm_weight)
        assert float(found[row, column]) == pytest.approx(float(rise) / 2e-6, rel=1e-6, abs=1e-9)


def test_loss_gradient_of_a_zero_prediction_is_finite() -> None:
    prediction = torch.zeros(2, 3, requires_grad=True)
    target = torch.ones(2, 3)
    (wanted,) = torch.autograd.grad(closed_form(prediction, target, 0.5), prediction)
    assert torch.equal(predictor.loss_gradient(prediction.detach(), target, 0.5), wanted)


def test_fit_is_deterministic_and_depends_on_its_seed() -> None:
    v = coefficients()
    torch.manual_seed(1)
    one = predictor.fit(InMemory(v), [1, 2, 3, 4], SETTINGS, seed=0).state_dict()
    torch.manual_seed(2)
    same = predictor.fit(InMemory(v), [1, 2, 3, 4], SETTINGS, seed=0).state_dict()
    other = predictor.fit(InMemory(v), [1, 2, 3, 4], SETTINGS, seed=1).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_fit_reads_only_its_triples() -> None:
    """A held-out layer's coefficients must not reach the weights."""
    v = coefficients(layers=8)
    changed = v.clone()
    changed[4:] = 100.0
    one = predictor.fit(InMemory(v), [1, 2], SETTINGS, seed=0).state_dict()
    other = predictor.fit(InMemory(changed), [1, 2], SETTINGS, seed=0).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_network_is_three_linear_layers_with_relu() -> None:
    model = predictor.network(4, 256)
    assert [type(part) for part in model] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
    assert shapes == [(256, 8), (256, 256), (4, 256)]


@pytest.mark.parametrize("norm_weight", [0.0, 5e-5, 0.25, 1.0])
def test_loss_closed_form(norm_weight: float) -> None:
    """Numbers worked out by hand: the training loss that is scored, and its gradient."""
    prediction = torch.tensor([[3.0, 0.0], [0.0, 4.0]], requires_grad=True)  # norm 5
    target = torch.tensor([[0.0, 0.0], [0.0, 2.0]])  # norm 2
    loss = (1 - norm_weight) * (9 + 4) / 4 + norm_weight * (5 - 2) ** 2
    # Of the MSE: 2/4 of the errors 3 and 2; of the norms' term: 2·(5 - 2)/5 of the prediction.
    gradient = (1 - norm_weight) * torch.tensor([[1.5, 0.0], [0.0, 1.0]])
    gradient += norm_weight * 1.2 * prediction.detach()

    written = closed_form(prediction, target, norm_weight)
    (by_autograd,) = torch.autograd.grad(written, prediction)
    assert float(written.detach()) == pytest.approx(loss)
    assert torch.allclose(by_autograd, gradient)

    found = predictor.loss_gradient(prediction.detach(), target, norm_weight)
    assert torch.allclose(found, gradient)
    # The prediction is the layer below the target.
    v = InMemory(torch.stack([prediction.detach(), target, torch.zeros(2, 2)]))
    assert predictor.score(Apply(1, 0), v, [1], norm_weight).loss == pytest.approx(loss)


def test_examples_are_the_neighbours_side_by_side_and_the_layer_between() -> None:
    v = coefficients()
    inputs, target = predictor.examples(InMemory(v), torch.tensor([7, 19]), torch.device("cpu"))
    # Five rows a layer: row 2 of layer 1, row 4 of layer 3.
    assert torch.equal(inputs[0], torch.cat([v[0, 2], v[2, 2]]))
    assert torch.equal(inputs[1], torch.cat([v[2, 4], v[4, 4]]))
    assert torch.equal(target, torch.stack([v[1, 2], v[3, 4]]))


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
    found = predictor.score(Apply(0, 0), InMemory(v), [1, 2, 4], 0.1)
    targets = v[[1, 2, 4]].double().numpy()
    assert found.mse == pytest.approx((targets**2).mean())
    assert found.explained_variance == pytest.approx(1 - (targets**2).mean() / targets.var())
    assert found.explained_variance <= 0
    assert found.norm_ratio == 0
    assert found.cosine == 0


def test_score_of_the_mean_explains_nothing() -> None:
    v = coefficients()
    mean = float(v[[2, 3]].double().mean())
    found = predictor.score(Apply(0, 0, mean), InMemory(v), [2, 3], 0.1)
    assert found.explained_variance == pytest.approx(0, abs=1e-6)


def test_score_of_perfect_predictions() -> None:
    """Coefficients on a straight line: the mean of the neighbours is the layer."""
    start, slope = coefficients(2)
    v = torch.stack([start + i * slope for i in range(6)])
    found = predictor.score(Apply(0.5, 0.5), InMemory(v), [1, 2, 3, 4], 0.1)
    assert found.mse == pytest.approx(0, abs=1e-12)
    assert found.explained_variance == pytest.approx(1)
    assert found.cosine == pytest.approx(1)
    assert found.norm_ratio == pytest.approx(1)
    assert found.loss == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("at_once", [512, 2, 5])
def test_score_against_numpy(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "SCORED_ROWS", at_once)
    v, middles = coefficients() + 0.2, [1, 3, 4]
    found = predictor.score(Apply(0.7, -0.2, 0.1), InMemory(v), middles, 0.25)
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


def fit_and_score_on(device: torch.device, rows_on: str) -> None:
    """Fitted on `device` from rows that lie on `rows_on`: the published loop's weights and scores
    of them, both found on the CPU."""
    v, middles = coefficients().double(), [1, 2, 3, 4]
    rows = InMemory(v.to(rows_on))
    model = predictor.fit(rows, middles, SETTINGS, seed=5, device=device)
    assert next(model.parameters()).device.type == device.type
    found = predictor.score(model, rows, [2, 3], 0.1, device)
    wanted = published(v, middles, SETTINGS, seed=5)
    assert largest_difference(model.cpu(), wanted) < 1e-10
    on_the_cpu = predictor.score(model, InMemory(v), [2, 3], 0.1)
    assert vars(found) == pytest.approx(vars(on_the_cpu), rel=1e-9)


def test_fit_on_the_cpu_equals_the_published_loop() -> None:
    fit_and_score_on(torch.device("cpu"), "cpu")


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here: fitting on a GPU is NOT tested"
)
@pytest.mark.parametrize("rows_on", ["cpu", "cuda"])
def test_fit_on_a_gpu_equals_the_published_loop(rows_on: str) -> None:
    fit_and_score_on(torch.device("cuda"), rows_on)


def test_rows_are_counted_where_the_coefficients_lie() -> None:
    """A GPU refuses to gather rows by an index that lies elsewhere, and so does torch's stand-in
    for another device."""
    with FakeTensorMode():
        v = InMemory(torch.empty(6, 5, 4, device="meta"))
        sums = predictor.moments(Apply(0.5, 0.5), v, 2, torch.device("meta"))
    assert sums.shape == (5,)

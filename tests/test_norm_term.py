"""What docs/start.md says of the predictor's loss, each sentence on numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lesa.method.basis import Basis, with_signs
from lesa.method.coefficients import InMemory
from lesa.method.predictor import fit, loss_gradient, network
from lesa.params import Predictor

LAYERS, RANK, D2, ROWS = 12, 64, 256, 64  # ROWS: of a batch
HIDDEN_SIZE = 64
NORM_WEIGHT = 1.1e-4


def equilibrium(norm_weight: float, rows: int, d2: int) -> float:
    """‖pred‖ / ‖target‖ where the loss is least along a prediction orthogonal to the target."""
    return norm_weight / (norm_weight + (1 - norm_weight) / (rows * d2))


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Entries as large as those of coefficients whose concatenation has rows of norm one."""
    generator = torch.Generator().manual_seed(seed)
    found: Tensor = torch.randn(*shape, generator=generator) / (LAYERS * D2) ** 0.5
    return found


def constant_share(rows: Tensor) -> float:
    """How much of the squared norm of `rows` (n, d2) their mean row has."""
    return float(len(rows) * rows.mean(dim=0).square().sum() / rows.square().sum())


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_both_terms_pull_along_the_prediction_itself(scale: float) -> None:
    """A prediction that is orthogonal to the target: MSE makes it smaller, the norm term larger or
    smaller, and both turn it nowhere but, by MSE, towards the target."""
    target = gaussian(ROWS, D2)
    prediction = scale * gaussian(ROWS, D2, seed=1)
    prediction -= target * (prediction * target).sum() / target.square().sum()
    gradient = loss_gradient(prediction, target, NORM_WEIGHT)
    along = gradient - prediction * (gradient * prediction).sum() / prediction.square().sum()
    towards_target = -(1 - NORM_WEIGHT) * 2 / target.numel() * target
    assert torch.allclose(along, towards_target, atol=1e-8)
    norm_term = gradient - loss_gradient(prediction, target, 0.0) * (1 - NORM_WEIGHT)
    cosine = (norm_term * prediction).sum() / norm_term.norm() / prediction.norm()
    assert float(cosine) == pytest.approx(-1 if prediction.norm() < target.norm() else 1, abs=1e-3)


def test_the_loss_is_least_at_a_part_of_the_targets_norm() -> None:
    target, direction = gaussian(ROWS, D2).double(), gaussian(ROWS, D2, seed=1).double()
    direction -= target * (direction * target).sum() / target.square().sum()
    direction *= target.norm() / direction.norm()

    def loss(size: float) -> float:
        mse = (size * direction - target).square().mean()
        norms = ((size * direction).norm() - target.norm()) ** 2
        return float((1 - NORM_WEIGHT) * mse + NORM_WEIGHT * norms)

    sizes = [i / 1000 for i in range(1500)]
    best = min(sizes, key=loss)
    assert best == pytest.approx(equilibrium(NORM_WEIGHT, ROWS, D2), abs=1e-3)
    assert min(sizes, key=lambda s: float((s * direction - target).square().mean())) == 0


def test_before_training_every_row_gets_nearly_the_same_answer() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        answers = network(D2, HIDDEN_SIZE)(gaussian(RANK, 2 * D2))
    assert constant_share(answers) > 0.95
    assert float(answers.norm()) > 2 * float(gaussian(RANK, D2).norm())


@pytest.mark.parametrize("norm_weight", [0.0, NORM_WEIGHT])
def test_a_fit_on_noise_keeps_the_constant_row_by_the_norm_term_alone(norm_weight: float) -> None:
    """Nothing can be predicted; with the norm term the answer has the size that the formula says,
    and one row in all places; without it next to no size."""
    v = gaussian(LAYERS, RANK, D2, seed=2)
    settings = Predictor(
        norm_weight=norm_weight, epochs=10, hidden_size=HIDDEN_SIZE, batch_size=ROWS,
        learning_rate=1e-3, weight_decay=0.01,
    )  # fmt: skip
    model = fit(InMemory(v), range(1, LAYERS - 1), settings, seed=0)
    new = gaussian(2, RANK, D2, seed=3)  # rows that it was not fitted on
    with torch.no_grad():
        answers = model(torch.cat([new[0], new[1]], dim=1))
    ratio = float(answers.norm() / gaussian(RANK, D2, seed=4).norm())
    if norm_weight:
        assert ratio == pytest.approx(equilibrium(norm_weight, ROWS, D2), rel=0.15)
        assert constant_share(answers) > 0.5
    else:
        assert ratio < 0.35


def test_signs_turn_the_left_vector_of_a_constant_row() -> None:
    """Its length stays; its cosine to the first is that of random signs: mean 0, and a standard
    deviation of √(Σσ⁴) / Σσ²."""
    u, _ = torch.linalg.qr(torch.randn(40, 20, generator=torch.Generator().manual_seed(0)))
    basis = Basis(u, torch.linspace(3.0, 0.5, 20))
    first = basis.u @ basis.s
    cosines = []
    for seed in range(300):
        other = with_signs(basis, seed)
        vector = other.u @ other.s
        assert float(vector.norm()) == pytest.approx(float(basis.s.norm()), rel=1e-5)
        cosines.append(float(vector @ first / first.square().sum()))
    found = torch.tensor(cosines)
    deviation = float(basis.s.pow(4).sum().sqrt() / basis.s.square().sum())
    assert abs(float(found.mean())) < 4 * deviation / len(cosines) ** 0.5
    assert float(found.std()) == pytest.approx(deviation, rel=0.2)

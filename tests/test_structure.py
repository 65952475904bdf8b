"""Structure against matrices whose singular values and cosines are known by construction."""

from __future__ import annotations

import pytest
import torch

from lesa.method.structure import span_coordinates, structure


def test_rank_one_matrices_have_share_one() -> None:
    left, right = torch.randn(6, 1), torch.randn(1, 9)
    found = structure([left @ right, 3 * left @ right])
    assert found is not None
    assert found.rank_one_share == pytest.approx(1.0)
    assert found.mean_cosine == pytest.approx(1.0)


def test_span_coordinates_keep_inner_products() -> None:
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = span_coordinates(rows)
    assert turned.shape == (5, 5)
    assert torch.allclose(turned @ turned.T, rows @ rows.T, atol=1e-10)


def test_span_coordinates_have_one_sign_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned, svd = span_coordinates(rows), torch.linalg.svd
    flips = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0], dtype=torch.float64)

    def other_solver(matrix: torch.Tensor, full_matrices: bool) -> tuple[torch.Tensor, ...]:
        u, s, vh = svd(matrix, full_matrices=full_matrices)
        return u * flips, s, flips[:, None] * vh

    monkeypatch.setattr(torch.linalg, "svd", other_solver)
    assert torch.equal(span_coordinates(rows), turned)


def test_orthogonal_matrix_spreads_evenly() -> None:
    q, _ = torch.linalg.qr(torch.randn(5, 5))
    found = structure([q])
    assert found is not None
    assert found.rank_one_share == pytest.approx(1 / 5)
    assert found.mean_cosine is None


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_equals_svd_and_pairwise_cosines(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for _ in range(4)]
    found = structure(iter(weights))
    assert found is not None
    shares = [torch.linalg.svdvals(w) for w in weights]
    expected = sum(float(s[0] ** 2 / (s**2).sum()) for s in shares) / 4
    pairs = [
        float(torch.cosine_similarity(weights[i].flatten(), weights[j].flatten(), dim=0))
        for i in range(4)
        for j in range(i)
    ]
    assert found.rank_one_share == pytest.approx(expected, rel=1e-5)
    assert found.mean_cosine == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_none_and_zero_have_no_structure() -> None:
    assert structure([]) is None
    assert structure([torch.zeros(3, 3)]) is None

"""The shared basis of one matrix kind over all layers (docs/method.md steps 1 and 2).

`W = [W_1 … W_L] = U Σ Vᵀ`, `W ∈ R^{d1 × L·d2}`. Left basis and singular values come from the Gram
matrix `W Wᵀ = Σ_i W_i W_iᵀ = U Σ² Uᵀ`, which is `d1 × d1` whatever the depth; coefficients are
made on demand, `V_i = Σ⁻¹ Uᵀ W_i`.

The Gram matrix is accumulated in float64. Its condition number is the square of the
concatenation's; where that is small (some 35 on the default model), float32 finds the eigenvectors
as well as a float32 SVD of the concatenation would, in half the time and memory of float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import scipy.linalg
import torch
from torch import Tensor, nn

ROWS = 512  # of a Gram matrix, computed at once
CONDITION = 100.0  # of a Gram matrix that float32 solves: singular values to about 1e-5 of theirs


@dataclass(frozen=True)
class Basis:
    """`u` (d1, r) float32, orthonormal columns; `s` (r,) float32, descending."""

    u: Tensor
    s: Tensor

    def coefficients(self, weight: Tensor) -> Tensor:
        """`V_i` (r, d2) float32 of a layer's matrix (d1, d2)."""
        return (self.u.T @ weight.float()).div_(self.s[:, None])

    def reconstruct(self, coefficients: Tensor) -> Tensor:
        """`U Σ V_i` (d1, d2) float32."""
        return self.u @ (self.s[:, None] * coefficients)


def gram(weights: Iterable[Tensor]) -> Tensor:
    """`Σ_i W_i W_iᵀ` (d1, d1) float64, one layer in memory at a time."""
    total: Tensor | None = None
    for weight in weights:
        w = weight.double()
        if total is None:
            total = w.new_zeros(len(w), len(w))
        for top in range(0, len(w), ROWS):  # of a symmetric matrix only up to the diagonal
            end = min(top + ROWS, len(w))
            total[top:end, :end].addmm_(w[top:end], w[:end].T)
    if total is None:
        raise ValueError("no weights")
    for top in range(ROWS, len(total), ROWS):
        below = total[top : top + ROWS, :top]
        total[:top, top : top + ROWS] = below.T
    return total


def _kept(u: Tensor, s: Tensor, tolerance: float) -> Basis:
    """Drop singular values below `tolerance` times the largest; fix the columns' signs."""
    rank = int((s > tolerance * s[0]).sum())
    u = u[:, :rank].float().contiguous()
    # A singular vector's sign is arbitrary: make each column's largest entry positive, so that
    # both ways to the basis, and every machine, feed the predictor the same rows.
    u *= torch.where(u.amax(dim=0) >= -u.amin(dim=0), 1.0, -1.0)
    return Basis(u, s[:rank].float().contiguous())


def well_conditioned(gram_matrix: Tensor) -> bool:
    """Is no eigenvalue of a Gram matrix (d1, d1) float32 below 1/CONDITION of the largest?

    So if the matrix less that share of the identity still has a Cholesky factor. The largest comes
    from a power iteration, a few percent too low. The matrix is lost.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(gram_matrix), generator=generator)
    for _ in range(30):
        x = nn.functional.normalize(gram_matrix @ x, dim=0)
    gram_matrix.diagonal().sub_((gram_matrix @ x).norm() / CONDITION)
    _, failed = scipy.linalg.lapack.spotrf(gram_matrix.numpy().T, overwrite_a=True, clean=False)
    return bool(failed == 0)


def eigenvectors(gram_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d1,), descending, and their vectors (d1, d1), on the CPU float32 and in float32
    or float64 arithmetic. The matrix is lost: its memory is given back or used."""
    if gram_matrix.is_cuda:
        values, vectors = torch.linalg.eigh(gram_matrix)
        return values.flip(0), vectors.flip(1)
    # The transpose of a symmetric matrix in C's order is the same one in Fortran's, so LAPACK
    # works in its memory.
    solve = partial(scipy.linalg.eigh, overwrite_a=True, check_finite=False)
    single = gram_matrix.float()
    if well_conditioned(single):
        single.copy_(gram_matrix)
        gram_matrix.data = gram_matrix.new_empty(0)  # frees it, whoever else holds the tensor
        values, vectors = solve(single.numpy().T, driver="evd")
        return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
    del single
    # MRRR holds half of what divide and conquer does, and in float64 takes no longer.
    values, vectors = solve(gram_matrix.numpy().T, driver="evr")
    half = gram_matrix.view(torch.float32).flatten()[: gram_matrix.numel()].view_as(gram_matrix)
    half.numpy()[:] = vectors[:, ::-1]
    return torch.from_numpy(values).flip(0), half


def from_gram(gram_matrix: Tensor, tolerance: float) -> Basis:
    """Basis from a Gram matrix (d1, d1) float64, which is lost."""
    values, vectors = eigenvectors(gram_matrix)
    return _kept(vectors, values.clamp_min(0).sqrt(), tolerance)


def from_concat(weights: Iterable[Tensor], tolerance: float) -> Basis:
    """The paper's literal way, kept as the reference: an SVD of the whole concatenation."""
    u, s, _ = torch.linalg.svd(torch.cat([w.float() for w in weights], dim=1), full_matrices=False)
    return _kept(u, s, tolerance)

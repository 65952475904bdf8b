"""The shared basis of one matrix kind over all layers (docs/method.md steps 1 and 2).

`W = [W_1 … W_L] = U Σ Vᵀ`, `W ∈ R^{d1 × L·d2}`. Left basis and singular values come from the Gram
matrix `W Wᵀ = Σ_i W_i W_iᵀ = U Σ² Uᵀ`, which is `d1 × d1` whatever the depth; coefficients are
made on demand, `V_i = Σ⁻¹ Uᵀ W_i`. Accumulation in float64: the square of the condition number
(some 35 on the default model) is then far from the precision's end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

ROWS = 512  # of a Gram matrix, computed at once


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


def eigenvectors(gram_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d1,) float64, descending, and their vectors (d1, d1), which are float32 on the
    CPU. The matrix is lost: the solver works in its memory, and the vectors stand there."""
    if gram_matrix.is_cuda:
        values, vectors = torch.linalg.eigh(gram_matrix)
        return values.flip(0), vectors.flip(1)
    # LAPACK's MRRR in the matrix's own memory holds half of what torch's driver does, and takes
    # no longer. The transpose of a symmetric matrix in C's order is the same one in Fortran's.
    found = scipy.linalg.eigh(
        gram_matrix.numpy().T, overwrite_a=True, check_finite=False, driver="evr"
    )
    half = gram_matrix.view(torch.float32).flatten()[: gram_matrix.numel()].view_as(gram_matrix)
    half.numpy()[:] = found[1][:, ::-1]
    return torch.from_numpy(found[0][::-1].copy()), half


def from_gram(gram_matrix: Tensor, tolerance: float) -> Basis:
    """Basis from a Gram matrix (d1, d1) float64, which is lost: its memory is used."""
    values, vectors = eigenvectors(gram_matrix)
    return _kept(vectors, values.clamp_min(0).sqrt(), tolerance)


def from_concat(weights: Iterable[Tensor], tolerance: float) -> Basis:
    """The paper's literal way, kept as the reference: an SVD of the whole concatenation."""
    u, s, _ = torch.linalg.svd(torch.cat([w.float() for w in weights], dim=1), full_matrices=False)
    return _kept(u, s, tolerance)

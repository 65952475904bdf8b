"""The shared basis of one matrix kind over all layers (docs/method.md steps 1 and 2).

`W = [W_1 … W_L] = U Σ Vᵀ`, `W ∈ R^{d1 × L·d2}`. The left singular vectors and the singular values
come from the Gram matrix `W Wᵀ = Σ_i W_i W_iᵀ = U Σ² Uᵀ`, which is `d1 × d1` whatever the depth;
the coefficients are computed layer by layer, `V_i = Σ⁻¹ Uᵀ W_i`.

The Gram matrix is accumulated in float64. Its condition number is the square of the
concatenation's; where that is small (some 35 on the default model), float32 finds the eigenvectors
as well as a float32 SVD of the concatenation would, in half the time and memory of float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import scipy.linalg
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lesa.errors import UserError
from lesa.files import write_tensors

ROWS = 512  # of a Gram matrix, computed at once
CONDITION = 100.0  # of a Gram matrix that float32 solves: singular values to about 1e-5 of theirs


@dataclass(frozen=True)
class Basis:
    """`U` and `Σ` of a kind, cut to its rank r.

    u: (d1, r) float32, orthonormal columns. s: (r,) float32, descending and positive.
    """

    u: Tensor
    s: Tensor

    def to(self, device: torch.device) -> Basis:
        return Basis(self.u.to(device), self.s.to(device))

    def coefficients(self, weight: Tensor) -> Tensor:
        """`V_i = Σ⁻¹ Uᵀ W_i` (r, d2) float32 of a layer's matrix (d1, d2) of any dtype."""
        return (self.u.T @ weight.float()).div_(self.s[:, None])

    def reconstruct(self, coefficients: Tensor) -> Tensor:
        """`U Σ V_i` (d1, d2) float32 of coefficients (r, d2)."""
        return self.u @ (self.s[:, None] * coefficients)


def gram(weights: Iterable[Tensor]) -> Tensor:
    """`Σ_i W_i W_iᵀ` (d1, d1) float64 of matrices (d1, d2), one in memory at a time.

    Raises ValueError if there are none.
    """
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
        lower = total[top : top + ROWS, :top]
        total[:top, top : top + ROWS] = lower.T
    return total


def check_not_zero(gram_matrix: Tensor, kind: str) -> None:
    """Raises UserError for a kind whose matrices are zero in all layers."""
    if not gram_matrix.any():
        raise UserError(
            f"{kind}: is zero in all layers, so it has no singular vectors and nothing to predict; "
            "a method without predictors would do"
        )


def fixed_signs(u: Tensor) -> Tensor:
    """For each column of u (d1, n) the 1 or -1 that makes its largest entry positive: (n,).

    A singular vector's sign is arbitrary, and a GPU's solver leaves another than a CPU's.
    """
    return torch.where(u.amax(dim=0) >= -u.amin(dim=0), 1.0, -1.0)


def truncated(u: Tensor, s: Tensor, rank_tolerance: float) -> Basis:
    """The basis without singular values up to `rank_tolerance` times the largest, signs fixed.

    u: (d1, n), orthonormal columns; s: (n,), descending.
    """
    rank = int((s > rank_tolerance * s[0]).sum())
    u = u[:, :rank].float().contiguous()
    u *= fixed_signs(u)  # both ways to the basis feed the predictor the same rows
    return Basis(u, s[:rank].float().contiguous())


def well_conditioned(gram_matrix: Tensor) -> bool:
    """Is no eigenvalue of a Gram matrix (d1, d1) float32 below 1/CONDITION of the largest?

    So if the matrix less that share of the identity still has a Cholesky factor. The largest comes
    from a power iteration, a few percent too low. The matrix is overwritten.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(gram_matrix), generator=generator)
    for _ in range(30):
        x = nn.functional.normalize(gram_matrix @ x, dim=0)
    gram_matrix.diagonal().sub_((gram_matrix @ x).norm() / CONDITION)
    _, failed = scipy.linalg.lapack.spotrf(gram_matrix.numpy().T, overwrite_a=True, clean=False)
    return bool(failed == 0)


def eigenvectors(gram_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d1,), descending, and eigenvectors (d1, d1), in columns, of a Gram matrix.

    The matrix is (d1, d1) float64 and is overwritten or freed. On a GPU all is float64. On the CPU
    the vectors are float32, and the arithmetic is float32 where the matrix is well conditioned.
    """
    if gram_matrix.is_cuda:
        values, vectors = torch.linalg.eigh(gram_matrix)
        return values.flip(0), vectors.flip(1)
    # The transpose of a symmetric matrix in C's order is the same one in Fortran's, so LAPACK
    # works in its memory.
    solve = partial(scipy.linalg.eigh, overwrite_a=True, check_finite=False)
    single = gram_matrix.float()
    if well_conditioned(single):
        single.copy_(gram_matrix)
        gram_matrix.data = gram_matrix.new_empty(0)  # frees it, whoever else refers to the tensor
        values, vectors = solve(single.numpy().T, driver="evd")
        return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
    del single
    # MRRR needs half of the memory of divide and conquer, and in float64 takes no longer.
    values, vectors = solve(gram_matrix.numpy().T, driver="evr")
    # The float32 vectors go into the first half of the Gram matrix's own memory.
    single = gram_matrix.view(torch.float32).flatten()[: gram_matrix.numel()].view_as(gram_matrix)
    single.numpy()[:] = vectors[:, ::-1]
    return torch.from_numpy(values).flip(0), single


def from_gram(gram_matrix: Tensor, rank_tolerance: float) -> Basis:
    """Basis from a Gram matrix (d1, d1) float64, which is overwritten or freed."""
    values, vectors = eigenvectors(gram_matrix)
    return truncated(vectors, values.clamp_min(0).sqrt(), rank_tolerance)


def from_concat(weights: Iterable[Tensor], rank_tolerance: float) -> Basis:
    """The paper's literal way, the reference: a float32 SVD of all (d1, d2) side by side."""
    u, s, _ = torch.linalg.svd(torch.cat([w.float() for w in weights], dim=1), full_matrices=False)
    return truncated(u, s, rank_tolerance)


def raw_basis(d1: int) -> Basis:
    """The basis of "LESA without SVD" (claim C8): `U` is the identity (d1, d1) and `Σ` is 1, so
    that a layer's coefficients are its matrix itself."""
    return Basis(torch.eye(d1), torch.ones(d1))


def with_signs(basis: Basis, seed: int) -> Basis:
    """The basis with each column of U multiplied by 1 or -1, drawn from `seed`.

    An SVD leaves these signs free: `U Σ V_i` stays `W_i`, as a row of `V_i` changes its sign with
    its column. Two bases and one seed share their first signs: give each kind a seed of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, basis.s.shape, generator=generator) * 2.0 - 1.0
    return Basis(basis.u * signs, basis.s)


def lapack_signs(basis: Basis, weights: Iterable[Tensor]) -> Basis:
    """The basis with the signs of U's columns that `torch.linalg.svd` returns.

    weights: the matrices (d1, d2) of all layers, whose SVD is taken anew, side by side in float32:
    `truncated` has lost the signs. They depend on the LAPACK that torch is built with, and on a
    GPU on its solver.
    """
    u, _, _ = torch.linalg.svd(torch.cat([w.float() for w in weights], dim=1), full_matrices=False)
    products = (u[:, : len(basis.s)] * basis.u).sum(dim=0)  # 1 or -1, but for rounding
    return Basis(basis.u * torch.where(products >= 0, 1.0, -1.0), basis.s)


def save_basis(basis: Basis, path: Path) -> None:
    write_tensors(path, {"u": basis.u.cpu(), "s": basis.s.cpu()})


def load_basis(folder: str | Path, kind: str) -> Basis:
    """The basis that `save_basis` wrote as `<kind>.safetensors`, on the CPU."""
    tensors = load_file(Path(folder) / f"{kind}.safetensors")
    return Basis(tensors["u"], tensors["s"])

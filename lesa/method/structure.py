"""What a set of matrices of one kind is made of: is it more than one row, more than one matrix?

A predictor that has learned nothing of its inputs may still lower its loss by answering every row
of every layer with nearly the same row. Its matrices then are close to rank one and close to each
other. A norm shows neither, `structure` shows both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lesa.checkpoints.reader import Checkpoint
from lesa.method.basis import Basis, fixed_signs


@dataclass(frozen=True)
class Structure:
    """rank_one_share: mean of σ₁² / ‖W‖_F² over the matrices, from 1/rank to 1 (rank one).

    mean_cosine: mean over pairs of the cosine between two of the matrices, flattened; None for
    fewer than two.
    """

    rank_one_share: float
    mean_cosine: float | None


def span_coordinates(rows: Tensor) -> Tensor:
    """Rows (n, d) in an orthonormal basis of the space they span: (n, min(n, d)) float64.

    A rotation: every norm, distance and inner product stays, and with them what PCA, t-SNE and
    the continuity test see, in n² numbers in place of n·d. Signs are those of `fixed_signs`.
    """
    u, s, _ = torch.linalg.svd(rows.double(), full_matrices=False)
    coordinates: Tensor = u * (fixed_signs(u) * s)
    return coordinates


def top_rows(basis: Basis, weights: Iterable[Tensor]) -> Tensor:
    """Each layer's coefficients of the first singular vector, as `span_coordinates` has them.

    From matrices (d1, d2), one in memory at a time; (L, min(L, d2)) float64.
    """
    top = Basis(basis.u[:, :1], basis.s[:1])
    return span_coordinates(torch.cat([top.coefficients(weight) for weight in weights]))


def structure(weights: Iterable[Tensor]) -> Structure | None:
    """The structure of matrices (d1, d2), one in memory at a time, computed in float64.

    None if there is no matrix or one of them is zero.
    """
    total: Tensor | None = None
    shares: list[float] = []
    for weight in weights:
        w = weight.double()
        norm = torch.linalg.matrix_norm(w)
        if norm == 0:
            return None
        unit = w / norm
        # σ₁² is the largest eigenvalue of the smaller Gram matrix.
        gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
        shares.append(float(torch.linalg.eigvalsh(gram)[-1]))
        total = unit if total is None else total + unit
    if total is None:
        return None
    n = len(shares)
    # ‖Σ unit‖² is n and twice the sum of the pairs' cosines.
    cosine = (float(total.square().sum()) - n) / (n * (n - 1)) if n > 1 else None
    return Structure(sum(shares) / n, cosine)


def structures(model: Checkpoint, layers: Sequence[int]) -> dict[str, dict[str, Any] | None]:
    """`structure` of each kind's matrices in these layers, as JSON; None where it has none."""
    found = {kind: structure(model.matrix(kind, i) for i in layers) for kind in model.kinds}
    return {kind: asdict(of_kind) if of_kind else None for kind, of_kind in found.items()}

"""The control of one row: LESA's new layers with each predicted matrix reduced to `a·cᵀ`.

A predictor that answers every row of coefficients with one row c predicts `U Σ 1 cᵀ`, a matrix of
rank one whose left vector a = U Σ 1 is the basis's alone. What LESA gains over it is what its
predictor knows of the single rows.
"""

from __future__ import annotations

from torch import Tensor

from baselines.noise import resized
from lesa.method.basis import Basis, load_basis
from lesa.upscaling import lesa
from lesa.upscaling.methods import Layer, Method, Source
from lesa.upscaling.plan import Slot, insert_predicted


def constant_row(basis: Basis, weight: Tensor) -> Tensor:
    """`a·cᵀ` (d1, d2) float32 with a = U Σ 1, c the least-squares fit to `weight` (d1, d2) and its
    Frobenius norm."""
    a = basis.u @ basis.s
    c = weight.float().T @ a / a.dot(a)
    return resized(a.outer(c), weight)


def layer(source: Source, slot: Slot) -> Layer:
    def matrix(kind: str) -> Tensor:
        weight = lesa.predicted(source, kind, slot.neighbours)
        return constant_row(load_basis(source.svd, kind), weight)

    return lesa.assembled(source, slot, matrix)


METHODS = {"constant_row": Method(insert_predicted, layer, fits=1, options=lesa.Options)}

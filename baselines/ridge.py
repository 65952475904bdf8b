"""LESA with a ridge regression in place of the MLP: its coefficients by a closed form.

`V_i ≈ [V_{i-1}, V_{i+1}] B + b`, fitted on all rows of all triples of a kind by squared error
alone, with a penalty on B. It has no seed, no epochs and no norm term; where it predicts nothing,
no linear map of the neighbours does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lesa.checkpoints.reader import Checkpoint
from lesa.machine import compute_device
from lesa.method.basis import Basis, load_basis
from lesa.params import Number
from lesa.upscaling import lesa
from lesa.upscaling.methods import Layer, Method, Source
from lesa.upscaling.plan import Slot, insert_predicted

Regression = tuple[Tensor, Tensor]  # B (2·d2, d2) and b (d2,), float32


class Options(lesa.Options):
    """penalty: on the squares of B, relative to the mean diagonal of the inputs' Gram matrix, which
    is taken about their mean. Far below the least one float64 would not see it."""

    penalty: Annotated[Number, Field(ge=1e-8, allow_inf_nan=False)]


def triples(base: Checkpoint, basis: Basis, kind: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (r, 2·d2) and targets (r, d2) float64 of each three layers in a row."""
    window: deque[Tensor] = deque(maxlen=3)
    for matrix in base.matrices(kind, basis.u.device):
        window.append(basis.coefficients(matrix).double())
        if len(window) == 3:
            lower, target, upper = window
            yield torch.cat([lower, upper], dim=1), target


def regression(
    examples: Iterable[tuple[Tensor, Tensor]], d2: int, penalty: float, device: torch.device
) -> Regression:
    """Ridge regression, on all rows of all examples: inputs (n, 2·d2) and targets (n, d2) float64,
    in parts that lie on `device`. The intercept has no penalty.

    Of the rows their Gram matrix alone is kept, (2·d2 + 1)² numbers, so memory does not grow with
    the depth.
    """
    zeros = partial(torch.zeros, dtype=torch.float64, device=device)
    gram, products = zeros(2 * d2 + 1, 2 * d2 + 1), zeros(2 * d2 + 1, d2)
    for inputs, targets in examples:
        rows = nn.functional.pad(inputs, (0, 1), value=1.0)  # the ones give all sums
        gram.addmm_(rows.T, rows)
        products.addmm_(rows.T, targets)
    n = gram[-1, -1]
    input_mean, target_mean = gram[-1, :-1] / n, products[-1] / n
    centred = gram[:-1, :-1].addr_(input_mean, input_mean, alpha=-float(n))
    centred.diagonal().add_(penalty * centred.diagonal().mean())
    products = products[:-1].addr_(input_mean, target_mean, alpha=-float(n))
    weights = torch.cholesky_solve(products, torch.linalg.cholesky(centred))
    return weights.float(), (target_mean - input_mean @ weights).float()


def regress(source: Source, basis: Basis, kind: str) -> Regression:
    """A kind's regression, made for the first new layer and kept for the others."""
    if kind not in source.memo:
        _, d2 = source.base.shape(kind)
        examples = triples(source.base, basis, kind)
        penalty = source.options.penalty
        source.memo[kind] = regression(examples, d2, penalty, basis.u.device)
    found: Regression = source.memo[kind]
    return found


def layer(source: Source, slot: Slot) -> Layer:
    base, device = source.base, compute_device()

    def matrix(kind: str) -> Tensor:
        basis = load_basis(source.svd, kind).to(device)
        weights, intercept = regress(source, basis, kind)
        neighbours = [basis.coefficients(base.matrix(kind, i).to(device)) for i in slot.neighbours]
        return basis.reconstruct(torch.cat(neighbours, dim=1) @ weights + intercept)

    return lesa.assembled(source, slot, matrix)


METHODS = {"ridge": Method(insert_predicted, layer, bases=True, options=Options)}

"""Are neighbouring layers closer than chance? One number, with a permutation test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
VIEWS = ("raw", "sign-free", "direction")
PERMUTATIONS = 9999


@dataclass(frozen=True)
class Continuity:
    ratio: float  # mean distance of neighbours over mean distance of all pairs; 1 = no order
    p_value: float  # share of random layer orders whose ratio is as small
    random_orders: tuple[float, float] = (1.0, 1.0)  # 95% of them have a ratio between these


def distances(rows: Array, view: str) -> Array:
    """Pairwise Euclidean distances (L x L) of the rows (L x d).

    `raw`: as they are, signs included. `sign-free`: a row and its negative count as the same.
    `direction`: rows scaled to unit length first, so sizes that drift with depth do not count.
    """
    if view == "direction":
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(norms > 0, norms, 1)
    near = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    if view == "sign-free":
        near = np.minimum(near, np.linalg.norm(rows[:, None] + rows[None], axis=-1))
    return np.asarray(near, dtype=np.float64)


def smallest_p(layers: int) -> float:
    """The smallest p-value a test on this many layers can give (an order and its reverse)."""
    return max(2 / math.factorial(layers), 1 / (PERMUTATIONS + 1))


def continuity(rows: Array, view: str) -> Continuity:
    """Test the layer order of `rows` (L x d, L >= 3) against random orders."""
    near = distances(rows, view)
    layers = len(near)
    mean = near[np.triu_indices(layers, 1)].mean()
    if mean <= 1e-12 * np.abs(rows).max():  # all layers equal, up to rounding: no order to find
        return Continuity(1.0, 1.0)
    neighbours = np.diagonal(near, 1).mean()
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(layers), (PERMUTATIONS, 1)), axis=1)
    null = near[orders[:, :-1], orders[:, 1:]].mean(axis=1)
    # The tolerance counts the same order, summed in another sequence, as equal.
    as_small = int((null <= neighbours * (1 + 1e-12)).sum())
    low, high = (float(quantile) for quantile in np.quantile(null / mean, (0.025, 0.975)))
    p_value = (1 + as_small) / (1 + PERMUTATIONS)
    return Continuity(float(neighbours / mean), p_value, (low, high))

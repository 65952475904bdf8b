"""Standard errors for metrics that lm-eval reports without one."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any


def bootstrap_stderr(
    values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float], iterations: int, seed: int
) -> float | None:
    """Standard deviation of `aggregate` over resamples of `values` with replacement.

    `values` holds one entry an example, whatever `aggregate` takes (for word perplexity a pair
    of log-likelihood in nats and word count). None where nothing can be said: fewer than two
    examples or two resamples, or an aggregate that is not finite.
    """
    if len(values) < 2 or iterations < 2:
        return None
    rng = random.Random(seed)
    try:
        resampled = [aggregate(rng.choices(values, k=len(values))) for _ in range(iterations)]
    except OverflowError:  # a perplexity's, of e to a large mean
        return None
    if not all(math.isfinite(value) for value in resampled):
        return None
    return statistics.stdev(resampled)

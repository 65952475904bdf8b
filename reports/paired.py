"""Differences of two models with 95% intervals: paired on the same documents, examples or steps.

Held-out blocks of one document are not independent, so a document is one observation: the mean of
its blocks. Which interval is right at 12 documents was measured on simulated differences (2,000
repetitions; nominal coverage 95%; scipy.stats.bootstrap with 1,999 resamples):

| differences of the documents | t      | percentile bootstrap | BCa bootstrap |
| normal                       | 0.949  | 0.909                | 0.909         |
| t with 3 degrees of freedom  | 0.955  | 0.905                | 0.878         |
| exponential                  | 0.909  | 0.878                | 0.890         |
| lognormal                    | 0.837  | 0.809                | 0.831         |

The t interval covers best in each row, so it is the one used. (scipy's documentation of
`bootstrap` leaves the choice to the data: a percentile interval is as narrow as the sample, whose
variance is (n-1)/n of an unbiased one, and BCa corrects for skew alone.) Bootstrap intervals stay
where there is no closed form: `ratio_of_medians` and `resampled`.

Runs of several seeds are scored on the same documents, so a difference is a table (seeds,
documents) in which a seed shifts a row and a document a column. With normal effects of seed,
document and both, 3 seeds and 12 documents, whose standard deviations are in brackets, `interval`
covered 0.940 (1, 1, 1), 0.963 (0, 1, 1), 0.958 (0.3, 1, 0.5), 0.947 (1, 0.2, 1); drawing seeds and
then documents covered 0.872, 0.942, 0.922 and 0.845. Benchmarks of 3 seeds, as many examples as
study `official` has of its seven tasks, and standard deviations of 0.4 (example) and 0.3 (both):
`by_task` covered 0.959, 0.952, 0.960 and 0.924 where that of a seed is 0, 0.5, 1 and 3 points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 4999
OF_SEEDS = 999  # resamples of seeds and documents: a statistic of each is computed in turn


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; n is the number of documents, examples or repetitions."""

    estimate: float
    low: float
    high: float
    n: int

    def scaled(self, factor: float) -> Interval:
        """The same in another unit, such as percent."""
        return Interval(factor * self.estimate, factor * self.low, factor * self.high, self.n)


def document_means(documents: Sequence[Hashable], block_losses: Sequence[float]) -> Array:
    """Mean loss of each document's blocks (documents,), in order of first appearance.

    documents: the document of each block; block_losses: nats a token, in the same order.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(documents))}
    index = np.array([order[name] for name in documents])
    return np.bincount(index, weights=np.asarray(block_losses)) / np.bincount(index)


def interval(values: npt.ArrayLike) -> Interval:
    """The mean of paired differences with its t interval.

    values: (n,) differences by document or example, or (seeds, n). The interval is empty of
    meaning, and infinite, for n = 1.
    """
    return by_task([values])


def paired(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> Interval:
    """Mean of `ours - theirs`, arrays of one shape: (n,) or (seeds, n)."""
    return interval(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))


def ratio(differences: npt.ArrayLike, sizes: npt.ArrayLike) -> Interval:
    """Sum of differences over sum of sizes: nats over bytes or tokens of texts.

    differences: (n,), or (seeds, n), whose sums are then means over seeds. sizes: (n,). The
    interval is `interval`'s for the linearised ratio (Cochran, Sampling Techniques, section 6.4):
    longer texts count for more.
    """
    values = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    weights = np.asarray(sizes, dtype=np.float64)
    estimate = values.mean(0).sum() / weights.sum()
    return interval(estimate + (values - estimate * weights) / weights.mean())


def by_task(values: Sequence[npt.ArrayLike]) -> Interval:
    """The mean over tasks of each task's mean, with its t interval; n counts all examples.

    values: a task (examples,), or (seeds, examples) with as many seeds in each task.
    """
    tables = [np.atleast_2d(np.asarray(task, dtype=np.float64)) for task in values]
    mean, n = float(np.mean([table.mean() for table in tables])), sum(t.shape[1] for t in tables)
    if min(table.shape[1] for table in tables) == 1:
        return Interval(mean, -np.inf, np.inf, n)
    variance, freedom = of_the_mean(tables)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half, n)


def of_the_mean(tables: Sequence[Array]) -> tuple[float, float]:
    """Variance and degrees of freedom of the mean over tasks (seeds, examples) of their means.

    Tasks are fixed, their examples a sample, and seeds one that all tasks share: crossed random
    effects (Satterthwaite, Biometrics Bulletin 2, 1946). With one task the variance is (MS_seeds +
    MS_examples - MS_residual) / (seeds · n), at least what either of the first two says alone.
    """
    seeds, share = len(tables[0]), len(tables) ** -2.0
    examples, residual, of_seeds = [], [], []  # variances of the mean, with degrees of freedom
    for table in tables:
        n, columns = table.shape[1], table.mean(0)
        examples.append((share * columns.var(ddof=1) / n, n - 1))
        if seeds > 1:
            freedom = (seeds - 1) * (n - 1)
            rest = table - table.mean(1, keepdims=True) - columns + table.mean()
            residual.append((share * (rest**2).sum() / freedom / (seeds * n), freedom))
    if seeds > 1:
        by_seed = np.mean([table.mean(1) for table in tables], axis=0)
        of_seeds.append((by_seed.var(ddof=1) / seeds, seeds - 1))
    among, between, both = (
        sum(variance for variance, _ in part) for part in (examples, of_seeds, residual)
    )
    total = max(among + between - both, among, between)
    squares = sum(variance**2 / freedom for variance, freedom in [*examples, *of_seeds, *residual])
    return float(total), max(float(total**2 / squares), 1.0) if squares else 1.0


def ratio_of_medians(theirs: Sequence[float], ours: Sequence[float]) -> Interval:
    """Median of `theirs` over median of `ours`, repetitions paired, by a percentile bootstrap.

    (BCa would need the jackknife of a median, which takes two values only.)
    """

    def ratio(a: Array, b: Array, axis: int) -> Array:
        return np.asarray(np.median(a, axis) / np.median(b, axis))

    estimate = float(np.median(theirs) / np.median(ours))
    if len(ours) == 1:
        return Interval(estimate, 0.0, np.inf, 1)
    found = stats.bootstrap(
        (theirs, ours),
        ratio,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high), len(ours))


def resampled(statistic: Callable[[Array], float], seeds: int, documents: int) -> Interval:
    """A percentile interval of a statistic of seeds and documents, both drawn with replacement.

    statistic: takes weights (seeds, documents) that sum to 1 and may return infinity. The interval
    is too narrow for few seeds: see the coverage of drawing seeds and documents above.
    """
    rng = np.random.default_rng(0)
    counts = [rng.multinomial(n, np.full(n, 1 / n), size=OF_SEEDS) / n for n in (seeds, documents)]
    values = [statistic(np.outer(a, b)) for a, b in zip(*counts, strict=True)]
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = (float(np.quantile(values, q, method="inverted_cdf")) for q in tails)
    whole = statistic(np.full((seeds, documents), 1 / (seeds * documents)))
    return Interval(whole, low, high, documents)


def exact_share(successes: int, n: int) -> Interval:
    """A share with its Clopper-Pearson interval (exact binomial)."""
    found = stats.binomtest(successes, n).proportion_ci(LEVEL, method="exact")
    return Interval(successes / n, float(found.low), float(found.high), n)


def shares_apart(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> Interval:
    """A share minus another of the same things: (n,) booleans each, paired.

    Newcombe's square-and-add interval (Statistics in Medicine 17, 1998, method 10): Wilson's of
    both shares, and how the two go together. Where few things are told apart, or none, a t interval
    would be too narrow, or of no width.
    """
    first, second = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    n = len(first)
    counts = [int(first.sum()), int(second.sum())]
    both = int((first & second).sum())
    excess = float(both * n - counts[0] * counts[1])  # n² times the covariance
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    margins = math.prod(counts) * math.prod(n - count for count in counts)
    phi = excess / math.sqrt(margins) if margins else 0.0
    (down_1, up_1), (down_2, up_2) = (wilson_margins(count, n) for count in counts)
    gap = (counts[0] - counts[1]) / n

    def half(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * phi * one * other + other**2)

    return Interval(gap, gap - half(down_1, up_2), gap + half(down_2, up_1), n)


def wilson_margins(successes: int, n: int) -> tuple[float, float]:
    """How far Wilson's interval of a share reaches below and above it."""
    found = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return successes / n - float(found.low), float(found.high) - successes / n

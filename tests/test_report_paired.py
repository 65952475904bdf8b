"""Intervals against numpy's few lines, scipy's own tests and simulated coverage."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports import paired
from reports.paired import Interval
from reports.tables import show_interval

RNG = np.random.default_rng(5)


def test_a_paired_difference_in_a_few_lines_of_numpy() -> None:
    documents = [name for name in "abcdefghijkl" for _ in range(3)]
    ours, theirs = RNG.normal(3, 1, size=(2, 36))
    means = [paired.document_means(documents, losses) for losses in (ours, theirs)]
    found = paired.paired(*means)
    # Independently: blocks by document, the mean and its standard error, 2.201 for 11 degrees.
    by_document = (ours - theirs).reshape(12, 3).mean(1)
    error = by_document.std(ddof=1) / 12**0.5
    assert found.estimate == pytest.approx((ours - theirs).mean())
    assert found.low == pytest.approx(by_document.mean() - 2.200985 * error, rel=1e-6)
    assert found.high == pytest.approx(by_document.mean() + 2.200985 * error, rel=1e-6)
    assert found.n == 12


def test_one_seed_is_a_paired_t_test() -> None:
    a, b = RNG.normal(size=(2, 9))
    test = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired.paired(a, b)
    assert (found.low, found.high) == pytest.approx((test.low, test.high))
    assert paired.paired(a[None], b[None]) == found


def test_documents_keep_together_whatever_their_order_and_number_of_blocks() -> None:
    means = paired.document_means(["x", "y", "x", "y", "y"], [1.0, 5.0, 3.0, 6.0, 10.0])
    assert means.tolist() == [2.0, 7.0]


def test_seeds_that_agree_add_nothing_to_the_documents() -> None:
    one = RNG.normal(size=12)
    alone, thrice = paired.interval(one), paired.interval(np.tile(one, (3, 1)))
    assert (alone.low, alone.high) == pytest.approx((thrice.low, thrice.high))


def test_documents_that_agree_leave_the_spread_of_the_seeds() -> None:
    seeds = np.array([0.1, 0.4, 0.2, 0.9])
    found = paired.interval(np.tile(seeds[:, None], (1, 12)))
    test = stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((test.low, test.high))


def test_no_difference_at_all_is_an_interval_of_no_width() -> None:
    assert paired.interval(np.zeros((3, 12))) == Interval(0.0, 0.0, 0.0, 12)
    assert paired.interval([0.5]) == Interval(0.5, -np.inf, np.inf, 1)


@pytest.mark.parametrize("spread", [(0.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.3, 1.0, 0.5)])
def test_intervals_hold_the_true_mean_as_often_as_they_say(
    spread: tuple[float, float, float],
) -> None:
    """Effects of seed, document and both, true mean 0: 95% of the intervals hold it, to ±3%."""
    of_seed, of_document, of_both = spread
    covered = 0
    for _ in range(1000):
        table = of_document * RNG.normal(size=(1, 12))
        if of_seed:
            table = table + of_seed * RNG.normal(size=(3, 1)) + of_both * RNG.normal(size=(3, 12))
        found = paired.interval(table)
        covered += found.low < 0 < found.high
    assert 0.92 < covered / 1000 < 0.98


def test_tasks_count_alike_and_their_errors_add_up() -> None:
    """Of two tasks the interval is Welch's, of a difference whose second sample is negated."""
    tasks = [RNG.normal(size=50), RNG.normal(1, 2, size=200)]
    found = paired.by_task(tasks)
    welch = stats.ttest_ind(tasks[0], -tasks[1], equal_var=False).confidence_interval()
    assert found.estimate == pytest.approx((tasks[0].mean() + tasks[1].mean()) / 2)
    assert (found.low, found.high) == pytest.approx((welch.low / 2, welch.high / 2))
    assert found.n == 250


def test_seeds_that_agree_add_nothing_to_tasks() -> None:
    tasks = [RNG.normal(size=50), RNG.normal(1, 2, size=200)]
    thrice = paired.by_task([np.tile(task, (3, 1)) for task in tasks])
    assert astuple(thrice) == pytest.approx(astuple(paired.by_task(tasks)))


def test_seeds_that_shift_all_tasks_are_a_sample_of_three() -> None:
    shifts = np.array([-1.0, 0.5, 2.0])
    found = paired.by_task([np.tile(shifts[:, None], (1, n)) for n in (50, 200)])
    alone = stats.ttest_1samp(shifts, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize(("of_seed", "of_example"), [(0.0, 0.4), (0.02, 0.3), (0.1, 0.4)])
def test_intervals_over_tasks_and_seeds_hold_the_true_mean(
    of_seed: float, of_example: float
) -> None:
    """Differences of accuracies: 3 seeds, tasks of 30 to 60 examples; 95% hold it, to ±3%."""
    covered = 0
    for _ in range(1000):
        shift = of_seed * RNG.normal(size=(3, 1))
        tasks = [
            shift + of_example * RNG.normal(size=(1, n)) + 0.3 * RNG.normal(size=(3, n))
            for n in (30, 45, 60)
        ]
        found = paired.by_task(tasks)
        covered += found.low < 0 < found.high
    assert 0.92 < covered / 1000 < 0.98


def test_a_ratio_that_never_changes_has_no_width() -> None:
    ours = RNG.uniform(1, 9, size=41).tolist()
    found = paired.ratio_of_medians([1.25 * x for x in ours], ours)
    assert (found.estimate, found.low, found.high) == pytest.approx((1.25, 1.25, 1.25))
    noisy = [1.25 * x * y for x, y in zip(ours, RNG.uniform(0.9, 1.1, size=41), strict=True)]
    again = [paired.ratio_of_medians(noisy, ours) for _ in range(2)]
    assert again[0] == again[1]
    assert again[0].low < again[0].estimate < again[0].high


def test_resampling_a_mean_spreads_as_its_standard_error() -> None:
    """The percentile interval of a mean over documents is ±1.96 of its (biased) standard error."""
    values = RNG.normal(size=(1, 200))
    found = paired.resampled(lambda weights: float((weights * values).sum()), 1, 200)
    error = values.std() / 200**0.5
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_share_has_the_exact_binomial_interval() -> None:
    found = paired.exact_share(20, 20)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 20))  # closed form where all succeed
    assert paired.exact_share(5, 5).low < 0.5 < paired.exact_share(6, 6).low


def table_of(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Pairs of which so many are right in both, in one alone or in neither."""
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second
    ours, theirs = zip(*pairs, *[(False, False)] * neither, strict=True)
    return list(ours), list(theirs)


def test_paired_shares_have_the_published_interval() -> None:
    """Newcombe (1998), the table 36, 12, 2, 0 by his method 10."""
    found = paired.shares_apart(*table_of(36, 12, 2, 0))
    assert (found.estimate, found.n) == (0.2, 50)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0569, 0.3404)


def test_paired_shares_that_never_differ_are_not_told_to_be_equal() -> None:
    """With no success at all, Wilson's bound of a share of 0, z²/(n + z²), to either side."""
    found = paired.shares_apart(*table_of(0, 0, 0, 164))
    bound = 1.959964**2 / (164 + 1.959964**2)
    assert (found.estimate, found.low, found.high) == pytest.approx((0, -bound, bound))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_shares_are_mirrored_when_the_models_change_places(pairs: list[Any]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    found, other = paired.shares_apart(ours, theirs), paired.shares_apart(theirs, ours)
    assert found.estimate == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert (found.low, found.high) == pytest.approx((-other.high, -other.low))
    assert -1 <= found.low <= found.estimate <= found.high <= 1


def test_the_interval_of_paired_shares_covers_as_it_says() -> None:
    """Shares of 4% and 2% of 164 problems, as HumanEval's of a small model are."""
    rng, true = np.random.default_rng(0), 0.02
    counts = rng.multinomial(164, [0.015, 0.025, 0.005, 0.955], size=800)
    found = [paired.shares_apart(*table_of(*count)) for count in counts.tolist()]
    covered = np.mean([one.low <= true <= one.high for one in found])
    assert 0.93 < covered < 0.99


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (Interval(-0.0431, -0.0612, -0.0250, 9), "-0.043 [-0.061, -0.025]"),
        (
            Interval(0.48, 0.039, 0.920, 9),
            "0.48 [0.04, 0.92]",
        ),  # 0.5 [0.0, 0.9] would decide nothing
        (Interval(0.0064, 0.0002, 0.0126, 9), "0.0064 [0.0002, 0.0126]"),
        (Interval(0.5, 0.0, 1.0, 9), "0.5 [0.0, 1.0]"),  # an end at 0 is no other
        (Interval(0.5, -1e-9, 1.0, 9), "0.5 [-0.0, 1.0]"),  # nor is one as near as rounding
    ],
)
def test_an_interval_shows_on_which_side_of_zero_it_ends(found: Interval, shown: str) -> None:
    assert show_interval(found) == shown

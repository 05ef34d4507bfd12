"""How orders agree: known taus and shares, and intervals that hold them."""

import numpy as np
import pytest
from scipy import stats

from harness.stats import ranks


def test_tau_is_scipys_with_an_interval_over_prompts() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=200)
    second = first + rng.normal(size=200)
    estimate = ranks.tau(first, second, np.repeat(np.arange(50), 4))
    assert estimate.value == stats.kendalltau(first, second).statistic
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.samples, estimate.clusters) == (200, 50)
    # Jackknife and theory agree where prompts do not matter: the variance of tau is at most 2 (1 - tau^2) / n.
    assert estimate.high - estimate.low < 2 * 2.1 * np.sqrt(2 * (1 - estimate.value**2) / 200)


def test_tau_of_few_or_equal_numbers_is_undefined_or_unbounded() -> None:
    assert np.isnan(ranks.tau([], [], []).value)
    assert np.isnan(ranks.tau([1, 1, 1], [1, 2, 3], [0, 1, 2]).value)
    one = ranks.tau([1, 2, 3], [1, 2, 3], [0, 0, 0])
    assert one.value == 1
    assert not one.bounded


def test_the_interval_of_tau_holds_the_truth() -> None:
    """Tau of two normal variables of correlation r is 2 / pi arcsin r (Kruskal 1958)."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        first = rng.normal(size=60)
        estimate = ranks.tau(first, 0.6 * first + 0.8 * rng.normal(size=60), np.arange(60))
        held += estimate.low <= 2 / np.pi * np.arcsin(0.6) <= estimate.high
    assert 182 <= held <= 198


def test_accuracy_counts_decided_pairs_and_half_of_undecided_values() -> None:
    estimate = ranks.accuracy([1, -2, 3, 0, 5], [1, 1, 2, 1, 0], [0, 1, 2, 3, 4])
    assert estimate.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert estimate.samples == 4
    assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    assert np.isnan(ranks.accuracy([1], [0], [0]).value)
    assert np.isnan(ranks.accuracy([0, 0], [1, -1], [0, 1]).value)


def test_a_rater_is_held_to_the_others() -> None:
    # Two of three agree: each of the two meets a tie of the others, and the third contradicts both.
    estimate = ranks.against_the_others([[1, 1, -1]], [0])
    assert (estimate.samples, estimate.value) == (1, 0)
    assert ranks.against_the_others([[1, 1, 1], [-1, -1, -1]], [0, 1]).value == 1
    assert ranks.against_the_others([[1]], [0]).samples == 0

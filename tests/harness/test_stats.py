"""Intervals against closed forms, simulated coverage, and the dependence that clusters state."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as truth

from harness.stats import (
    BOOTSTRAP_CLUSTERS,
    clustered_mean,
    clustered_statistic,
    expanded_level,
    median_half_width,
    paired_difference,
    percentile,
    supports_percentile,
)


def test_mean_by_hand() -> None:
    found = clustered_mean([1.0, 2.0, 6.0], ["a", "a", "b"])
    assert found.value == 3.0
    assert (found.samples, found.clusters) == (3, 2)
    assert found.low <= 3.0 <= found.high


def test_five_seeds_of_a_prompt_are_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=20)
    once = clustered_mean(prompts, np.arange(20))
    fivefold = clustered_mean(np.repeat(prompts, 5), np.repeat(np.arange(20), 5))
    naive = clustered_mean(np.repeat(prompts, 5), np.arange(100))
    assert (fivefold.low, fivefold.high) == pytest.approx((once.low, once.high))
    assert (naive.high - naive.low) < 0.6 * (once.high - once.low)


@pytest.mark.parametrize("clusters", [7, 30])
def test_interval_covers_the_truth(clusters: int) -> None:
    rng = np.random.default_rng(clusters)
    labels = np.repeat(np.arange(clusters), 3)
    hits = 0
    for study in range(300):
        values = np.repeat(rng.normal(size=clusters), 3) + rng.normal(scale=0.5, size=labels.size)
        found = clustered_mean(values, labels, resamples=500, seed=study)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 300 <= 0.98


def test_many_clusters_agree_with_the_t_interval() -> None:
    values = np.random.default_rng(3).exponential(size=BOOTSTRAP_CLUSTERS + 500)
    found = clustered_mean(values, np.arange(values.size))
    reference = truth.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-3)


def test_bootstrap_and_linearised_intervals_agree_where_they_meet() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, BOOTSTRAP_CLUSTERS + 1, size=4000)
    labels[: BOOTSTRAP_CLUSTERS + 1] = np.arange(BOOTSTRAP_CLUSTERS + 1)
    values = rng.normal(size=4000)
    linear = clustered_mean(values, labels)
    inside = labels < BOOTSTRAP_CLUSTERS
    resampled = clustered_mean(values[inside], labels[inside])
    assert resampled.high - resampled.low == pytest.approx(linear.high - linear.low, rel=0.1)


def test_a_statistic_of_ones_own() -> None:
    values = np.random.default_rng(5).normal(size=60)
    labels = np.repeat(np.arange(20), 3)
    plain = clustered_mean(values, labels)
    own = clustered_statistic(values, labels, lambda pooled: 100 * float(np.mean(pooled)))
    assert own.value == pytest.approx(100 * plain.value)
    assert own.high - own.low == pytest.approx(100 * (plain.high - plain.low), rel=0.15)


def test_pairing_removes_what_the_arms_share() -> None:
    rng = np.random.default_rng(6)
    prompts = np.repeat(np.arange(25), 2)
    shared = rng.normal(scale=5, size=50)
    first, second = shared + 0.3, shared + rng.normal(scale=0.1, size=50)
    found = paired_difference(first, second, prompts)
    assert found.low <= 0.3 <= found.high
    assert found.high - found.low < 0.2


def test_what_is_undefined_says_so() -> None:
    empty = clustered_mean([], [])
    assert np.isnan(empty.value)
    assert not empty.bounded
    alone = clustered_mean([0.5, 0.7], ["a", "a"])
    assert alone.value == pytest.approx(0.6)
    assert not alone.bounded
    assert expanded_level(0.95, 1) == 0.95
    with pytest.raises(ValueError, match="finite"):
        clustered_mean([1.0, float("nan")], ["a", "b"])
    with pytest.raises(ValueError, match="cluster labels"):
        clustered_mean([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="differ in number"):
        paired_difference([1.0], [1.0, 2.0], ["a"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 6)), min_size=1, max_size=30), st.randoms())
def test_order_of_samples_does_not_matter(rows: list[tuple[float, int]], random: object) -> None:
    shuffled = sorted(rows, key=lambda row: (row[1], row[0]))
    one = clustered_mean([v for v, _ in rows], [c for _, c in rows], resamples=99)
    two = clustered_mean([v for v, _ in shuffled], [c for _, c in shuffled], resamples=99)
    assert one.value == pytest.approx(two.value, abs=1e-9)
    if one.bounded:
        assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-9)


@pytest.mark.parametrize(("percent", "least"), [(50, 5), (90, 29), (99, 299), (10, 29)])
def test_a_percentile_needs_enough_samples_to_be_bounded(percent: float, least: int) -> None:
    # By hand: the smallest n with 1 - p^n >= 0.95.
    assert not supports_percentile(percent, least - 1)
    assert supports_percentile(percent, least)
    assert math.isnan(percentile(np.arange(least - 1), percent))
    assert percentile(np.arange(least), percent) == pytest.approx((least - 1) * percent / 100)


def test_the_median_interval_holds_the_median_as_often_as_it_says() -> None:
    # Order statistics 2 and 9 of 10 hold the median with probability 1 - 2 x 11 / 1024 = 0.979.
    samples = np.arange(1.0, 11.0)
    assert median_half_width(samples) == pytest.approx((9 - 2) / 2 / 5.5)
    assert math.isnan(median_half_width(samples[:5]))
    assert median_half_width([2.0] * 6) == 0

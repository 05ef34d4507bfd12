"""Intervals against closed forms, simulated coverage, and the dependence that clusters state."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as truth

from harness.stats.estimates import (
    BOOTSTRAP_CLUSTERS,
    chance_of_lower,
    clustered_mean,
    clustered_statistic,
    expanded_level,
    holm,
    median_half_width,
    paired_effect,
    percentile,
    ratio_of_medians,
    smallest_difference,
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


@pytest.mark.parametrize("clusters", [2, 3, 5, 7, 8, 30])
def test_interval_covers_the_truth(clusters: int) -> None:
    rng = np.random.default_rng(clusters)
    labels = np.repeat(np.arange(clusters), 3)
    hits = 0
    for study in range(1000):
        values = np.repeat(rng.normal(size=clusters), 3) + rng.normal(scale=0.5, size=labels.size)
        found = clustered_mean(values, labels, resamples=500, seed=study)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_few_clusters_give_the_t_interval() -> None:
    values = [0.2, 0.4, 0.9]
    found = clustered_mean(np.repeat(values, 2), np.repeat(np.arange(3), 2))
    reference = truth.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    own = clustered_statistic(values, [0, 1, 2], lambda pooled: 10 * float(np.mean(pooled)))
    assert (own.low, own.high) == pytest.approx((10 * reference.low, 10 * reference.high))


def test_prompts_that_all_pass_count_once_each() -> None:
    once, often = (clustered_mean(np.ones(24 * m), np.repeat(np.arange(24), m), share=True) for m in (1, 5))
    # By hand: 24 passes of 24 have a chance of 0.025 where the share is 0.025^(1/24).
    assert once.low == often.low == pytest.approx(0.025 ** (1 / 24))
    assert once.high == 1
    with pytest.raises(ValueError, match="share"):
        clustered_mean([0.5, 2.0], ["a", "b"], share=True)


@pytest.mark.parametrize(("share", "prompts"), [(0.7, 12), (0.95, 24), (0.98, 48), (0.97, 6)])
def test_the_interval_of_a_share_covers_the_truth(share: float, prompts: int) -> None:
    rng, hits = np.random.default_rng(prompts), 0
    for _ in range(1000):
        chances = np.repeat(rng.beta(4 * share, 4 * (1 - share), size=prompts), 2)
        passed = (rng.random(chances.size) < chances).astype(float)
        found = clustered_mean(passed, np.repeat(np.arange(prompts), 2), share=True)
        hits += found.low <= share <= found.high
    assert hits / 1000 >= 0.93


def test_equal_values_without_known_bounds_leave_no_interval() -> None:
    # 0.1 + 0.1 + 0.1 is not 3 x 0.1 in floating point; clips may vary where prompts do not.
    for values in ([0.1] * 30, [0.25, 0.5, 0.75] * 10):
        for prompts in (np.repeat(np.arange(10), 3), np.repeat(np.arange(5), 6)):
            plain = clustered_mean(values, prompts)
            own = clustered_statistic(values, prompts, lambda pooled: float(np.mean(pooled)))
            assert (plain.value, own.value) == pytest.approx((np.mean(values), np.mean(values)))
            assert not plain.bounded
            assert not own.bounded


def test_changes_that_are_all_equal_leave_neither_interval_nor_p() -> None:
    first = np.random.default_rng(2).random(12)
    for second in (first, first + 0.1):
        found = paired_effect(first, second, np.repeat(np.arange(6), 2))
        assert found.estimate.value == pytest.approx(float(np.mean(second - first)))
        assert not found.estimate.bounded
        assert found.error == 0
        assert math.isnan(found.p)
        assert math.isnan(found.detectable())


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
    found = paired_effect(second, first, prompts).estimate
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
        paired_effect([1.0], [1.0, 2.0], ["a"])


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


def test_holm_by_hand() -> None:
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each no less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).size == 0


def test_with_one_seed_the_effect_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(7)
    first = rng.normal(size=15)
    second = first + 0.2 + rng.normal(scale=0.3, size=15)
    found = paired_effect(first, second, np.arange(15))
    assert found.p == pytest.approx(truth.ttest_rel(second, first).pvalue)
    assert found.error == pytest.approx(truth.sem(second - first))
    assert found.estimate.value == pytest.approx(np.mean(second - first))
    assert math.isnan(paired_effect([1.0], [2.0], ["a"]).p)


def test_the_smallest_difference_is_cohens() -> None:
    # Half a standard deviation needs 34 pairs for a power of 0.8 (Cohen 1988, table 2.4.1, and any power program).
    assert smallest_difference(1 / math.sqrt(33), 32) > 0.5 > smallest_difference(1 / math.sqrt(34), 33)
    # With many degrees of freedom z[0.975] + z[0.8].
    assert smallest_difference(1.0, 10_000) == pytest.approx(1.959964 + 0.841621, abs=1e-3)
    assert smallest_difference(1.0, 1) > smallest_difference(1.0, 2) > smallest_difference(1.0, 5)
    assert math.isnan(smallest_difference(float("nan"), 0))
    assert math.isnan(smallest_difference(0.0, 5))


def test_ratio_of_medians_by_hand() -> None:
    assert ratio_of_medians([[1, 2, 3]], [[2, 4, 9]]).estimate.value == pytest.approx(2)
    # Rounds 2 and 8 times as large: their geometric mean, whatever a round does to both arms.
    assert ratio_of_medians([[1, 1], [50, 50]], [[2, 2], [400, 400]]).estimate.value == pytest.approx(4)
    # One sample a round: ratios 3, 2 and 5/3.
    assert ratio_of_medians([[1], [2], [3]], [[3], [4], [5]]).estimate.value == pytest.approx(10 ** (1 / 3))
    assert not ratio_of_medians([[1.0]], [[2.0]]).estimate.bounded
    assert not ratio_of_medians([[1.0, 1.1, 1.2, 0.9, 0.8]], [[2.0] * 5]).estimate.bounded
    with pytest.raises(ValueError, match="positive"):
        ratio_of_medians([[0.0, 1.0]], [[1.0, 1.0]])
    with pytest.raises(ValueError, match="differ in number"):
        ratio_of_medians([[1.0]], [])


def test_over_a_thousand_studies_the_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    labels, hits = np.repeat(np.arange(24), 2), 0
    for study in range(1000):
        first = rng.normal(size=48)
        second = first + 0.3 + np.repeat(rng.normal(scale=0.4, size=24), 2) + rng.normal(scale=0.2, size=48)
        found = clustered_mean(second - first, labels, resamples=500, seed=study)
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_over_rounds_the_ratio_is_the_paired_t_test_of_log_medians() -> None:
    rng = np.random.default_rng(10)
    first, second = np.exp(0.1 * rng.normal(size=(2, 4, 9)))
    found = ratio_of_medians(list(first), list(second))
    logs = [np.log(np.median(side, axis=1)) for side in (first, second)]
    reference = truth.ttest_rel(logs[1], logs[0])
    ends = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    assert found.freedom == 3
    # Two rounds by hand: ratios e^0.1 and e^0.3, so 0.2 with standard error 0.1, and t[0.975, 1] = 12.706.
    two = ratio_of_medians([[1.0], [1.0]], [[math.exp(0.1)], [math.exp(0.3)]])
    assert math.log(two.estimate.high) == pytest.approx(0.2 + 1.2706, abs=1e-4)
    assert two.error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ([[1474560.0]] * 3, [[215040.0]] * 3, 0.1458333),
        ([[7.0], [9.0]], [[7.0], [9.0]], 1.0),
        ([[3.0] * 8], [[6.0] * 8], 2.0),
        ([[3.0] * 8], [[*[6.0] * 49, 7.0]], 2.0),
    ],
)
def test_rounds_or_samples_that_agree_leave_neither_interval_nor_p(
    first: list[list[float]], second: list[list[float]], ratio: float
) -> None:
    found = ratio_of_medians(first, second)
    assert found.estimate.value == pytest.approx(ratio)
    assert not found.estimate.bounded
    assert found.error == 0
    assert math.isnan(found.p)


@pytest.mark.parametrize(("rounds", "samples", "start"), [(1, 10, 0.0), (2, 10, 0.0), (3, 10, 0.03), (4, 1, 0.03)])
def test_over_a_thousand_studies_the_ratio_interval_holds_the_truth_as_often_as_it_says(
    rounds: int, samples: int, start: float
) -> None:
    rng, hits = np.random.default_rng(9), 0
    for study in range(1000):
        shifts = 0.1 * rng.normal(size=(rounds, 1)) + start * rng.normal(size=(2, rounds, 1))
        first, second = np.exp(shifts + 0.05 * rng.normal(size=(2, rounds, samples)))
        found = ratio_of_medians(list(first), list(1.1 * second), resamples=1000, seed=study).estimate
        hits += found.low <= 1.1 <= found.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_the_chance_of_a_lower_sample_by_hand() -> None:
    # All three of the first below all three of the second: one order of C(6, 3) = 20; the other way round, all of them.
    assert chance_of_lower([1, 2, 3], [4, 5, 6]) == pytest.approx(1 / 20)
    assert chance_of_lower([4, 5, 6], [1, 2, 3]) == 1
    # One swap from complete order: two of the twenty orders are at least as extreme.
    assert chance_of_lower([1, 2, 4], [3, 5, 6]) == pytest.approx(2 / 20)

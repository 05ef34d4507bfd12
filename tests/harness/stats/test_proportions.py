"""Intervals of shares against published examples, an independent maximum of the likelihood, and every small table."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as truth
from statsmodels.stats.contingency_tables import mcnemar

from harness.stats.estimates import Effect, clustered_mean, paired_effect
from harness.stats.proportions import PSEUDO_PROMPTS, Floats, PairedShares, paired_shares, smallest_share_difference

Z = 1.959964


def paired(both: int, gained: int, lost: int, neither: int, seeds: int = 1) -> Effect:
    """Of a table of prompts, each with `seeds` equal clips."""
    first = [1.0] * both + [0.0] * gained + [1.0] * lost + [0.0] * neither
    second = [1.0] * both + [1.0] * gained + [0.0] * lost + [0.0] * neither
    return paired_effect(
        np.repeat(first, seeds), np.repeat(second, seeds), np.repeat(np.arange(len(first)), seeds), share=True
    )


def test_the_published_example_of_the_score_interval() -> None:
    # Airway hyper-responsiveness of 21 children before and after a transplantation: Fagerland, Lydersen and Laake,
    # Recommended Tests and Confidence Intervals for Paired Binomial Proportions, Statistics in Medicine 33 (2014):
    # Tango's interval is (-0.517, -0.026), McNemar's p-value 0.034.
    found = paired(1, 1, 7, 12)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert found.p == pytest.approx(0.0339, abs=5e-5)


@pytest.mark.parametrize("table", [(1, 1, 7, 12), (59, 23, 3, 37), (20, 0, 4, 0), (0, 3, 3, 0), (43, 0, 1, 0)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_p_value_is_mcnemars_and_seeds_that_agree_add_nothing(table: tuple[int, int, int, int], seeds: int) -> None:
    both, gained, lost, neither = table
    found, once = paired(*table, seeds=seeds), paired(*table)
    reference = mcnemar([[both, gained], [lost, neither]], exact=False, correction=False)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((once.estimate.low, once.estimate.high))


def restricted(gained: int, lost: int, count: int, difference: float) -> float:
    """The score statistic, its nuisance share found by a numerical maximum of the trinomial likelihood."""

    def unlikely(share: float) -> float:
        shares = (share + difference, share, 1 - 2 * share - difference)
        counts = (gained, lost, count - gained - lost)
        return -sum(n * math.log(p) for n, p in zip(counts, shares, strict=True) if n)

    least, most = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
    found = optimize.minimize_scalar(unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-12})
    variance = (2 * found.x + difference * (1 - difference)) / count
    return float((gained - lost - count * difference) / count / math.sqrt(variance))


@pytest.mark.parametrize("table", [(3, 1, 7, 10), (59, 23, 3, 37), (20, 2, 4, 0), (1, 3, 3, 5), (90, 1, 5, 4)])
def test_at_its_ends_the_score_statistic_is_the_normal_quantile(table: tuple[int, int, int, int]) -> None:
    found = paired(*table).estimate
    for end, reach in ((found.low, Z), (found.high, -Z)):
        assert restricted(table[1], table[2], sum(table), end) == pytest.approx(reach, abs=2e-3)


@pytest.mark.parametrize("prompts", [2, 6, 24, 128])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_where_no_pair_differs_the_interval_has_the_width_of_the_prompts(prompts: int, seeds: int) -> None:
    for found in (paired(prompts, 0, 0, 0, seeds), paired(0, 0, 0, prompts, seeds)):
        reach = Z**2 / (prompts + Z**2)
        assert (found.estimate.low, found.estimate.high) == pytest.approx((-reach, reach))
        assert (found.estimate.value, found.p) == (0, 1)
    every = paired(0, prompts, 0, 0, seeds).estimate
    assert (every.value, every.high) == (1, 1)
    assert every.low < 1 - 1 / (prompts + 4)


@pytest.mark.parametrize("prompts", [6, 12, 24])
def test_over_every_table_the_interval_holds_the_truth_as_often_as_it_says(prompts: int) -> None:
    tables = [(g, p - g) for p in range(prompts + 1) for g in range(p + 1)]
    ends = np.array([(e.low, e.high) for g, b in tables if (e := paired(prompts - g - b, g, b, 0).estimate)])
    gained, lost = np.array(tables).T
    held, wrongly_same = [], []
    for up, down in product([0.0, 0.01, 0.03, 0.07, 0.15, 0.3], repeat=2):
        chances = truth.multinomial.pmf(
            np.stack([gained, lost, prompts - gained - lost], -1), prompts, [up, down, 1 - up - down]
        )
        inside = (ends[:, 0] <= up - down + 1e-9) & (ends[:, 1] >= up - down - 1e-9)
        held.append(chances[inside].sum())
        floor = abs(up - down) - 1e-9
        wrongly_same.append(chances[(ends[:, 0] >= -floor) & (ends[:, 1] <= floor)].sum())
    assert min(held) > 0.93
    assert max(wrongly_same) < 0.05


def passes(rng: np.random.Generator, shape: tuple[int, int, int], shares: tuple[float, float], own: float) -> Floats:
    """Passes [studies, prompts, seeds, arms] by thresholds of normal numbers that prompts and arms share parts of.

    `own` is the part of the variance that clips of one prompt of one arm share.
    """
    studies, prompts, seeds = shape
    parts = (
        (0.3, (studies, prompts, 1, 1)),
        (own, (studies, prompts, 1, 2)),
        (0.7 - own, (studies, prompts, seeds, 2)),
    )
    sums = sum(math.sqrt(part) * rng.normal(size=size) for part, size in parts)
    return np.asarray(sums < truth.norm.ppf(shares), dtype=np.float64)


@pytest.mark.parametrize(
    ("prompts", "seeds", "shares"),
    [(6, 1, (1.0, 0.9)), (24, 2, (1.0, 0.97)), (24, 2, (0.99, 0.96)), (24, 1, (0.98, 0.93)), (48, 5, (1.0, 0.97))],
)
def test_paired_shares_near_an_end_are_held_and_not_called_the_same(
    prompts: int, seeds: int, shares: tuple[float, float]
) -> None:
    labels, true = np.repeat(np.arange(prompts), seeds), shares[1] - shares[0]
    drawn = passes(np.random.default_rng(prompts), (600, prompts, seeds), shares, 0.5).reshape(600, -1, 2)
    found = [paired_effect(study[:, 0], study[:, 1], labels, share=True).estimate for study in drawn]
    assert np.mean([e.low <= true <= e.high for e in found]) >= 0.93
    assert np.mean([true < e.low and e.high < -true for e in found]) <= 0.05


def test_clips_that_differ_within_prompts_count_between_prompts_and_clips() -> None:
    def count(gains: list[float], sizes: list[float]) -> float:
        found: PairedShares = paired_shares(np.array(gains), np.zeros(len(gains)), np.array(sizes), 0.95)
        return found.count

    # Kish: (sum m)^2 / sum m^2 prompts of unequal size, where no pair differs.
    assert count([0, 0, 0], [1, 2, 3]) == pytest.approx(36 / 14)
    # By hand, 4 prompts of 2: one clip of 8 gains. Mean 1/8; prompts deviate by 3/4 and thrice 1/4 from it, so 4/3 x
    # 0.75 = 1 between them; single clips 8 (1/8 - 1/64) = 0.875.
    effect = (1 + PSEUDO_PROMPTS * 4) / (0.875 + PSEUDO_PROMPTS * 2)
    assert count([1, 0, 0, 0], [2, 2, 2, 2]) == pytest.approx(8 / effect)
    assert count([1, 1, 1, 1], [2, 2, 2, 2]) == pytest.approx(8)  # clips of a prompt that never agree


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_swapped_arms_swap_the_ends(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, labels = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    there, back = (paired_effect(a, b, labels, share=True) for a, b in ((first, second), (second, first)))
    if not there.estimate.bounded:
        assert np.unique(labels).size == 1
        return
    assert -1 <= there.estimate.low <= there.estimate.value <= there.estimate.high <= 1
    assert there.estimate.high > there.estimate.low
    assert (there.estimate.low, there.estimate.high, there.p) == pytest.approx(
        (-back.estimate.high, -back.estimate.low, back.p), abs=1e-8
    )
    assert (there.p > 0.05) == (there.estimate.low < 0 < there.estimate.high)


@pytest.mark.parametrize("prompts", [6, 12, 24, 48, 128])
def test_the_smallest_difference_of_shares_is_found_in_four_of_five_studies(prompts: int) -> None:
    # No pair differs but by the change: McNemar's test finds it with four pairs that differ or more.
    change = smallest_share_difference(0.0, prompts)
    assert truth.binom.sf(3, prompts, change) == pytest.approx(0.8, abs=0.08)
    # Of pairs that differ anyway: Connor, Sample Size for Testing Differences in Proportions for the Paired-Sample
    # Design, Biometrics 43 (1987).
    change = smallest_share_difference(0.3, 10 * prompts)
    connor = (Z * math.sqrt(0.3) + 0.841621 * math.sqrt(0.3 - change**2)) ** 2 / change**2
    assert connor == pytest.approx(10 * prompts, rel=0.15)
    assert math.isnan(smallest_share_difference(0.0, 3))


@pytest.mark.parametrize(("passed", "clips"), [(24, 24), (21, 24), (0, 24), (3, 6), (5, 6)])
def test_with_one_clip_a_prompt_a_share_has_the_exact_interval(passed: int, clips: int) -> None:
    found = clustered_mean([1.0] * passed + [0.0] * (clips - passed), np.arange(clips), share=True)
    reference = truth.binomtest(passed, clips).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize(("prompts", "seeds", "share"), [(24, 2, 0.99), (24, 2, 0.995), (6, 5, 0.97), (48, 5, 0.97)])
def test_a_share_near_an_end_is_held(prompts: int, seeds: int, share: float) -> None:
    labels, drawn = np.repeat(np.arange(prompts), seeds), np.random.default_rng(prompts)
    studies = passes(drawn, (600, prompts, seeds), (share, share), 0.6)[..., 0].reshape(600, -1)
    found = [clustered_mean(study, labels, share=True) for study in studies]
    assert np.mean([e.low <= share <= e.high for e in found]) >= 0.93

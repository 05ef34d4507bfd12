"""Strengths of arms from votes: known truths, votes that leave no spread, and clusters of both kinds."""

from itertools import combinations

import numpy as np
import pytest
from scipy import optimize

from harness.stats.crossed import alpha, crossed, means
from harness.stats.preferences import FIRST, SECOND, TIE, BradleyTerry


def test_the_fit_is_the_top_of_the_penalised_likelihood() -> None:
    pairs = list(combinations(range(3), 2))
    totals = np.array([12.0, 3, 5, 9, 4, 2, 6, 6, 8])

    def minus(parameters: np.ndarray) -> float:
        strengths, tie, total = [*parameters[:2], -parameters[:2].sum()], parameters[2], 0.0
        for (first, second), counts in zip(pairs, totals.reshape(-1, 3) + 3 / 9, strict=True):
            apart = (strengths[first] - strengths[second]) / 2
            logits = np.array([apart, tie, -apart])
            total -= counts @ (logits - np.log(np.exp(logits).sum()))
        return float(total)

    best = optimize.minimize(minus, np.zeros(3), tol=1e-12)
    fitted = BradleyTerry(pairs).fit(totals[None])[0]
    assert fitted[:2] == pytest.approx(best.x[:2], abs=1e-4)
    assert fitted.sum() == pytest.approx(0, abs=1e-12)


def test_two_arms_without_ties_are_the_log_odds_with_half_a_vote_each_way() -> None:
    # For one free parameter Firth's penalty is exactly half a vote for each answer.
    fitted = BradleyTerry([(0, 1)], ties=False).fit(np.array([[30.0, 0, 10]]))[0]
    assert fitted[0] - fitted[1] == pytest.approx(np.log(30.5 / 10.5))


def test_an_arm_that_always_wins_is_finite_and_its_interval_is_no_point() -> None:
    raters, prompts = np.repeat(np.arange(10), 12), np.tile(np.arange(12), 10)
    model = BradleyTerry([(0, 1)])
    few = model.strengths(np.zeros(120), np.full(120, FIRST), raters, prompts)
    effect = few.contrast([1, -1])
    assert np.isfinite(effect.estimate.value)
    assert 1 < effect.estimate.low < effect.estimate.value < 9
    assert effect.p < 0.01
    half = raters < 5
    fewer = model.strengths(np.zeros(60), np.full(60, FIRST), raters[half], prompts[half])
    assert fewer.contrast([1, -1]).estimate.value < effect.estimate.value


def test_only_ties_say_that_arms_are_equal() -> None:
    raters, prompts = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    estimate = BradleyTerry([(0, 1)]).strengths(np.zeros(36), np.full(36, TIE), raters, prompts).contrast([1, -1])
    assert estimate.estimate.value == pytest.approx(0, abs=1e-9)


def test_one_rater_or_one_prompt_has_no_interval() -> None:
    model = BradleyTerry([(0, 1)])
    one = model.strengths([0, 0, 0], [FIRST, SECOND, FIRST], [0, 0, 0], [0, 1, 2]).contrast([1, -1])
    assert one.estimate.value > 0
    assert not one.estimate.bounded
    assert np.isnan(one.p)
    assert np.isnan(one.detectable())


def test_raters_who_differ_widen_the_interval() -> None:
    """As many votes of each kind: in one study every rater says both, in the other each says one of them always."""
    raters, prompts = np.repeat(np.arange(12), 12), np.tile(np.arange(12), 12)
    mixed, split = (raters + prompts) % 2, raters % 2
    model = BradleyTerry([(0, 1)], ties=False)
    narrow, wide = (
        model.strengths(np.zeros(144), np.where(first, FIRST, SECOND), raters, prompts).contrast([1, -1])
        for first in (mixed, split)
    )
    assert wide.error > 2.5 * narrow.error
    assert wide.detectable() > narrow.detectable()


def test_simulated_studies_hold_the_truth() -> None:
    """120 studies, 2 raters in 3 prefer the first arm: `tests/bench/bench_study.py` has a thousand of each design."""
    rng = np.random.default_rng(4)
    model = BradleyTerry([(0, 1)], ties=False)
    raters, prompts = np.repeat(np.arange(15), 16), np.tile(np.arange(16), 15)
    held = 0
    for seed in range(120):
        chance = rng.beta(4, 2, size=15)[raters]
        answers = np.where(rng.random(240) < chance, FIRST, SECOND)
        estimate = model.strengths(np.zeros(240), answers, raters, prompts, resamples=200, seed=seed).contrast([1, -1])
        held += estimate.estimate.low <= np.log(2) <= estimate.estimate.high
    assert 109 <= held <= 119


def test_means_of_ratings_are_means_and_a_group_without_votes_is_undefined() -> None:
    rows, statistic = means([1, 5, 3, 3], [0, 0, 1, 1], 3)
    ratings = crossed(rows, [0, 1, 0, 1], [0, 0, 1, 1], statistic)
    assert ratings.values[:2].tolist() == [3, 3]
    assert np.isnan(ratings.values[2])
    assert not ratings.contrast([0, 0, 1]).estimate.bounded


def test_a_group_without_votes_leaves_the_others_their_intervals() -> None:
    rng = np.random.default_rng(2)
    raters, prompts = np.repeat(np.arange(8), 10), np.tile(np.arange(10), 8)
    answers = rng.integers(1, 6, size=80)
    rows, statistic = means(answers, np.zeros(80), 2)
    ratings = crossed(rows, raters, prompts, statistic)
    alone = crossed(*means(answers, np.zeros(80), 1)[:1], raters, prompts, means(answers, np.zeros(80), 1)[1])
    assert ratings.contrast([1, 0]) == alone.contrast([1])
    assert ratings.contrast([1, 0]).estimate.bounded
    assert np.isnan(ratings.contrast([0, 1]).estimate.value)


def test_a_chain_of_pairs_puts_all_arms_on_one_scale() -> None:
    fitted = BradleyTerry([(0, 1), (1, 2)]).fit(np.array([[20.0, 0, 0, 30, 5, 5]]))[0]
    assert np.isfinite(fitted).all()
    assert fitted[0] > fitted[1] > fitted[2]


def test_means_vary_as_two_way_clusters_do() -> None:
    """Every rater rates every prompt once; the variance is known from the effects that are added up."""
    rng = np.random.default_rng(1)
    by_rater, by_prompt = rng.normal(size=30), rng.normal(scale=0.5, size=40)
    raters, prompts = np.repeat(np.arange(30), 40), np.tile(np.arange(40), 30)
    rows, statistic = means(by_rater[raters] + by_prompt[prompts], np.zeros(1200), 1)
    effect = crossed(rows, raters, prompts, statistic, resamples=4000).contrast([1])
    assert effect.error == pytest.approx(np.sqrt(by_rater.var(ddof=1) / 30 + by_prompt.var(ddof=1) / 40), rel=0.05)
    assert effect.freedom == 29


def test_alpha_is_that_of_krippendorffs_example() -> None:
    none = np.nan
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    assert alpha(table) == pytest.approx(0.815, abs=5e-4)
    assert alpha([[1, 2, 3], [1, 2, 3]]) == 1
    assert np.isnan(alpha([[1, 1], [1, 1]]))
    assert np.isnan(alpha([[1, none], [none, 2]]))
    assert np.isnan(alpha(np.zeros((0, 0))))

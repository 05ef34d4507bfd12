"""Intervals of statistics of votes, which are clustered twice: by rater and by prompt.

Raters differ, prompts differ, and each vote belongs to one of both. The variance is that of a bootstrap over raters,
plus that of one over prompts, less that of one over (rater, prompt), which both of them hold (Cameron, Gelbach and
Miller, Robust Inference with Multiway Clustering, 2011). Resampling raters and prompts at once would count the noise of
a single vote three times (Owen, The Pigeonhole Bootstrap, 2007). Pure; numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from harness.stats.estimates import EQUAL, NAN, Effect, Estimate

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From totals of the votes' features [resamples, features] to parameters [resamples, parameters], NaN for undefined."""
RESAMPLES = 1000
INDEPENDENT = 1.3
"""Times the variance of independent votes, below which a variance over raters and prompts is no evidence that they
differ: it is that of a few clusters. Without this intervals of independent votes hold the truth in 97.4 % of studies
(`tests/bench/bench_study.py`), and an arm that always wins has none."""
BATCH = 100
"""Resamples that are drawn together, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """Parameters of votes with what they vary by.

    Attributes:
        values: [parameters]. covariance: [parameters, parameters] over raters and prompts.
        floor: as `covariance`, of independent votes.
        votes, raters, prompts: how many they rest on.
    """

    values: Floats
    covariance: Floats
    floor: Floats
    votes: int
    raters: int
    prompts: int

    def contrast(self, weights: ArrayLike, level: float = 0.95) -> Effect:
        """The sum of the parameters weighted by `weights` [parameters], with Student's t.

        Where it varies by no more over raters and prompts than independent votes may (`INDEPENDENT`), votes count as
        independent. Otherwise the degrees of freedom are those of the fewer of raters and prompts. Without two raters
        and two prompts there is no interval.
        """
        weights = np.asarray(weights, np.float64)
        used = weights != 0
        value = float(weights[used] @ self.values[used])
        clusters = min(self.raters, self.prompts)
        variance, floor = (
            float(weights[used] @ matrix[np.ix_(used, used)] @ weights[used])
            for matrix in (self.covariance, self.floor)
        )
        apart, variance = (self.votes, floor) if variance < INDEPENDENT * floor else (clusters, variance)
        if clusters < 2 or not np.isfinite([value, variance]).all() or variance <= (EQUAL * max(1.0, abs(value))) ** 2:
            return Effect(Estimate(value, NAN, NAN, self.votes, clusters, level), NAN, 0, NAN)
        error, freedom = float(np.sqrt(variance)), apart - 1
        reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
        p = 2 * float(stats.t.sf(abs(value) / error, freedom))
        return Effect(Estimate(value, value - reach, value + reach, self.votes, clusters, level), error, freedom, p)


def crossed(
    features: ArrayLike,
    raters: ArrayLike,
    prompts: ArrayLike,
    statistic: Statistic,
    *,
    floor: Floats | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Crossed:
    """`statistic` of the summed `features` [votes, features], and how it varies over `raters` and `prompts` [votes].

    `floor` is the covariance of independent votes by a model; that of a bootstrap over votes unless given. Equal input
    gives equal results.
    """
    rows = np.asarray(features, np.float64)
    rater_codes, prompt_codes = (np.unique(np.asarray(each), return_inverse=True)[1] for each in (raters, prompts))
    values = statistic(rows.sum(axis=0)[None])[0]
    counts = [int(codes.max()) + 1 if codes.size else 0 for codes in (rater_codes, prompt_codes)]
    nothing = np.full((values.size, values.size), NAN)
    if min(counts) < 2:
        return Crossed(values, nothing, nothing, len(rows), *counts)
    cells = np.unique(rater_codes * counts[1] + prompt_codes, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    by_rater, by_prompt, by_cell = (
        _covariance(rows, codes, statistic, resamples, rng) for codes in (rater_codes, prompt_codes, cells)
    )
    return Crossed(values, by_rater + by_prompt - by_cell, by_cell if floor is None else floor, len(rows), *counts)


def _covariance(
    rows: Floats, codes: NDArray[np.int64], statistic: Statistic, resamples: int, rng: np.random.Generator
) -> Floats:
    """Covariance of the statistic over resamples of the clusters `codes`."""
    count = int(codes.max()) + 1
    totals = np.zeros((count, rows.shape[1]))
    np.add.at(totals, codes, rows)
    shares = np.full(count, 1 / count)
    drawn = [
        statistic(rng.multinomial(count, shares, min(BATCH, resamples - start)) @ totals)
        for start in range(0, resamples, BATCH)
    ]
    values = np.concatenate(drawn)
    covariance = np.full((values.shape[1],) * 2, NAN)
    # A parameter that no resample defines, as the mean of nothing, must not take the others along.
    defined = np.isfinite(values).any(axis=0)
    values = values[:, defined][np.isfinite(values[:, defined]).all(axis=1)]
    if len(values) > 1 and defined.any():
        # A bootstrap of m clusters varies by (m - 1) / m of what their statistic varies by.
        spread = np.atleast_2d(np.cov(values, rowvar=False)) * count / max(1, count - 1)
        covariance[np.ix_(defined, defined)] = spread
    return covariance


def means(answers: ArrayLike, groups: ArrayLike, count: int) -> tuple[Floats, Statistic]:
    """Features and statistic of the mean answer of each of `count` groups, from `answers` and `groups` [votes]."""
    values, codes = np.asarray(answers, np.float64), np.asarray(groups, np.int64)
    rows = np.zeros((values.size, 2 * count))
    rows[np.arange(values.size), codes] = values
    rows[np.arange(values.size), count + codes] = 1

    def statistic(totals: Floats) -> Floats:
        sizes = totals[:, count:]
        return np.asarray(np.divide(totals[:, :count], sizes, out=np.full_like(sizes, NAN), where=sizes > 0))

    return rows, statistic


def alpha(ratings: ArrayLike) -> float:
    """Krippendorff's alpha for ordered answers: 1 where raters agree on all, 0 where they agree as by chance.

    Args:
        ratings: [raters, items], NaN for no answer.

    With the ordinal metric (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011). NaN where no item has two
    answers, or all answers are equal.
    """
    table = np.asarray(ratings, np.float64)
    answers = np.unique(table[np.isfinite(table)])
    counts = (table[..., None] == answers).sum(axis=0)
    counts = counts[counts.sum(axis=1) > 1]
    if counts.size == 0:
        return NAN
    sizes = counts.sum(axis=1)
    coincidences = np.einsum("ia,ib,i->ab", counts, counts, 1 / (sizes - 1.0))
    coincidences -= np.diag((counts / (sizes - 1.0)[:, None]).sum(axis=0))
    marginal = coincidences.sum(axis=1)
    reach = np.cumsum(marginal) - marginal / 2
    distance = np.square(reach[:, None] - reach[None, :])
    expected = float(marginal @ distance @ marginal) / (marginal.sum() - 1)
    return 1 - float((coincidences * distance).sum()) / expected if expected > 0 else NAN

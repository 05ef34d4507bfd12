"""How two orders of the same things agree: Kendall's tau and pairwise accuracy, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.stats.estimates import NAN, Estimate, clustered_mean
from harness.stats.proportions import Floats

MOST_BLOCKS = 60
"""Prompts beyond so many are left out together, several at a time, which the jackknife may do."""


def tau(first: ArrayLike, second: ArrayLike, clusters: ArrayLike, level: float = 0.95) -> Estimate:
    """Kendall's tau-b of `first` and `second` [n], with the jackknife's interval over `clusters` [n].

    Undefined (NaN) where one of both is constant. Between -1 and 1; no interval with fewer than two clusters.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(codes.max()) + 1 if codes.size else 0
    value = _tau(x, y)
    blocks = min(count, MOST_BLOCKS)
    if blocks < 2 or not np.isfinite(value):
        return Estimate(value, NAN, NAN, x.size, count, level)
    without = np.array([_tau(x[codes % blocks != block], y[codes % blocks != block]) for block in range(blocks)])
    if not np.isfinite(without).all():
        return Estimate(value, NAN, NAN, x.size, count, level)
    error = float(np.sqrt((blocks - 1) * np.var(without)))
    reach = float(stats.t.ppf((1 + level) / 2, blocks - 1)) * error
    if reach == 0:
        return Estimate(value, NAN, NAN, x.size, count, level)
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), x.size, count, level)


def _tau(x: Floats, y: Floats) -> float:
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NAN
    return float(stats.kendalltau(x, y).statistic)


def accuracy(differences: ArrayLike, preferences: ArrayLike, clusters: ArrayLike) -> Estimate:
    """The share of pairs that `differences` [n] orders as `preferences` [n] do, where those are not 0.

    A difference of 0 counts half; where all are 0, the share is undefined. The interval is over `clusters` [n].
    """
    ours, theirs = np.sign(np.asarray(differences, np.float64)), np.sign(np.asarray(preferences, np.float64))
    decided = (theirs != 0) & ours.any()
    right = np.where(ours == 0, 0.5, ours == theirs)[decided]
    return clustered_mean(right, np.asarray(clusters)[decided], share=True)


def against_the_others(answers: Sequence[Sequence[float]], clusters: Sequence[int]) -> Estimate:
    """How often one rater orders a pair as the others do who saw it, where these decide it; a tie counts half.

    Args:
        answers: of each pair, one a rater: 1, 0 or -1. clusters: its prompt.
    """
    own: list[float] = []
    others: list[float] = []
    prompts: list[int] = []
    for said, cluster in zip(answers, clusters, strict=True):
        for answer in said:
            own.append(answer)
            others.append(sum(said) - answer)
            prompts.append(cluster)
    return accuracy(own, others, prompts)

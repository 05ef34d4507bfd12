"""Means with intervals that respect dependence: samples of one prompt are one cluster. Pure functions over scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Statistic = Callable[[Sequence[float]], float]

RESAMPLES = 2000
"""Resamples of a bootstrap: the ends of a 95 % interval then rest on 50 resamples each."""
BOOTSTRAP_CLUSTERS = 1000
"""Above this many clusters the sampling distribution of a mean is normal to all printed digits, and the interval is
the linearised one (Cochran, Sampling Techniques, 1977, section 6.3), which costs no resampling."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic over clustered samples.

    Attributes:
        value: the statistic over all samples; NaN where there is none.
        low, high: its interval at `level`; NaN where fewer than two clusters leave it undefined.
        samples, clusters: how many it rests on.
        level: the confidence level, as in 0.95.
    """

    value: float
    low: float
    high: float
    samples: int
    clusters: int
    level: float = 0.95

    @property
    def bounded(self) -> bool:
        """Whether the interval is defined."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def clustered_mean(
    values: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean of `values` [n] with an interval over `clusters` [n] (any labels: one a prompt).

    Whole clusters are resampled, so that five seeds of one prompt count as one piece of evidence. The interval is the
    percentile bootstrap at the level widened for few clusters (`expanded_level`). The same input gives the same
    interval: the generator is seeded with `seed`. Raises `ValueError` when the lengths differ or a value is not finite.
    """
    data, codes = _checked(values, clusters)
    if data.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0, level)
    count = int(codes.max()) + 1
    sums = np.bincount(codes, weights=data, minlength=count).astype(np.float64)
    sizes = np.bincount(codes, minlength=count).astype(np.float64)
    value = float(sums.sum() / sizes.sum())
    low, high = _ratio_interval(sums, sizes, level, resamples, seed)
    return Estimate(value, low, high, int(data.size), count, level)


def clustered_statistic(
    values: ArrayLike,
    clusters: ArrayLike,
    statistic: Statistic,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """As `clustered_mean` for any `statistic` of the pooled values, as a metric's own aggregate.

    Slower: the statistic is called once a resample. Resamples on which it is not finite are left out.
    """
    data, codes = _checked(values, clusters)
    if data.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0, level)
    order = np.argsort(codes, kind="stable")
    groups = np.split(data[order], np.cumsum(np.bincount(codes))[:-1])
    value = float(statistic(data.tolist()))
    if len(groups) < 2:
        return Estimate(value, float("nan"), float("nan"), int(data.size), len(groups), level)

    def pooled(index: NDArray[np.int64]) -> float:
        return float(statistic(np.concatenate([groups[i] for i in index]).tolist()))

    low, high = _bootstrap((np.arange(len(groups)),), pooled, False, level, resamples, seed)
    return Estimate(value, low, high, int(data.size), len(groups), level)


def paired_difference(
    first: ArrayLike, second: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mean of `first - second` [n], paired sample by sample on (prompt, seed), with its clustered interval."""
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"paired samples differ in number: {left.size} and {right.size}")
    return clustered_mean(left - right, clusters, level=level, seed=seed)


def expanded_level(level: float, clusters: int) -> float:
    """The level at which a percentile interval over few `clusters` covers as a t interval does at `level`.

    Hesterberg, What Teachers Should Know About the Bootstrap (2015), section 5.3, the expanded percentile interval:
    alpha'/2 = Phi(-sqrt(n / (n - 1)) t[1 - alpha/2, n - 1]).
    """
    if clusters < 2:
        return level
    tail = stats.t.ppf((1 + level) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    return float(1 - 2 * stats.norm.cdf(-tail))


def supports_percentile(percent: float, n: int, *, level: float = 0.95) -> bool:
    """Whether `n` samples can bound their `percent`-th percentile at confidence `level` (rule T9).

    The largest (for a low percentile the smallest) of n samples lies beyond the percentile p with probability
    1 - p^n; that must reach `level`. The binomial bound of early stopping in MLPerf's load generator.
    """
    share = max(percent, 100 - percent) / 100
    return n > 0 and 1 - share**n >= level


def percentile(samples: ArrayLike, percent: float, *, level: float = 0.95) -> float:
    """The `percent`-th percentile of `samples` [n], linearly interpolated; NaN where n does not support it."""
    data = np.asarray(samples, dtype=np.float64).ravel()
    if not supports_percentile(percent, data.size, level=level):
        return float("nan")
    return float(np.percentile(data, percent))


def median_half_width(samples: ArrayLike, *, level: float = 0.95) -> float:
    """Half the interval of the median of `samples` [n], relative to it; NaN where fewer than 6 leave it undefined.

    The interval is the distribution-free one between order statistics (Conover, Practical Nonparametric Statistics,
    section 3.2).
    """
    data = np.asarray(samples, dtype=np.float64).ravel()
    middle = float(np.median(data)) if data.size else 0.0
    if data.size < 2 or middle == 0.0:
        return float("nan")
    interval: Any = stats.quantile_test(data, q=middle, p=0.5).confidence_interval(level)
    return float((interval.high - interval.low) / 2 / abs(middle))


def _checked(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    data = np.asarray(values, dtype=np.float64).ravel()
    labels = np.asarray(clusters).ravel()
    if data.size != labels.size:
        raise ValueError(f"{data.size} values but {labels.size} cluster labels")
    if not np.isfinite(data).all():
        raise ValueError("values must be finite; leave undefined ones out and count them")
    return data, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _ratio_interval(sums: Floats, sizes: Floats, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of sum(sums) / sum(sizes) over clusters."""
    count = sums.size
    if count < 2:
        return float("nan"), float("nan")
    value = sums.sum() / sizes.sum()
    residuals = sums - value * sizes
    if not residuals.any():
        return float(value), float(value)
    if count > BOOTSTRAP_CLUSTERS:
        error = np.sqrt(count / (count - 1) * np.square(residuals).sum()) / sizes.sum()
        reach = stats.t.ppf((1 + level) / 2, count - 1) * error
        return float(value - reach), float(value + reach)

    def ratio(total: Floats, size: Floats, axis: int = -1) -> Floats:
        return np.asarray(total.sum(axis=axis) / size.sum(axis=axis))

    return _bootstrap((sums, sizes), ratio, True, level, resamples, seed)


def _bootstrap(
    data: tuple[Any, ...], statistic: Callable[..., Any], vectorized: bool, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap over the clusters that stand, paired, along the arrays of `data`."""
    result = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=vectorized,
        method="percentile",
        n_resamples=resamples,
        batch=256,
        confidence_level=expanded_level(level, len(data[0])),
        rng=np.random.default_rng(seed),
    )
    drawn = np.asarray(result.bootstrap_distribution, dtype=np.float64)
    if np.isfinite(drawn).all():
        return float(result.confidence_interval.low), float(result.confidence_interval.high)
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size == 0:
        return float("nan"), float("nan")
    tail = (1 - expanded_level(level, len(data[0]))) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)

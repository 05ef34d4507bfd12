"""Means with intervals that respect dependence: samples of one prompt are one cluster. Pure; scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from harness.stats.proportions import Floats, paired_shares, share_interval, smallest_share_difference

Statistic = Callable[[Sequence[float]], float]

RESAMPLES = 2000
"""Resamples of a bootstrap: the ends of a 95 % interval then rest on 50 resamples each."""
FEW_CLUSTERS = 8
"""Below this many clusters no resample reaches as far as an interval must: with two, a percentile bootstrap
covers the truth in half of all studies. The interval is then Student's t over clusters."""
BOOTSTRAP_CLUSTERS = 1000
"""Above this many clusters a mean is normal to all printed digits, and the interval is the linearised one (Cochran,
Sampling Techniques, 1977, section 6.3), which costs no resampling."""
LEAST_SAMPLES = 6
"""Fewest samples with a 95 % interval of their median: the extremes of n miss it with probability 2 / 2^n."""
NAN = float("nan")
EQUAL = 1e-12
"""Numbers that differ by no more, relative to those that they came from, are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic over clustered samples.

    Attributes:
        value: the statistic over all samples; NaN where there is none.
        low, high: its interval at `level`; NaN with fewer than two clusters, and where all clusters are equal: they do
            not say how far apart others would lie.
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
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    share: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean of `values` [n] with an interval over `clusters` [n] (any labels: one a prompt).

    Whole clusters are resampled, so that five seeds of one prompt count as one piece of evidence: a percentile
    bootstrap at the level widened for few clusters (`expanded_level`). Below `FEW_CLUSTERS` it is Student's t with the
    linearised error, and of a `share` (values between 0 and 1) `proportions.share_interval`.

    Simulated coverage of the 95 % interval: 93 to 97 %. It is higher for a share of which few clips fail. For scores as
    skewed as an exponential distribution it is 87 % with 6 clusters and 92 % with 24. Equal input gives equal
    intervals. Raises `ValueError` when lengths differ, or a value is not finite or no share.
    """
    data, codes = _values_and_codes(values, clusters)
    if data.size == 0:
        return Estimate(NAN, NAN, NAN, 0, 0, level)
    sums, sizes = _totals(data, codes)
    value = float(sums.sum() / sizes.sum())
    if share:
        _check_share(data)
    # Scores that are all equal do not show how far apart others lie. Of a share the binomial distribution says so.
    if sums.size < 2 or not (share or _varies(sums, sizes, data)):
        return Estimate(value, NAN, NAN, int(data.size), sums.size, level)
    low, high = share_interval(sums, sizes, level) if share else _ratio_interval(sums, sizes, level, resamples, seed)
    return Estimate(value, low, high, int(data.size), sums.size, level)


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

    Slower: the statistic is called once a resample. Resamples on which it is not finite are left out. Below
    `FEW_CLUSTERS` the interval is Student's t with the jackknife's standard error over clusters.
    """
    data, codes = _values_and_codes(values, clusters)
    if data.size == 0:
        return Estimate(NAN, NAN, NAN, 0, 0, level)
    order = np.argsort(codes, kind="stable")
    groups = np.split(data[order], np.cumsum(np.bincount(codes))[:-1])
    value = float(statistic(data.tolist()))
    if len(groups) < 2:
        return Estimate(value, NAN, NAN, int(data.size), len(groups), level)

    def pooled(index: NDArray[np.int64]) -> float:
        return float(statistic(np.concatenate([groups[i] for i in index]).tolist()))

    if len(groups) < FEW_CLUSTERS:
        # The jackknife, as a statistic of one's own has no linearised error.
        every = np.arange(len(groups))
        jackknife = np.asarray([pooled(np.delete(every, i)) for i in every])
        reach = _t_reach(float(np.sqrt((every.size - 1) * np.var(jackknife))), every.size, level)
        low, high = value - reach, value + reach
    else:
        low, high = _bootstrap((np.arange(len(groups)),), pooled, False, level, resamples, seed)
    if high - low <= EQUAL * np.abs(data).max():
        low = high = NAN
    return Estimate(value, low, high, int(data.size), len(groups), level)


@dataclass(frozen=True, slots=True)
class Effect:
    """What one arm changes against another.

    Attributes:
        estimate: a mean difference, or a ratio of medians (then 1 says that nothing changes).
        error: standard error of the difference, or of the logarithm of the ratio; 0 where replicates do not differ,
            which leaves neither an interval nor `p`; NaN of shares, and where there are too few replicates.
        freedom: degrees of freedom of `error`; 0 where that is NaN.
        p: two-sided, of no change; NaN where there is no interval, and never 0 or 1 for want of spread.
        discordance, count: of shares, the share of pairs that differ, and the effective number of pairs; else NaN.
    """

    estimate: Estimate
    error: float
    freedom: int
    p: float
    discordance: float = NAN
    count: float = NAN

    def detectable(self, *, alpha: float = 0.05, power: float = 0.8) -> float:
        """The smallest true change (of a ratio's logarithm) that as many replicates show with `power`, or NaN."""
        if np.isfinite(self.count):
            return smallest_share_difference(self.discordance, self.count, alpha=alpha, power=power)
        return smallest_difference(self.error, self.freedom, alpha=alpha, power=power)


def paired_effect(
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike,
    *,
    share: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Effect:
    """The mean of `second - first` [n], paired sample by sample: its interval over whole clusters, and p-value.

    Of a `share` (values between 0 and 1) both are `proportions.paired_shares`, which do not shrink to a point.
    Otherwise the interval is `clustered_mean`'s, and the p-value that of Student's t with the linearised standard error
    and clusters - 1 degrees of freedom (Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference, 2015,
    section VI.D); with one sample a cluster it is the paired t-test's. Where all clusters change by the same there is
    neither. Raises as `clustered_mean` does.
    """
    base, other = np.asarray(first, dtype=np.float64).ravel(), np.asarray(second, dtype=np.float64).ravel()
    if base.shape != other.shape:
        raise ValueError(f"paired samples differ in number: {base.size} and {other.size}")
    changes = other - base
    if share:
        _check_share(np.concatenate([base, other]))
        return _shares_effect(*_values_and_codes(changes, clusters), level)
    estimate = clustered_mean(changes, clusters, level=level, resamples=resamples, seed=seed)
    if estimate.clusters < 2:
        return Effect(estimate, NAN, 0, NAN)
    sums, sizes = _totals(*_values_and_codes(changes, clusters))
    freedom = estimate.clusters - 1
    # Differences of equal scores are rounding, whose size is that of the scores and not of their differences.
    if not _varies(sums, sizes, np.concatenate([base, other])):
        return Effect(replace(estimate, low=NAN, high=NAN), 0.0, freedom, NAN)
    error = _linearised_error(sums, sizes)
    return Effect(estimate, error, freedom, _two_sided(estimate.value, error, freedom))


def _shares_effect(changes: Floats, codes: NDArray[np.int64], level: float) -> Effect:
    clusters = int(np.unique(codes).size)
    if clusters < 2:
        value = float(changes.mean()) if clusters else NAN
        return Effect(Estimate(value, NAN, NAN, changes.size, clusters, level), NAN, 0, NAN)
    gains, sizes = _totals(np.maximum(changes, 0), codes)
    difference = paired_shares(gains, _totals(np.maximum(-changes, 0), codes)[0], sizes, level)
    estimate = Estimate(difference.value, difference.low, difference.high, changes.size, clusters, level)
    return Effect(estimate, NAN, 0, difference.p, difference.discordance, difference.count)


def ratio_of_medians(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Effect:
    """The ratio median(`second`) / median(`first`) of raw samples, one array a round, paired by round.

    Of several rounds it is the geometric mean of the rounds' ratios, with Student's t over their logarithms. Samples
    of one round share its process. So rounds are the replicates, and the interval holds what a start does to an arm.
    Its simulated coverage is 95 % from two rounds up, whatever the number of samples. With two rounds it is
    13 standard errors wide on either side; with four, 3.

    Of one round it is the percentile bootstrap inside each arm (rule T19), with a simulated coverage of 96 to 97 %.
    It says nothing of another start. It is NaN with fewer than `LEAST_SAMPLES`. Replicates that all agree have an error
    of 0 and no interval. Raises `ValueError` when rounds differ in number, and for samples that are not finite and
    positive, as they have no ratio.
    """
    left, right = ([np.asarray(item, dtype=np.float64).ravel() for item in side] for side in (first, second))
    if len(left) != len(right) or not left:
        raise ValueError(f"rounds differ in number: {len(left)} and {len(right)}")
    for item in (*left, *right):
        if item.size == 0 or not (np.isfinite(item) & (item > 0)).all():
            raise ValueError("a ratio of medians needs finite, positive samples in every round")
    if len(left) == 1:
        return _ratio_within(np.log(left[0]), np.log(right[0]), level, resamples, seed)
    # In logarithms a ratio and its inverse lie equally far from 1, and Student's t is symmetric.
    logs = np.asarray([_log_ratio(np.log(a), np.log(b)) for a, b in zip(left, right, strict=True)])
    count, rounds = sum(item.size for item in (*left, *right)), len(left)
    value, freedom = float(np.mean(logs)), rounds - 1
    if np.ptp(logs) <= EQUAL:
        return _without_spread(value, count, rounds, level)
    test: Any = stats.ttest_1samp(logs, 0.0)
    ends = np.exp(test.confidence_interval(level))
    estimate = Estimate(float(np.exp(value)), float(ends[0]), float(ends[1]), count, rounds, level)
    return Effect(estimate, float(stats.sem(logs)), freedom, float(test.pvalue))


def _ratio_within(first: Floats, second: Floats, level: float, resamples: int, seed: int) -> Effect:
    """The ratio of medians of one round, from logarithms of its samples."""
    value, samples = float(_log_ratio(first, second)), min(first.size, second.size)
    count = first.size + second.size
    if samples < LEAST_SAMPLES:
        return Effect(Estimate(float(np.exp(value)), NAN, NAN, count, samples, level), NAN, 0, NAN)
    # Counted values, as bytes: a bootstrap of equal numbers has no width, which is no evidence.
    if max(np.ptp(first), np.ptp(second)) <= EQUAL:
        return _without_spread(value, count, samples, level)
    result = _resampled((first, second), _log_ratio, level, resamples, seed, paired=False, vectorized=True)
    ends, error = np.exp(result.confidence_interval), float(result.standard_error)
    if ends[1] - ends[0] <= EQUAL * ends[1]:
        return _without_spread(value, count, samples, level)
    estimate = Estimate(float(np.exp(value)), float(ends[0]), float(ends[1]), count, samples, level)
    return Effect(estimate, error, samples - 1, _two_sided(value, error, samples - 1))


def _without_spread(logarithm: float, count: int, replicates: int, level: float) -> Effect:
    """The ratio of replicates that all agree."""
    estimate = Estimate(float(np.exp(logarithm)), NAN, NAN, count, replicates, level)
    return Effect(estimate, 0.0, replicates - 1, NAN)


def _log_ratio(first: Floats, second: Floats, axis: int = -1) -> Floats:
    """Difference of the medians of logarithms, which is the logarithm of the ratio of medians."""
    return np.asarray(np.median(second, axis=axis) - np.median(first, axis=axis))


def _two_sided(value: float, error: float, freedom: int) -> float:
    return float(2 * stats.t.sf(abs(value) / error, freedom))


def holm(p_values: ArrayLike) -> Floats:
    """p-values [m] adjusted for their number, in the order given: Holm's step-down procedure.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    from statsmodels.stats.multitest import multipletests  # here: it loads pandas, which costs a second

    return np.asarray(multipletests(np.asarray(p_values, dtype=np.float64), method="holm")[1], dtype=np.float64)


def chance_of_lower(first: ArrayLike, second: ArrayLike) -> float:
    """How likely samples alike would make `first` lie this far below `second`: one-sided Mann-Whitney, exact.

    The exact distribution is that of untied samples; a tie counts half.
    """
    low, high = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return float(stats.mannwhitneyu(low, high, alternative="less", method="exact").pvalue)


def smallest_difference(error: float, freedom: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided t test with standard error `error` finds with probability `power`.

    From the noncentral t distribution (Cohen, Statistical Power Analysis, 1988, section 2.3); NaN without `freedom` and
    for an error of 0.
    """
    if freedom < 1 or not np.isfinite(error) or error == 0:
        return NAN
    critical = stats.t.ppf(1 - alpha / 2, freedom)

    def shortfall(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - power  # the wrong tail holds less than 0.0001

    # Twice the critical value is enough for any degrees of freedom: at 1 and at infinitely many, 1.3 and 1.4 times are.
    return float(error * optimize.brentq(shortfall, 0.0, 2 * critical))


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
        return NAN
    return float(np.percentile(data, percent))


def median_half_width(samples: ArrayLike, *, level: float = 0.95) -> float:
    """Half the interval of the median of `samples` [n], relative to it; NaN where fewer than 6 leave it undefined.

    The interval is the distribution-free one between order statistics (Conover, Practical Nonparametric Statistics,
    section 3.2).
    """
    data = np.asarray(samples, dtype=np.float64).ravel()
    middle = float(np.median(data)) if data.size else 0.0
    if data.size < 2 or middle == 0.0:
        return NAN
    interval: Any = stats.quantile_test(data, q=middle, p=0.5).confidence_interval(level)
    return float((interval.high - interval.low) / 2 / abs(middle))


def _values_and_codes(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    data = np.asarray(values, dtype=np.float64).ravel()
    labels = np.asarray(clusters).ravel()
    if data.size != labels.size:
        raise ValueError(f"{data.size} values but {labels.size} cluster labels")
    if not np.isfinite(data).all():
        raise ValueError("values must be finite; leave undefined ones out and count them")
    return data, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _check_share(data: Floats) -> None:
    if data.size and not (data.min() >= 0 and data.max() <= 1):
        raise ValueError("the values of a share lie between 0 and 1")


def _varies(sums: Floats, sizes: Floats, origin: Floats) -> bool:
    """Whether means of clusters differ by more than the rounding of the numbers `origin` that they came from."""
    return bool(np.ptp(sums / sizes) > EQUAL * np.abs(origin).max())


def _totals(data: Floats, codes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Sum and number of the samples of each cluster."""
    sums = np.bincount(codes, weights=data).astype(np.float64)
    return sums, np.bincount(codes).astype(np.float64)


def _linearised_error(sums: Floats, sizes: Floats) -> float:
    """Standard error of sum(sums) / sum(sizes), linearised, over two clusters or more."""
    # A mean of clusters of unequal size is a ratio of two sums, both of them random (Cochran, section 6.3).
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(np.sqrt(sums.size / (sums.size - 1) * np.square(residuals).sum()) / sizes.sum())


def _t_reach(error: float, clusters: int, level: float) -> float:
    """Half the interval of Student's t with `clusters` - 1 degrees of freedom."""
    return float(stats.t.ppf((1 + level) / 2, clusters - 1)) * error


def _ratio_interval(sums: Floats, sizes: Floats, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of sum(sums) / sum(sizes) over clusters."""
    count, value = sums.size, sums.sum() / sizes.sum()
    # Too few for a bootstrap, or so many that it would only repeat the normal interval.
    if not FEW_CLUSTERS <= count <= BOOTSTRAP_CLUSTERS:
        reach = _t_reach(_linearised_error(sums, sizes), count, level)
        return float(value - reach), float(value + reach)

    def ratio(total: Floats, size: Floats, axis: int = -1) -> Floats:
        return np.asarray(total.sum(axis=axis) / size.sum(axis=axis))

    return _bootstrap((sums, sizes), ratio, True, level, resamples, seed)


def _bootstrap(
    data: tuple[Any, ...], statistic: Callable[..., Any], vectorized: bool, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap over the clusters that stand, paired, along the arrays of `data`."""
    wide = expanded_level(level, len(data[0]))
    result = _resampled(data, statistic, wide, resamples, seed, paired=True, vectorized=vectorized)
    # scipy's ends are NaN as soon as the statistic of one resample is.
    distribution = np.asarray(result.bootstrap_distribution, dtype=np.float64)
    if np.isfinite(distribution).all():
        return float(result.confidence_interval.low), float(result.confidence_interval.high)
    distribution = distribution[np.isfinite(distribution)]
    if distribution.size == 0:
        return NAN, NAN
    tail = (1 - wide) / 2
    low, high = np.quantile(distribution, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    data: tuple[Any, ...], statistic: Callable[..., Any], level: float, resamples: int, seed: int, **how: Any
) -> Any:
    """A percentile bootstrap, 256 resamples at a time: all of them at once are 8 bytes a sample each."""
    how |= {"confidence_level": level, "n_resamples": resamples, "rng": np.random.default_rng(seed)}
    return stats.bootstrap(data, statistic, method="percentile", batch=256, **how)

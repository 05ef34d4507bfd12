"""A metric's aggregates over the clips of a group: which clips count, their mean or statistic, and its interval.

And what the mean of one group changes against that of another, pair by pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.contracts import Metric, Value
from harness.report.samples import Samples
from harness.stats import Effect, Estimate, clustered_mean, clustered_statistic, paired_effect


def estimate(metric: Metric, name: str, samples: Samples) -> Estimate:
    """The metric's aggregate of the value `name` with its interval."""
    kept = kept_clips(metric, name, samples)
    values, prompts = samples.values[name][kept], samples.prompts[kept]
    if type(metric).aggregate is Metric.aggregate:
        share = any(value.share for value in metric.values if value.name == name)
        return clustered_mean(values, prompts, share=share)
    return clustered_statistic(values, prompts, lambda pooled: metric.aggregate(name, pooled))


def aggregates(metric: Metric, samples: Samples) -> Mapping[str, float]:
    """Every value of `metric` that is defined somewhere."""
    kept = {name: values[kept_clips(metric, name, samples)] for name, values in samples.values.items()}
    return {name: metric.aggregate(name, values.tolist()) for name, values in kept.items() if values.size}


def kept_clips(metric: Metric, name: str, samples: Samples) -> NDArray[np.bool_]:
    """Which clips count for `name`; never one that does not define it."""
    values = samples.values[name]
    defined = ~np.isnan(values)
    if type(metric).keep is Metric.keep:
        return defined
    chosen = np.asarray(metric.keep(name, samples.prompts.tolist(), values.tolist()), np.bool_)
    return chosen & defined


def effect(value: Value, first: ArrayLike, second: ArrayLike, clusters: ArrayLike) -> Effect:
    """What `second` changes against `first` [n], paired: their means, or where 0 is best, how far those lie from 0.

    The mean b of the second is nearer to 0 than the mean a of the first exactly where b - a and b + a differ in sign.
    So a change of distance is shown only where both are (an intersection-union test: Berger and Hsu, Bioequivalence
    Trials, Intersection-Union Tests and Equivalence Confidence Sets, 1996), its p-value is the larger of both, and its
    interval reaches over all that both intervals allow.
    """
    change = paired_effect(first, second, clusters, share=value.share)
    if value.direction != "zero":
        return change
    total = paired_effect(np.negative(first), second, clusters)
    found, other = change.estimate, total.estimate
    # Rising or falling in either sum while the other stands still, so that the extremes lie at the corners.
    ends = [_farther(d, s) for d, s in product((found.low, found.high), (other.low, other.high))]
    distance = replace(
        found,
        value=_farther(found.value, other.value),
        low=float(np.min(ends)),
        high=float(np.max(ends)),
    )
    return replace(change, estimate=distance, p=float(np.maximum(change.p, total.p)))


def _farther(difference: float, total: float) -> float:
    """How much farther from 0 the second of two numbers lies, from its difference to the first and their sum."""
    return (abs(total + difference) - abs(total - difference)) / 2

"""A metric's aggregates over the clips of a group: which clips count, their mean or statistic, and its interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Metric
from harness.report.samples import Samples
from harness.stats import Estimate, clustered_mean, clustered_statistic


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

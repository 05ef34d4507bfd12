"""Where metrics run: the seam between the road and a metric's own environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from harness import registry
from harness.contracts import Clip, Json, Metric
from harness.errors import NotAvailable


class Scorer(Protocol):
    """A metric that is set up and waits for clips."""

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The metric's values for one clip, as `Metric.score` gives them; raises what it raises."""
        ...

    def close(self) -> None:
        """Free what the metric holds."""
        ...


class CoreScorer:
    """A metric of the environment `core`: it runs in this process."""

    def __init__(self, metric: Metric, device: str) -> None:
        metric.setup(device)
        self._metric: Metric | None = metric

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The metric's values for one clip."""
        if self._metric is None:
            raise RuntimeError("the scorer is closed")
        return self._metric.score(clip)

    def close(self) -> None:
        """Let go of the metric and its weights."""
        self._metric = None


def scorer_for(name: str, options: Mapping[str, Json], device: str) -> Scorer:
    """The metric `name`, ready to score. Raises `NotAvailable` with the reason and the fix."""
    metric = registry.metrics.create(name, options)
    state = metric.available()
    if not state.ready:
        raise NotAvailable(f"metric {name} is not available: {state.reason}", state.fix)
    if metric.environment != "core":
        raise NotAvailable(f"metric {name} is not available: nothing here runs the environment {metric.environment!r}")
    return CoreScorer(metric, device)

"""Where metrics run: the seam between the road and a metric's own environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness import registry
from harness.contracts import Clip, Json
from harness.errors import NotAvailable
from harness.worker.metric import WorkerMetric


class Scorer(Protocol):
    """A metric that is set up and waits for clips."""

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The metric's values for one clip, as `Metric.score` gives them; raises what it raises."""
        ...

    def samples(self) -> Mapping[str, Sequence[float]]:
        """The numbers behind the last score."""
        ...

    def notes(self) -> Mapping[str, Json]:
        """What else the record of the last score should say."""
        ...

    def close(self) -> None:
        """Free what the metric holds."""
        ...


def scorer_for(name: str, options: Mapping[str, Json], device: str) -> Scorer:
    """The metric `name`, set up in this process or in a worker of its environment.

    Raises `NotAvailable` with the reason and the fix, and whatever setting it up raises.
    """
    metric = registry.metrics.create(name, options)
    state = metric.available()
    if not state.ready:
        raise NotAvailable(f"metric {name} is not available: {state.reason}", state.fix)
    if metric.environment != "core" and not isinstance(metric, WorkerMetric):
        raise NotAvailable(f"metric {name} is not available: nothing here runs the environment {metric.environment!r}")
    metric.setup(device)
    return metric

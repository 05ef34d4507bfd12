"""Metrics that score clips, in this process or in a worker of their own environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.contracts import Json, Metric, registry
from harness.environments.worker.metric import WorkerMetric
from harness.errors import NotAvailable
from harness.runs.plan import Unit
from harness.system.digests import canonical
from harness.system.files import folder_kept


def scorer_for(name: str, options: Mapping[str, Json], device: str) -> Metric:
    """The metric `name`, set up in this process or in a worker of its environment.

    Raises `NotAvailable` with the reason and the fix, and whatever setting it up raises.
    """
    metric = registry.metrics.create(name, options)
    state = metric.available()
    if not state.ready:
        raise NotAvailable(f"metric {name} is not available: {state.reason}", state.fix)
    if metric.environment != "core" and not isinstance(metric, WorkerMetric):
        raise NotAvailable(f"metric {name} is not available: nothing here runs the environment {metric.environment!r}")
    with folder_kept():
        metric.setup(device)
    return metric


class Scorers:
    """Metrics that are set up, by name and options. One whose setup failed is not tried again for every clip."""

    def __init__(self, device: str, say: Callable[[str], None]) -> None:
        self.device, self.say = device, say
        self._ready: dict[str, Metric] = {}
        self._faults: dict[str, Exception] = {}

    def get(self, unit: Unit) -> Metric:
        """The scorer that a score unit needs. Raises `NotAvailable`, or what setting it up raised."""
        use: Any = unit.preimage["metric"]
        key = canonical({"name": use["name"], "options": use["options"]})
        if key in self._faults:
            raise self._faults[key]
        if key not in self._ready:
            self.say(f"setting up {use['name']}")
            try:
                self._ready[key] = scorer_for(use["name"], use["options"], self.device)
            except Exception as fault:
                self._faults[key] = fault
                raise
        return self._ready[key]

    def close(self) -> None:
        """Free every metric, for the time that a measurement has the device to itself."""
        while self._ready:
            self._ready.popitem()[1].close()

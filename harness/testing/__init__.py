"""Try a plug-in against its contract: for authors of models, metrics and probes, and behind `harness check`."""

from __future__ import annotations

from collections.abc import Mapping

from harness.contracts import Json, registry
from harness.errors import RegistryError, nearest
from harness.testing.finding import Finding
from harness.testing.metric import check_metric
from harness.testing.model import LIVE_PARAMETERS, check_model
from harness.testing.probe import STAND_IN, check_probe, load_stand_in

__all__ = [
    "LIVE_PARAMETERS",
    "STAND_IN",
    "Finding",
    "check_metric",
    "check_model",
    "check_named",
    "check_probe",
    "load_stand_in",
]


def check_named(
    name: str,
    options: Mapping[str, Json] | None = None,
    device: str = "cpu",
    live: bool | None = None,
    on: str = "",
) -> list[Finding]:
    """Try whatever is registered under `name`: a model, else a metric, else a probe, which measures the model `on`.

    Raises `RegistryError` for an unknown name.
    """
    if name in registry.models.names():
        return check_model(name, options, device, live)
    if name in registry.metrics.names():
        return check_metric(name, options, device, live)
    if name in registry.probes.names():
        return check_probe(name, options, device, live, on)
    names = [*registry.models, *registry.metrics, *registry.probes]
    fix = f"{nearest(name, names)}; what a file of yours registers wants --plugin FILE"
    raise RegistryError(f"no model, metric or probe is called {name!r}", fix)

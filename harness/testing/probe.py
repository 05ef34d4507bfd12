"""Try a registered probe against its contract: what it declares, and one measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.contracts import Json, Measurement, Probe, ProbeContext, Subject, VideoModel, Workload, registry
from harness.errors import HarnessError, NotAvailable, OptionError, PluginFault
from harness.runs.measured import record_notes, record_samples, record_values
from harness.system.deadline import at_most
from harness.system.digests import canonical
from harness.testing.finding import Finding, attempt, attempt_all, left_out
from harness.testing.model import PROMPTS
from harness.testing.values import declared

STAND_IN = "stand-in"
FAST_S, LIVE_S = 120.0, 3600.0
"""Seconds that a measurement may take."""


def check_probe(
    name: str, options: Mapping[str, Json] | None = None, device: str = "cpu", live: bool | None = None, on: str = ""
) -> list[Finding]:
    """Try the registered probe `name` against its contract, and have it measure the model `on`.

    Unless `live` is given it measures by its tiny options, where it has some; `live` False leaves the measurement out.
    Without `on` it measures a small model that is always here. Raises `HarnessError` only for an unknown name or
    wrong options.
    """
    probe = registry.probes.create(name, options or {})
    findings: list[Finding] = []
    attempt(findings, "values", lambda: declared(probe.values))
    attempt(findings, "identity", lambda: canonical(dict(probe.identity())))
    attempt(
        findings, "keyed options", lambda: canonical(dict(probe.keyed_options(probe.options.model_dump(mode="json"))))
    )
    state = attempt(findings, "available", lambda: probe.available(device))
    if state is None:
        return findings
    if not state.ready:
        if not state.reason:
            findings.append(Finding("available", False, "it is not, and does not say why"))
        left_out(findings, "measure", state.reason or "it is not available", state.fix)
        return findings
    if live is False:
        left_out(findings, "measure", "not asked for", "leave --no-live out")
        return findings
    if not live:
        tiny = attempt(findings, "tiny", lambda: _tiny(name, probe))
        if tiny is None:
            return findings
        probe = tiny
    trial = _Trial(probe, device, LIVE_S if live else FAST_S)
    model = _model(on or STAND_IN) if probe.needs_model else None
    try:
        measurement = trial.measurement(model, on or STAND_IN)
    except (NotAvailable, OptionError) as reason:
        left_out(findings, "measure", reason.message, reason.fix)
        return findings
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        message = error.message if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        findings.append(Finding("measure", False, message, getattr(error, "fix", "")))
        return findings
    finally:
        if model is not None:
            attempt_all(findings, "unload", model.unload)
    attempt(findings, "measure", lambda: trial.hold(measurement))
    return findings


def _tiny(name: str, probe: Probe) -> Probe:
    """The probe with its tiny options. Raises `OptionError` for options that it does not take."""
    return registry.probes.create(name, {**probe.options.model_dump(mode="json"), **probe.tiny()})


def load_stand_in() -> None:
    """Register the model `STAND_IN`; its file goes where plug-in files do, so that fresh processes find it too."""
    from harness.testing import stand_in

    registry.models.register(STAND_IN)(stand_in.StandIn)
    if (file := Path(stand_in.__file__)) not in registry.plugin_files:
        registry.plugin_files.append(file)


def _model(name: str) -> VideoModel:
    """The registered model `name`. Raises `HarnessError`."""
    if name == STAND_IN:
        load_stand_in()
    return registry.models.create(name, {})


@dataclass(frozen=True, slots=True)
class _Trial:
    """One measurement by a probe, which ends within `seconds`."""

    probe: Probe
    device: str
    seconds: float

    def measurement(self, model: VideoModel | None, on: str) -> Measurement:
        """What the probe finds of the model `on`, or of the device alone, on a clip that fills the model's window."""
        subject, workload = None, Workload(PROMPTS, (0,), 1)
        if model is not None:
            card = model.describe()
            frames = max(4 * card.frames_per_chunk, ((card.window_frames or 0) + 2) * card.temporal_ratio) + 1
            options = model.options.model_dump(mode="json")
            workload = replace(workload, frames=frames)
            self.probe.check(model, workload)
            subject = Subject(on, options, card, self.device, partial(self._load, model), tuple(registry.plugin_files))
        with tempfile.TemporaryDirectory(prefix="videomla-bench-") as folder, at_most(self.seconds):
            context = ProbeContext(self.device, Path(folder))
            return self.probe.measure(subject, workload, context)

    def _load(self, model: VideoModel) -> VideoModel:
        model.load(self.device)
        return model

    def hold(self, measurement: Measurement) -> None:
        """Raise `PluginFault` for what no record would take."""
        if not isinstance(measurement, Measurement):
            raise PluginFault(f"measure() gave a {type(measurement).__qualname__}, not a Measurement")
        owner = "the probe"
        record_values(owner, self.probe.values, measurement)
        record_samples(owner, type(self.probe), measurement)
        canonical(record_notes(owner, type(self.probe), measurement))

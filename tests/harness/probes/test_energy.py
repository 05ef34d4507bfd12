"""Energy counters: RAPL's files, NVML's through a fake, and what a streaming measurement makes of them."""

import math
from pathlib import Path

import pytest

from harness.contracts import ProbeContext, Workload
from harness.probes.streaming import Streaming, StreamingOptions
from harness.probes.timing.clock import Clock
from harness.probes.timing.energy import EnergyMeter, Reading
from harness.probes.timing.telemetry import Telemetry


def rapl(folder: Path, **microjoules: int) -> Path:
    for name, used in microjoules.items():
        at = folder / name.replace("_", ":").replace("rapl", "intel-rapl")
        at.mkdir(parents=True, exist_ok=True)
        (at / "energy_uj").write_text(f"{used}\n")
        (at / "max_energy_range_uj").write_text("1000000000\n")
    return folder


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    meter = EnergyMeter(Telemetry("cpu"), rapl(tmp_path, rapl_0=5_000_000, rapl_1=7_000_000, rapl_0_0=1_000_000))
    before = meter.read()
    assert before.joules == {"intel-rapl:0": 5.0, "intel-rapl:1": 7.0}
    rapl(tmp_path, rapl_0=6_500_000, rapl_1=9_000_000, rapl_0_0=99_000_000)
    assert meter.read().since(before) == pytest.approx(3.5)
    with meter.counting() as used:
        rapl(tmp_path, rapl_0=8_500_000, rapl_1=9_000_000)
    assert used.per(4.0) == pytest.approx(0.5)
    assert "RAPL" in str(used.notes("joules")["energy"])


def test_a_counter_that_starts_again_is_carried_over() -> None:
    assert Reading({"a": 3.0}, {"a": 100.0}).since(Reading({"a": 98.0}, {"a": 100.0})) == pytest.approx(5.0)
    assert Reading({"gpu": 3.0}, {}).since(Reading({"gpu": 98.0}, {})) is None
    assert Reading({}, {}).since(Reading({"a": 1.0}, {})) is None
    assert Reading({}, {}).since(Reading({}, {})) is None


@pytest.mark.parametrize("text", ["", "many", "1.5"])
def test_a_counter_that_cannot_be_read_is_not_available(tmp_path: Path, text: str) -> None:
    rapl(tmp_path, rapl_0=1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text(text)
    meter = EnergyMeter(Telemetry("cpu"), tmp_path)
    assert meter.source == ""
    with meter.counting() as used:
        pass
    assert math.isnan(used.per(1.0))
    assert used.notes("joules")["not_available"] == {"joules": meter.reason}


def test_nvml_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = Telemetry("cpu")
    telemetry.on_cuda = True
    asked = []

    def read(function: str, *arguments: object, handle: bool = True) -> int:
        asked.append(function)
        return 123_456

    monkeypatch.setattr(telemetry, "_read", read)
    assert EnergyMeter(telemetry).read().joules == {"gpu": 123.456}
    assert set(asked) == {"nvmlDeviceGetTotalEnergyConsumption"}
    monkeypatch.setattr(telemetry, "_read", lambda *arguments, **more: None)
    assert "NVML" in EnergyMeter(telemetry).reason


class Steady(EnergyMeter):
    """A device that draws so many watts by the virtual clock."""

    def __init__(self, watts: float, time: object) -> None:
        self.watts, self.time = watts, time
        self.source, self.reason = "a steady draw", ""

    def read(self) -> Reading:
        return Reading({"all": self.watts * self.time.ns / 1e9}, {})  # type: ignore[attr-defined]


def measure(fake, subject, energy: EnergyMeter, batch: int = 1):
    options = StreamingOptions(warmups=1, min_repeats=6, min_seconds=0, audit_repeats=0, count=False)
    probe = Streaming(options, Clock("cpu", now=fake.TIME.now), lambda seconds: None, energy)
    workload = Workload(("a", "b", "c"), (0, 1), 30, batch)
    return probe.measure(subject(), workload, ProbeContext("cpu", Path("unused")))


@pytest.mark.parametrize("batch", [1, 2])
def test_joules_are_those_of_the_timed_part_by_second_of_video(fake, subject, batch: int) -> None:
    found = measure(fake, subject, Steady(200.0, fake.TIME), batch)
    # Ten chunks of 0.075 s for 30 frames, which are 30 / 16 seconds of video, of each clip of the batch.
    assert found.values["joules_per_video_s"] == pytest.approx(200 * 0.75 / (30 / 16) / batch, rel=0.01)
    assert found.notes["energy"] == "a steady draw"


def test_without_a_counter_the_record_says_why(fake, subject, tmp_path: Path) -> None:
    found = measure(fake, subject, EnergyMeter(Telemetry("cpu"), tmp_path))
    assert found.values["joules_per_video_s"] != found.values["joules_per_video_s"]
    assert "RAPL" in found.notes["not_available"]["joules_per_video_s"]

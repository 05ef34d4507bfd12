"""Joules that the measured device has used, from its own counter: NVML's of a GPU, RAPL's of a CPU's packages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contracts import Json
from harness.probes.timing.telemetry import Telemetry

RAPL = Path("/sys/class/powercap")
"""Where Linux shows the counters (Documentation/power/powercap/powercap.rst). Since 2020 only root may read them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment.

    Attributes:
        joules: by counter. wraps: the joules at which a counter starts again from 0; none where it does not.
    """

    joules: Mapping[str, float]
    wraps: Mapping[str, float]

    def since(self, before: Reading) -> float | None:
        """Joules of all counters together since `before`; None where one of them was not there.

        A counter that went backwards has started again, once.
        """
        if not self.joules or self.joules.keys() != before.joules.keys():
            return None
        steps = {name: joules - before.joules[name] for name, joules in self.joules.items()}
        if any(step < 0 and name not in self.wraps for name, step in steps.items()):
            return None
        return sum(step if step >= 0 else step + self.wraps[name] for name, step in steps.items())


class EnergyMeter:
    """The energy counters of one device.

    Attributes:
        source: what is read, in words; empty where nothing can be. reason: why nothing can be.
    """

    def __init__(self, telemetry: Telemetry, rapl: Path = RAPL) -> None:
        self._telemetry, self._rapl = telemetry, rapl
        reading = self.read()
        where = "NVML's energy counter of the GPU" if telemetry.on_cuda else "RAPL's counters of the CPU's packages"
        self.source = where if reading.joules else ""
        self.reason = "" if reading.joules else f"{where} cannot be read"

    def read(self) -> Reading:
        """The counters now; none where they cannot be read."""
        if self._telemetry.on_cuda:
            joules = self._telemetry.joules()
            return Reading({} if joules is None else {"gpu": joules}, {})
        joules_by_package: dict[str, float] = {}
        wraps: dict[str, float] = {}
        for folder in sorted(self._rapl.glob("intel-rapl:*")):
            # Packages are intel-rapl:0 and so on; what has another colon is a part of one, and would count twice.
            if folder.name.count(":") == 1:
                used, most = _microjoules(folder / "energy_uj"), _microjoules(folder / "max_energy_range_uj")
                if used is not None:
                    joules_by_package[folder.name] = used
                    wraps |= {} if most is None else {folder.name: most}
        return Reading(joules_by_package, wraps)

    @contextmanager
    def counting(self) -> Iterator[Used]:
        """Fill the yielded `Used` when the context ends."""
        used, before = Used(self), self.read()
        yield used
        used.joules = self.read().since(before)


@dataclass(slots=True)
class Used:
    """Energy of a stretch of work.

    Attributes:
        joules: of all counters together; None where it cannot be said.
    """

    meter: EnergyMeter
    joules: float | None = None

    def per(self, seconds: float) -> float:
        """Joules a second of `seconds` of video; NaN where it cannot be said."""
        return math.nan if self.joules is None else self.joules / seconds

    def notes(self, name: str) -> dict[str, Json]:
        """For a record with the value `name`: what was read, or why nothing was.

        RAPL counts all that the packages did, whoever asked for it.
        """
        if self.joules is not None:
            return {"energy": self.meter.source}
        reason = self.meter.reason or "the counter started again"
        return {"energy": "not available", "not_available": {name: reason}}


def _microjoules(path: Path) -> float | None:
    try:
        return int(path.read_text()) / 1e6
    except (OSError, ValueError):
        return None

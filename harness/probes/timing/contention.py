"""Watch the work of other processes while a measurement runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from harness.contracts import Json
from harness.probes.timing.telemetry import Telemetry
from harness.system import devices

CONTENDED_CORES = 0.25
"""Other work on a CPU counts as contention from this many cores on, or from a tenth of them if that is more. Chosen
here: a tenth is what the caching audit tolerates; the floor is for a small machine's own work."""

HEAVY_SHARE = 0.1
"""A process that used more than this share of a core is listed by the share, without its name. Chosen here: below
`CONTENDED_CORES`, so that a process which alone makes a row contended is listed."""

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""Kinds of work of a core; steal is time that the hypervisor took. macOS knows the first three."""


@dataclass(slots=True)
class OtherWork:
    """Work of others while a measurement ran.

    Attributes:
        cores: CPU cores that other processes kept busy, on average; NaN where the system does not tell.
        heavy: cores of each other process above `HEAVY_SHARE`, largest first; no names.
        contended: whether that, or another process on the GPU, casts doubt on the measurement (rule T1).
    """

    cores: float = float("nan")
    heavy: tuple[float, ...] = ()
    contended: bool = False

    def to_json(self) -> dict[str, Json]:
        """For a record's notes."""
        return {
            "other_busy_cores": self.cores if self.cores == self.cores else None,
            "heavy_processes": list(self.heavy),
            "contended": self.contended,
        }


@contextlib.contextmanager
def watch(telemetry: Telemetry) -> Iterator[OtherWork]:
    """Fill the yielded `OtherWork` with the work beside this process and its children, when the context ends."""
    work = OtherWork()
    before, processes, own, start = _busy_seconds(), _by_process(), _own_seconds(), time.monotonic()
    yield work
    wall = max(time.monotonic() - start, 1e-9)
    after = _busy_seconds()
    if before is not None and after is not None:
        work.cores = max(0.0, (after - before) - (_own_seconds() - own)) / wall
        later = _by_process()
        shares = ((later[pid] - processes.get(pid, 0.0)) / wall for pid in later)
        work.heavy = tuple(sorted((round(share, 2) for share in shares if share > HEAVY_SHARE), reverse=True))
    # On a GPU a process counts by being there, whatever it does.
    work.contended = bool(telemetry.other_processes())
    if not telemetry.on_cuda and work.cores == work.cores:
        work.contended = work.cores > max(CONTENDED_CORES, 0.1 * (os.cpu_count() or 1))


def _busy_seconds() -> float | None:
    """Seconds that all cores together were busy since the system started; None where unknown."""
    try:
        times = psutil.cpu_times()
    except OSError:
        return None
    return float(sum(getattr(times, kind, 0.0) for kind in _BUSY))


def _own_seconds() -> float:
    """CPU seconds of this process and of what it has started, as a model's own process, whether it lives or not."""
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                ended = getattr(used, "children_user", 0.0) + getattr(used, "children_system", 0.0)
                seconds += used.user + used.system + ended
    return seconds


def _by_process() -> dict[int, float]:
    """CPU seconds by process, without this one and what it has started, as far as the system shows them."""
    seconds: dict[int, float] = {}
    own = set(devices.tree(os.getpid()))
    with contextlib.suppress(OSError):
        for process in psutil.process_iter(["cpu_times"]):
            times = process.info["cpu_times"]
            if times is not None and process.pid not in own:
                seconds[process.pid] = times.user + times.system
    return seconds

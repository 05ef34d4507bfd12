"""Peak memory of a measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

from harness.contracts import ProcessState, VideoModel
from harness.probes.timing.one_device import bytes_elsewhere, refuse_several
from harness.probes.timing.telemetry import Telemetry
from harness.system import devices


class MemoryMeter:
    """Peak memory since `reset` (rule T15).

    On CUDA these are the allocator's own peaks. On a CPU it is the peak resident size of the process (VmHWM), which
    Linux lets a process reset; NaN elsewhere. `base` is the memory before the model was loaded. A model that has a
    process of its own is metered there (`follow`).
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_cuda = device.startswith("cuda")
        self._source: _Here | _There = _Here(device)
        self.base = self.now()
        self._elsewhere = bytes_elsewhere(device)

    def follow(self, model: VideoModel) -> None:
        """Meter the process of a model that has just been loaded, where it has one of its own."""
        state = model.process_state()
        if state is not None:
            self._source, self.base = _There(self.device, model), 0 if self.on_cuda else state.base_bytes

    def now(self) -> int:
        """Bytes held now: allocated on CUDA, resident on a CPU."""
        return self._source.now()

    def reset(self) -> None:
        """Begin a new peak. Raises `ModelFault` where the model that was loaded spans devices (rule T20)."""
        refuse_several(self.device, self._elsewhere)
        self._source.reset()

    def peak(self) -> Mapping[str, float]:
        """`peak_bytes` above `base`, and on CUDA `peak_reserved_bytes`; NaN where unknown."""
        high, reserved = self._source.peaks()
        return {
            "peak_bytes": float(high - self.base) if high is not None else float("nan"),
            "peak_reserved_bytes": float(reserved) if reserved is not None else float("nan"),
        }


class _Here:
    """This process's memory."""

    def __init__(self, device: str) -> None:
        self.device, self.on_cuda = device, device.startswith("cuda")

    def now(self) -> int:
        if self.on_cuda:
            import torch

            return int(torch.cuda.memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    def reset(self) -> None:
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_peak("self")

    def peaks(self) -> tuple[int | None, int | None]:
        """The highest memory, and the highest that the allocator reserved on CUDA."""
        if not self.on_cuda:
            return status_bytes("VmHWM"), None
        import torch

        return torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)


class _There:
    """The memory of a model's own process, with what it has started.

    On a CPU it is the sum of their peaks, without the pixels on their way to the harness. On CUDA it is what torch's
    allocator says there, and without torch what the driver says of these processes.
    """

    def __init__(self, device: str, model: VideoModel) -> None:
        self.device, self.model, self.on_cuda = device, model, device.startswith("cuda")

    def _state(self, reset_peaks: bool = False) -> ProcessState:
        state = self.model.process_state(reset_peaks)
        assert state is not None
        return state

    def now(self) -> int:
        state = self._state()
        if self.on_cuda:
            return state.allocator["allocated"] if state.allocator else self._driver_bytes(state.pid) or 0
        held = -state.shared_bytes
        for pid in devices.tree(state.pid):
            with contextlib.suppress(psutil.Error):
                held += psutil.Process(pid).memory_info().rss
        return held

    def reset(self) -> None:
        state = self._state(reset_peaks=True)
        if not self.on_cuda:
            for pid in devices.tree(state.pid):
                _reset_peak(pid)

    def peaks(self) -> tuple[int | None, int | None]:
        state = self._state()
        if not self.on_cuda:
            peaks = [status_bytes("VmHWM", pid) for pid in devices.tree(state.pid)]
            return (None if peaks[0] is None else sum(peak or 0 for peak in peaks) - state.shared_bytes), None
        if state.allocator:
            return state.allocator["peak"], state.allocator["reserved"]
        return self._driver_bytes(state.pid), None

    def _driver_bytes(self, pid: int) -> int | None:
        return Telemetry(self.device).bytes_of(devices.tree(pid))


def _reset_peak(pid: int | Literal["self"]) -> None:
    with contextlib.suppress(OSError):
        # 5 resets the peak alone (proc(5), since Linux 4.0).
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def status_bytes(field: str, pid: int | Literal["self"] = "self") -> int | None:
    """A size from a process's status, as `VmHWM` or `VmData`, in bytes; None where Linux does not give it."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None

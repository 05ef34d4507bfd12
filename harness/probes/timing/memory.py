"""Peak memory of a measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import psutil

from harness.probes.timing.one_device import bytes_elsewhere, refuse_several


class MemoryMeter:
    """Peak memory since `reset` (rule T15).

    On CUDA these are the allocator's own peaks. On a CPU it is the peak resident size of the process (VmHWM), which
    Linux lets a process reset; NaN elsewhere. `base` is the memory before the model was loaded.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_cuda = device.startswith("cuda")
        self.base = self.now()
        self._elsewhere = bytes_elsewhere(device)

    def now(self) -> int:
        """Bytes held now: allocated on CUDA, resident on a CPU."""
        if self.on_cuda:
            import torch

            return int(torch.cuda.memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    def reset(self) -> None:
        """Begin a new peak. Raises `ModelFault` where the model that was loaded spans devices (rule T20)."""
        refuse_several(self.device, self._elsewhere)
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with contextlib.suppress(OSError):
            # 5 resets the peak alone (proc(5), since Linux 4.0).
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> Mapping[str, float]:
        """`peak_bytes` above `base`, and on CUDA `peak_reserved_bytes`; NaN where unknown."""
        if self.on_cuda:
            import torch

            return {
                "peak_bytes": float(torch.cuda.max_memory_allocated(self.device) - self.base),
                "peak_reserved_bytes": float(torch.cuda.max_memory_reserved(self.device)),
            }
        high = status_bytes("VmHWM")
        return {
            "peak_bytes": float(high - self.base) if high is not None else float("nan"),
            "peak_reserved_bytes": float("nan"),
        }


def status_bytes(field: str) -> int | None:
    """A size from this process's status, as `VmHWM` or `VmData`, in bytes; None where Linux does not give it."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None

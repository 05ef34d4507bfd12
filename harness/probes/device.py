"""What the device was doing while it was measured: clocks, heat, memory and other work. A record says without NVML."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import devices
from harness.contracts import Json
from harness.errors import NotAvailable
from harness.probes.ranks import bytes_elsewhere, refuse_several

PARENT_HOLDS_CONTEXT = "VIDEOMLA_PARENT_HOLDS_CONTEXT"
"""Environment variable: `1` where the run that had this process started is itself in the driver's list, idle."""
CONTENDED_CORES = 0.25
"""Other work on a CPU counts as contention from this many cores on, or from a tenth of them if that is more. Chosen
here: a tenth is what the caching audit tolerates; the floor is for what a small machine does by itself."""
HEAVY_SHARE = 0.1
"""A process that used more than this share of a core is listed by the share, without its name. Chosen here: below
`CONTENDED_CORES`, so that a process which alone makes a row contended is listed."""

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""What counts as work of a core; steal is time that the hypervisor took. macOS tells the first three."""
_THROTTLE = {0x4: "power_cap", 0x8: "hardware", 0x20: "thermal", 0x40: "thermal_hardware", 0x80: "power_brake"}
"""Bits of NVML's clock event reasons that slow a busy device (nvml.h, nvmlClocksEventReason*)."""


class Telemetry:
    """Readings of one device (rules T1, T11, T15, T17). A field that cannot be read is None.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_cuda = device.startswith("cuda")
        self._nvml: Any = None
        self._handle: Any = None
        if self.on_cuda:
            self._nvml, self._handle = _open_nvml(device)

    def snapshot(self) -> dict[str, Json]:
        """The state now, for a record's notes."""
        if self.on_cuda:
            return self._gpu()
        return {"load_average": list(os.getloadavg()), "cores": os.cpu_count()}

    def _gpu(self) -> dict[str, Json]:
        n = self._nvml
        driver = self._read("nvmlSystemGetDriverVersion", handle=False)
        reasons = self._read("nvmlDeviceGetCurrentClocksThrottleReasons")
        power = self._read("nvmlDeviceGetPowerManagementLimit")
        return {
            "nvml": "absent" if n is None else f"driver {driver}",
            "sm_clock_mhz": self._read("nvmlDeviceGetClockInfo", getattr(n, "NVML_CLOCK_SM", 1)),
            "memory_clock_mhz": self._read("nvmlDeviceGetClockInfo", getattr(n, "NVML_CLOCK_MEM", 2)),
            "temperature_c": self._read("nvmlDeviceGetTemperature", getattr(n, "NVML_TEMPERATURE_GPU", 0)),
            "power_cap_w": power / 1000 if power is not None else None,
            "throttle": None if reasons is None else [name for bit, name in _THROTTLE.items() if reasons & bit],
            "memory_used_bytes": self.memory_used(),
            "other_processes": self.other_processes(),
        }

    def _read(self, function: str, *arguments: Any, handle: bool = True) -> Any:
        """One NVML value, of the device unless not `handle`; None without NVML or where it is not supported."""
        if self._nvml is None:
            return None
        try:
            return getattr(self._nvml, function)(*((self._handle,) if handle else ()), *arguments)
        except (AttributeError, self._nvml.NVMLError):
            return None

    def clock_ratio(self) -> float | None:
        """SM clock over its default (the application default, else the maximum); None where unknown."""
        kind = getattr(self._nvml, "NVML_CLOCK_SM", 1)
        now = self._read("nvmlDeviceGetClockInfo", kind)
        default = self._read("nvmlDeviceGetDefaultApplicationsClock", kind) or self._read(
            "nvmlDeviceGetMaxClockInfo", kind
        )
        return float(now) / float(default) if now and default else None

    def memory_used(self) -> int | None:
        """Bytes in use on the whole device, as the driver sees it."""
        found = self._read("nvmlDeviceGetMemoryInfo")
        return int(found.used) if found is not None else None

    def other_processes(self) -> int | None:
        """Compute processes on the device besides this one and the run that it measures for, which is idle."""
        found = self._read("nvmlDeviceGetComputeRunningProcesses")
        if found is None:
            return None
        # A container's processes are listed by the numbers they have outside, so this one may not find its own.
        own = os.getpid() in {process.pid for process in found} or devices.holds_context()
        return max(0, len(found) - own - (os.environ.get(PARENT_HOLDS_CONTEXT) == "1"))

    def flags(self) -> dict[str, Json]:
        """What decides speed without being an option of the model (rule T17). Imports torch."""
        import torch

        return {
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_cudnn": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "threads": torch.get_num_threads(),
            "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "") if self.on_cuda else "system",
        }


def nvml() -> Any:
    """NVIDIA's management library, ready for use. Raises `NotAvailable` with what brings it."""
    try:
        found = importlib.import_module("pynvml")
    except ImportError as error:
        raise NotAvailable("nvidia-ml-py is not installed", "pip install -c constraints.txt nvidia-ml-py") from error
    try:
        found.nvmlInit()
    except found.NVMLError as error:
        raise NotAvailable(f"NVML does not start: {error}", "install the driver's libnvidia-ml.so.1") from error
    return found


def _open_nvml(device: str) -> tuple[Any, Any]:
    """NVML and the handle of torch's `device`, matched by UUID; two Nones without NVML."""
    try:
        found = nvml()
    except NotAvailable:
        return None, None
    import torch

    try:
        index = torch.device(device).index or 0
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        if uuid is not None:
            return found, found.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return found, found.nvmlDeviceGetHandleByIndex(index)
    except found.NVMLError:
        return None, None


# ------------------------------------------------------------------------------------------ other work


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
    """Fill the yielded `OtherWork` with what went on beside this process and its children while the context lasts."""
    found = OtherWork()
    before, processes, own, start = _busy(), _by_process(), _own(), time.monotonic()
    yield found
    wall = max(time.monotonic() - start, 1e-9)
    after = _busy()
    if before is not None and after is not None:
        found.cores = max(0.0, (after - before) - (_own() - own)) / wall
        later = _by_process()
        used = ((later[pid] - processes.get(pid, 0.0)) / wall for pid in later)
        found.heavy = tuple(sorted((round(share, 2) for share in used if share > HEAVY_SHARE), reverse=True))
    found.contended = bool(telemetry.other_processes())
    if not telemetry.on_cuda and found.cores == found.cores:
        found.contended = found.cores > max(CONTENDED_CORES, 0.1 * (os.cpu_count() or 1))


def _busy() -> float | None:
    """Seconds that all cores together were busy since the system started; None where unknown."""
    try:
        times = psutil.cpu_times()
    except OSError:
        return None
    return float(sum(getattr(times, kind, 0.0) for kind in _BUSY))


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _by_process() -> dict[int, float]:
    """CPU seconds by process, without this one and its direct children, as far as the system shows them."""
    found: dict[int, float] = {}
    with contextlib.suppress(OSError):
        for process in psutil.process_iter(["ppid", "cpu_times"]):
            ppid, times = process.info["ppid"], process.info["cpu_times"]
            if times is not None and os.getpid() not in (process.pid, ppid):
                found[process.pid] = times.user + times.system
    return found


# ---------------------------------------------------------------------------------------------- memory


class MemoryMeter:
    """Peak memory since `reset` (rule T15).

    On CUDA the allocator's own peaks; on a CPU the peak resident size of the process (VmHWM), which Linux lets a
    process reset; NaN elsewhere. `base` is what stood there before the model was loaded.
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

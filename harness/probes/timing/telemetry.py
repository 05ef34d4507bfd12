"""Read clocks, temperature, power and processes of the measured device. Without NVML a record says so."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection
from typing import Any

from harness.contracts import Json, VideoModel
from harness.errors import NotAvailable
from harness.system import devices

PARENT_HOLDS_CONTEXT = "VIDEOMLA_PARENT_HOLDS_CONTEXT"
"""Environment variable: `1` where the idle run that started this process is in the driver's list of processes."""

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
        self._model: VideoModel | None = None
        if self.on_cuda:
            self._nvml, self._handle = _open_nvml(device)

    def follow(self, model: VideoModel) -> None:
        """Count the process of `model`, where it has one of its own, to this one."""
        self._model = model

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
        # Against the default and not the highest clock, which a card under load never holds for long.
        kind = getattr(self._nvml, "NVML_CLOCK_SM", 1)
        now = self._read("nvmlDeviceGetClockInfo", kind)
        default = self._read("nvmlDeviceGetDefaultApplicationsClock", kind) or self._read(
            "nvmlDeviceGetMaxClockInfo", kind
        )
        return float(now) / float(default) if now and default else None

    def memory_used(self) -> int | None:
        """Bytes in use on the whole device, as the driver sees it."""
        memory = self._read("nvmlDeviceGetMemoryInfo")
        return int(memory.used) if memory is not None else None

    def joules(self) -> float | None:
        """Energy that the GPU has used since its driver was loaded (nvmlDeviceGetTotalEnergyConsumption, Volta on)."""
        millijoules = self._read("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else float(millijoules) / 1e3

    def other_processes(self) -> int | None:
        """Compute processes on the device besides this one and the run that it measures for, which is idle."""
        processes = self._read("nvmlDeviceGetComputeRunningProcesses")
        if processes is None:
            return None
        # A container's processes are listed by the numbers they have outside, so this one may not find its own.
        numbers = {process.pid for process in processes}
        own = int(os.getpid() in numbers or devices.holds_context())
        state = self._model.process_state() if self._model is not None else None
        if state is not None:
            own += len(numbers.intersection(devices.tree(state.pid))) or int(state.allocator is not None)
        return max(0, len(processes) - own - (os.environ.get(PARENT_HOLDS_CONTEXT) == "1"))

    def bytes_of(self, pids: Collection[int]) -> int | None:
        """Bytes that the driver counts for these processes; None where it tells of none of them."""
        processes = self._read("nvmlDeviceGetComputeRunningProcesses") or ()
        held = [process.usedGpuMemory for process in processes if process.pid in pids]
        return sum(int(count) for count in held if count is not None) if held else None

    def flags(self) -> dict[str, Json]:
        """Settings that decide speed and are no options of the model (rule T17). Imports torch."""
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
        library = importlib.import_module("pynvml")
    except ImportError as error:
        raise NotAvailable("nvidia-ml-py is not installed", "pip install -c constraints.txt nvidia-ml-py") from error
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise NotAvailable(f"NVML does not start: {error}", "install the driver's libnvidia-ml.so.1") from error
    return library


def _open_nvml(device: str) -> tuple[Any, Any]:
    """NVML and the handle of torch's `device`, matched by UUID; two Nones without NVML."""
    try:
        library = nvml()
    except NotAvailable:
        return None, None
    import torch

    try:
        index = torch.device(device).index or 0
        # NVML counts all GPUs of the machine, torch those of CUDA_VISIBLE_DEVICES: their numbers may differ.
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        if uuid is not None:
            return library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return library, library.nvmlDeviceGetHandleByIndex(index)
    except library.NVMLError:
        return None, None

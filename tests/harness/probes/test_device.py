import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.contracts import ProcessState
from harness.probes.timing import contention, telemetry
from harness.probes.timing.contention import watch
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.telemetry import Telemetry

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


class FakeNvml(types.ModuleType):
    """NVML's answers for one GPU at half clock, hot, with a stranger on it; one query unsupported."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    processes = (os.getpid(), 1)

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        return {1: 900, 2: 2619}[kind]

    def nvmlDeviceGetDefaultApplicationsClock(self, handle, kind):  # noqa: N802
        raise self.NVMLError

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):  # noqa: N802
        return 1800

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        return 84

    def nvmlDeviceGetPowerManagementLimit(self, handle):  # noqa: N802
        return 700_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        return 0x4 | 0x20 | 0x1

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return types.SimpleNamespace(used=123)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=100 * pid) for pid in self.processes]

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "999.1"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(telemetry, "_open_nvml", lambda name: (FakeNvml("pynvml"), object()))
    return Telemetry("cuda")


def test_what_nvml_says_is_kept(gpu):
    assert gpu.snapshot() == {
        "nvml": "driver 999.1",
        "sm_clock_mhz": 900,
        "memory_clock_mhz": 2619,
        "temperature_c": 84,
        "power_cap_w": 700.0,
        "throttle": ["power_cap", "thermal"],
        "memory_used_bytes": 123,
        "other_processes": 1,
    }
    assert gpu.clock_ratio() == 0.5


def test_a_stranger_on_the_gpu_is_contention(gpu):
    with watch(gpu) as other:
        pass
    assert other.contended


@pytest.mark.parametrize(
    ("listed", "holds_context", "others"),
    [([os.getpid()], True, 0), ([1, 2], True, 1), ([1], True, 0), ([1], False, 1), ([], False, 0)],
)
def test_this_process_is_no_stranger_even_where_a_container_renames_it(gpu, monkeypatch, listed, holds_context, others):
    monkeypatch.setattr(FakeNvml, "processes", listed)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: holds_context)
    assert gpu.other_processes() == others


@pytest.mark.parametrize("missing", ["package", "library"])
def test_without_nvml_the_record_says_so_and_every_field_is_none(monkeypatch, missing):
    broken = types.ModuleType("pynvml")
    broken.NVMLError = type("NVMLError", (Exception,), {})
    broken.nvmlInit = lambda: (_ for _ in ()).throw(broken.NVMLError("no library"))
    monkeypatch.setitem(sys.modules, "pynvml", None if missing == "package" else broken)
    absent = Telemetry("cuda")
    found = absent.snapshot()
    assert found.pop("nvml") == "absent"
    assert set(found.values()) == {None}
    assert absent.clock_ratio() is None


def test_the_package_that_is_installed_has_every_query():
    import pynvml

    asked = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(asked) > 5
    assert all(callable(getattr(pynvml, name)) for name in [*asked, "nvmlInit", "nvmlDeviceGetHandleByUUID"])
    assert pynvml.NVML_CLOCK_SM == FakeNvml.NVML_CLOCK_SM
    assert telemetry._THROTTLE.keys() == {
        pynvml.nvmlClocksEventReasonSwPowerCap,
        pynvml.nvmlClocksEventReasonHwSlowdown,
        pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }


@linux
def test_another_busy_process_is_seen(tmp_path):
    spin = "import sys, time\nprint(flush=True)\nend = time.time() + 600\nwhile time.time() < end: pass"
    # A grandchild: its time is not ours, and it is no child of ours when it is listed.
    shell = f"{sys.executable} -c '{spin}' & echo $!; wait"
    with subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, text=True) as runner:
        pid = runner.stdout.readline().strip()
        runner.stdout.readline()
        try:
            # On a busy machine its turn may be long in coming.
            for _ in range(100):
                with watch(Telemetry("cpu")) as other:
                    time.sleep(0.6)
                if other.contended and max(other.heavy, default=0.0) > contention.HEAVY_SHARE:
                    break
        finally:
            subprocess.run(["kill", pid], check=True)
    assert other.cores > contention.CONTENDED_CORES
    assert other.contended
    assert max(other.heavy) > contention.HEAVY_SHARE


def test_a_machine_that_tells_nothing_gives_no_number(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_times", lambda: Path("/nothing/here").read_text())
    with watch(Telemetry("cpu")) as other:
        pass
    assert other.to_json() == {"other_busy_cores": None, "heavy_processes": [], "contended": False}


@linux
def test_peak_memory_counts_from_the_reset():
    meter = MemoryMeter("cpu")
    big = np.ones(64 << 20, dtype=np.uint8)
    del big
    assert meter.peak()["peak_bytes"] >= 60 << 20
    meter.reset()
    assert meter.peak()["peak_bytes"] < 32 << 20


class InAnotherProcess:
    """A model that has process 7, which holds a GPU by torch's word, or by the driver's alone."""

    def __init__(self, allocator):
        self.allocator = allocator

    def process_state(self, reset_peaks=False):
        return ProcessState(7, 0, 0, 0, self.allocator)


@pytest.mark.parametrize(
    ("listed", "allocator", "others"),
    [([7], None, 0), ([7, 8], None, 1), ([9], {"allocated": 1, "peak": 1, "reserved": 1}, 0), ([9], None, 1)],
)
def test_a_models_own_process_is_no_stranger_and_its_memory_is_known(gpu, monkeypatch, listed, allocator, others):
    monkeypatch.setattr(FakeNvml, "processes", listed)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    gpu.follow(InAnotherProcess(allocator))
    assert gpu.other_processes() == others
    assert gpu.bytes_of([7]) == (700 if 7 in listed else None)

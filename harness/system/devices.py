"""Resolve `auto`, free memory and describe the machine for records, all without importing torch."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import psutil

from harness.contracts import Json
from harness.errors import NotAvailable
from harness.system.platforms import on_linux

PACKAGES = ("videomla-bench", "torch", "triton", "numpy", "av", "pandas", "scipy", "safetensors")
"""Whose versions stand in every record, where they are installed."""
PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies (`prctl`)."""


@functools.cache
def cuda_devices() -> int:
    """CUDA devices that torch could use: 0 without a driver, or with a torch that was built without CUDA.

    Asks the driver directly (`cuInit`, `cuDeviceGetCount`), which honours CUDA_VISIBLE_DEVICES.
    """
    count = ctypes.c_int(0)
    if not torch_has_cuda() or (driver := _cuda_driver()) is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _cuda_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library, initialised; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA. Imports no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def resolve(device: str) -> str:
    """`auto` as `cuda` where there is one and `cpu` elsewhere; raises `NotAvailable` for a `cuda` that is not here."""
    if device == "auto":
        return "cuda" if cuda_devices() else "cpu"
    if device.startswith("cuda") and not cuda_devices():
        raise NotAvailable("no CUDA device that torch can use", "--set device=cpu, or install torch built for CUDA")
    return device


def give_back(device: str) -> None:
    """Hand memory that nothing uses any more back to `device` and to the system, for whoever measures next.

    torch's CUDA allocator and the C library keep freed blocks for themselves otherwise. Imports no torch.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc alone has malloc_trim; elsewhere freed memory stays with the allocator.
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def tree(pid: int) -> list[int]:
    """`pid` and what it has started, itself first."""
    with suppress(psutil.Error):
        return [pid, *(process.pid for process in psutil.Process(pid).children(recursive=True))]
    return [pid]


def end_with_parent(parent: int | None = None) -> None:
    """Have this process killed when the one that started it dies.

    Linux does so itself (`prctl`). Elsewhere a thread looks every second. A process that is no longer the child of
    `parent` ends at once.
    """
    started_by = os.getppid() if parent is None else parent
    if on_linux():
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_end_after, args=(started_by,), daemon=True).start()
    # The parent may have died before the signal was asked for, and then none comes.
    if os.getppid() != started_by:
        sys.exit("the process that asked for this one is gone")


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def holds_context() -> bool:
    """Whether this process has work of torch on a GPU, which keeps it in the driver's list. Imports no torch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def allocation_failures(device: str) -> dict[str, int]:
    """How often torch's CUDA allocator had to free its blocks and try again (`retries`), or gave up (`ooms`).

    Counted since the process began; empty on a CPU, and before the process used CUDA. Imports no torch.
    """
    torch = sys.modules.get("torch")
    if not device.startswith("cuda") or torch is None or not torch.cuda.is_initialized():
        return {}
    counters = torch.cuda.memory_stats(device)
    return {"retries": int(counters.get("num_alloc_retries", 0)), "ooms": int(counters.get("num_ooms", 0))}


def describe(device: str) -> dict[str, Json]:
    """The machine as records keep it: the device's kind and name, memory, cores, operating system; no host name."""
    return {
        "kind": device.partition(":")[0],
        "name": _gpu_name() if device.startswith("cuda") else _cpu_name(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
    }


@functools.cache
def _cpu_name() -> str:
    if not on_linux():
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    return cpu_name_in(text) or platform.machine()


def cpu_name_in(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo; empty where it holds none.

    ARM processors give numbers in place of a name (those of the MIDR_EL1 register), which tell them apart as well.
    """
    if model := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return model[1].strip()
    maker = re.search(r"^CPU implementer\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    return f"ARM implementer {maker[1]} part {part[1]}" if maker and part else ""


@functools.cache
def _gpu_name() -> str:
    driver, name, handle = _cuda_driver(), ctypes.create_string_buffer(256), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(handle), 0) or driver.cuDeviceGetName(name, 256, handle):
        return "unknown"
    return name.value.decode(errors="replace")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


@functools.cache
def versions() -> Mapping[str, Json]:
    """Versions of Python and of the packages that could change a result, without importing them."""
    installed: dict[str, Json] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def git_state(code: Path, suite: Path | None = None) -> Mapping[str, Json]:
    """Commits of the code and of the folder `suite`, as a record keeps them.

    `commit`, `dirty` and `of: code` are of the folder `code`, or of the repository that the package was installed from;
    nulls where neither is known. `suite` has `commit` and `dirty` where git tracks that folder, else it is null.
    """
    own = _commit(code) or _installed_commit()
    state: dict[str, Json] = {**own, "of": "code"} if own else {"commit": None, "dirty": None, "of": None}
    return {**state, "suite": _commit(suite) if suite else None}


def _commit(folder: Path) -> dict[str, Json] | None:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "--error-unmatch", "."):
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _installed_commit() -> dict[str, Json] | None:
    """The commit that pip noted when it installed the package from a repository (PEP 610)."""
    try:
        origin = json.loads(distribution(PACKAGES[0]).read_text("direct_url.json") or "{}")
        return {"commit": str(origin["vcs_info"]["commit_id"]), "dirty": False}
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    return _output("git", "-C", str(folder), *arguments)


def _output(*command: str) -> str | None:
    """What a program prints; None where it is not here, fails, or takes half a minute."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None

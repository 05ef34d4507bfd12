"""`harness doctor`: what this machine has of what a run needs, and the command that brings what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.arguments import Plugins, load_plugins, path_named
from harness.contracts import Metric, registry
from harness.errors import HarnessError, NotAvailable
from harness.probes.timing.telemetry import nvml
from harness.suite.schema import Suite
from harness.system import devices
from harness.system.platforms import SUPPORTED, TRITON_OF_TORCH, described, here

MINIMUM_FREE = 2**30
"""Bytes below which the disk is called nearly full."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `required` is false for what only some suites need."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


def doctor(
    out: Annotated[Path, typer.Option(parser=path_named, metavar="DIR", help="Where runs would be written.")] = Path(
        "runs"
    ),
    plugin: Plugins = None,
) -> Iterator[str]:
    """Say what this machine lacks for a run, and what brings it."""
    load_plugins(plugin)
    failed = False
    for item in examine(out):
        word = "ok" if item.ok else "MISSING" if item.required else "not here"
        yield f"{word:9} {item.name}: {item.detail}" + (f"\n          {item.fix}" if not item.ok and item.fix else "")
        failed |= item.required and not item.ok
    if failed:
        raise typer.Exit(1)


def examine(folder: Path) -> Iterator[Check]:
    """Every check; `folder` is where runs would be written. Imports no torch."""
    yield _system()
    yield _python()
    yield from _packages()
    yield _device()
    yield _nvml()
    yield _folder(folder)
    yield _encoder()
    yield from _plugins()


def _system() -> Check:
    fix = f"constraints.txt is for {', '.join(SUPPORTED.values())}"
    return Check("system", here() in SUPPORTED, described(here()), fix, required=False)


def _python() -> Check:
    found = platform.python_version()
    return Check("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _packages() -> Iterator[Check]:
    torch, triton = _installed("torch"), _installed("triton")
    yield _package("torch", torch)
    if sys.platform == "linux":
        runs = TRITON_OF_TORCH.get(".".join((torch or "").split(".")[:2]))
        if torch and triton and triton != runs:
            yield _other_triton(torch, triton, runs)
        else:
            yield _package("triton", triton)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str, found: str | None) -> Check:
    missing = "not installed; plan, table and list work without it"
    return Check(name, found is not None, found or missing, f"pip install -c constraints.txt {name}")


def _other_triton(torch: str, triton: str, runs: str | None) -> Check:
    """A Triton that this torch was not tried with; on a CPU it compiles kernels and runs none, so that is no fault."""
    if runs is None:
        releases = ", ".join(TRITON_OF_TORCH)
        return Check("triton", True, f"{triton}; the kernels were compiled with those of torch {releases}, not {torch}")
    says = f"{triton}; on a GPU torch {torch.partition('+')[0]} runs {runs}"
    return Check("triton", not devices.torch_has_cuda(), says, "pip install -c constraints.txt torch triton")


def _device() -> Check:
    count = devices.cuda_devices()
    kind = "cuda" if count else "cpu"
    described = devices.describe(kind)
    memory = int(str(described["memory_bytes"])) / 2**30
    also = f", {count} CUDA device{'s' if count > 1 else ''}" if count else ", no CUDA device that torch can use"
    return Check("device", True, f"{described['name']}, {described['cores']} cores, {memory:.0f} GiB{also}")


def _nvml() -> Check:
    """What records need to tell clocks, temperature, throttling and other work of a GPU (rules T1, T11)."""
    if not devices.cuda_devices():
        return Check("nvml", True, "not needed without a CUDA device", required=False)
    try:
        driver = nvml().nvmlSystemGetDriverVersion()
    except NotAvailable as error:
        lost = "records tell no clocks, temperature, throttling and other work"
        return Check("nvml", False, f"{error.message}; {lost}", error.fix, required=False)
    return Check("nvml", True, f"driver {driver}, nvidia-ml-py {version('nvidia-ml-py')}", required=False)


def _folder(folder: Path) -> Check:
    home = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    fix = "choose another place with --out DIR"
    if not os.access(home, os.W_OK):
        return Check("run folder", False, f"{folder} cannot be written", fix)
    free = shutil.disk_usage(home).free
    return Check("run folder", free >= MINIMUM_FREE, f"{folder}, {free / 2**30:.1f} GiB free", fix)


def _encoder() -> Check:
    fix = "pip install -c constraints.txt av"
    try:
        import numpy as np

        from harness.system import video
    except ImportError as error:
        return Check("video", False, f"cannot import {error.name}", fix)
    settings = Suite.model_fields["video"].get_default()
    try:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "clip.mp4"
            video.write(path, [np.zeros((2, 16, 16, 3), np.uint8)], 8.0, settings.crf, settings.preset)
            frames = len(video.read(path))
    except (HarnessError, OSError, ValueError) as error:
        return Check("video", False, f"H.264 through PyAV fails: {error}", fix)
    return Check("video", frames == 2, f"H.264 (libx264) through PyAV {version('av')}", fix)


def _plugins() -> Iterator[Check]:
    for name in registry.metrics:
        try:
            metric_class = registry.metrics.get(name)
            metric = metric_class(metric_class.schema())
            found = metric.available()
        except HarnessError as error:
            yield Check(f"metric {name}", False, error.message, error.fix, required=False)
            continue
        except ValueError:
            yield Check(f"metric {name}", True, "needs options; its suite decides", required=False)
            continue
        state = "ready" if found.ready else found.reason
        yield Check(f"metric {name}", found.ready, f"{_place(metric)}: {state}", found.fix, required=False)


def _place(metric: Metric) -> str:
    """Where a metric scores and what it loads, as far as its class says."""
    where = "this process" if metric.environment == "core" else f"environment {metric.environment}"
    weights = getattr(metric, "weights", "")
    device = "cuda" if devices.cuda_devices() else "cpu"
    return f"{where} on {device}" + (f", weights {weights}" if weights else "")

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.errors import NotAvailable
from harness.system import devices


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 1)
    assert devices.resolve("auto") == "cuda"
    assert devices.resolve("cpu") == "cpu"
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)
    assert devices.resolve("auto") == "cpu"
    with pytest.raises(NotAvailable, match="no CUDA device") as caught:
        devices.resolve("cuda")
    assert "device=cpu" in caught.value.fix


def test_what_the_driver_says_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    devices.cuda_devices.cache_clear()
    assert devices.cuda_devices() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_the_machine_is_described_without_its_name() -> None:
    found = devices.describe("cpu")
    assert found["kind"] == "cpu"
    assert isinstance(found["cores"], int)
    assert found["cores"] >= 1
    assert isinstance(found["memory_bytes"], int)
    assert found["memory_bytes"] > 1e8
    assert {"python", "numpy", "av"} <= set(devices.versions())


def test_git_state_tells_commit_and_dirt_of_the_code_and_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    outside = tmp_path / "outside"
    outside.mkdir()
    nothing = {"commit": None, "dirty": None, "of": None, "suite": None}
    monkeypatch.setattr(devices, "distribution", lambda name: SimpleNamespace(read_text=lambda file: None))
    assert devices.git_state(outside) == nothing
    git("init", "-q")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("1")
    git("add", "code")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    here = {"commit": commit, "dirty": False}
    assert devices.git_state(tmp_path / "code") == {**here, "of": "code", "suite": None}
    assert devices.git_state(tmp_path / "code", tmp_path / "code") == {**here, "of": "code", "suite": here}
    assert devices.git_state(outside, tmp_path / "code") == {**nothing, "suite": here}
    assert devices.git_state(tmp_path / "code", outside)["suite"] is None
    # Installed from a repository, as pip notes it.
    origin = json.dumps({"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "f" * 40}})
    monkeypatch.setattr(devices, "distribution", lambda name: SimpleNamespace(read_text=lambda file: origin))
    assert devices.git_state(outside) == {"commit": "f" * 40, "dirty": False, "of": "code", "suite": None}
    (tmp_path / "code" / "a.py").write_text("2")
    assert devices.git_state(tmp_path / "code")["dirty"] is True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_memory_that_nothing_uses_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    devices.give_back("cpu")
    before = resident()
    # Blocks under the allocator's threshold for mapping stay with it when they are freed, below the last one in use.
    blocks = [np.ones(64 << 10, dtype=np.uint8) for _ in range(1024)]
    last = blocks[-1]
    del blocks
    devices.give_back("cpu")
    assert last.any()
    assert resident() - before < 8 << 20


@pytest.mark.parametrize(("device", "emptied"), [("cuda", 1), ("cuda:1", 1), ("cpu", 0)])
def test_the_allocator_of_the_device_is_emptied(monkeypatch: pytest.MonkeyPatch, device: str, emptied: int) -> None:
    calls: list[str] = []
    cuda = types.SimpleNamespace(is_initialized=lambda: True, empty_cache=lambda: calls.append("empty"))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    devices.give_back(device)
    assert len(calls) == emptied


def test_failed_allocations_are_counted_by_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = {"cuda:1": {"num_alloc_retries": 3, "num_ooms": 1, "num_device_alloc": 9}}
    begun = [False]
    cuda = types.SimpleNamespace(is_initialized=lambda: begun[0], memory_stats=stats.__getitem__)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert devices.allocation_failures("cuda:1") == {}
    begun[0] = True
    assert devices.allocation_failures("cuda:1") == {"retries": 3, "ooms": 1}
    assert devices.allocation_failures("cpu") == {}

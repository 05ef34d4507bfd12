"""FSDP on two processes with gloo against one process: the same losses and weights, resuming included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).with_name("two_processes.py")


def run(stage: str, folder: Path, processes: int) -> dict[str, torch.Tensor]:
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), stage, str(folder)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, *command[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / f"{stage}-{processes}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher_forcing", "distribution_matching"])
def test_two_processes_train_as_one(stage: str, tmp_path: Path) -> None:
    alone, sharded = run(stage, tmp_path / "one", 1), run(stage, tmp_path / "two", 2)
    assert alone.keys() == sharded.keys()
    assert sum(name.startswith("loss") for name in alone) >= 1
    for name, tensor in alone.items():
        assert torch.allclose(sharded[name], tensor, rtol=2e-3, atol=2e-4), name

"""A measurement is of one device: a model of several processes or GPUs is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.errors import ModelFault
from harness.probes.timing.memory import MemoryMeter

PROGRAM = Path(__file__).with_name("two_ranks.py")


def test_a_model_of_two_processes_is_refused(tmp_path):
    command = [sys.executable, str(PROGRAM)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], env=environment, text=True, stdout=-1, stderr=-1
        )
        for rank in (0, 1)
    ]
    answers = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], [error[-2000:] for _, error in answers]
    refusal = "the model runs on 2 processes, and measurements are of one device"
    assert [json.loads(out) for out, _ in answers] == [refusal] * 2


@pytest.mark.parametrize(("device", "refused"), [("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_a_model_on_two_gpus_is_refused(monkeypatch, device, refused):
    held = [0, 0, 500]  # what lay on the third before the model was loaded is not the model's
    answers = {
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 3,
        "memory_allocated": lambda which: held[which if isinstance(which, int) else torch.device(which).index or 0],
        "reset_peak_memory_stats": lambda which: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    meter = MemoryMeter(device)
    meter.reset()
    held[1] = 7_000
    if not refused:
        meter.reset()
        return
    with pytest.raises(ModelFault, match=f"7,000 bytes on GPUs other than {device},"):
        meter.reset()

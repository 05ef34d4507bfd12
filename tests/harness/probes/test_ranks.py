"""Ranks: the span of several is by hand that of the slowest, and two gloo processes find it out together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_ranks import LONG_S, SHORT_S

from harness.errors import ModelFault
from harness.probes.timing.clock import Clock, ClockFault
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.one_device import joined, together

PROGRAM = Path(__file__).with_name("two_ranks.py")
SECOND = 1_000_000_000


def test_the_span_ends_at_the_slowest_rank_which_is_named():
    # The clocks of the ranks begin anywhere: 2, 5 and 3 seconds by each one's own.
    found = joined([(0, 2 * SECOND), (700 * SECOND, 705 * SECOND), (40 * SECOND, 43 * SECOND)])
    assert found.seconds == 5
    assert found.to_json() == {"ranks": 3, "slowest_rank": 1, "seconds_by_rank": [2.0, 5.0, 3.0]}
    # 150 frames of all three devices in 5 seconds.
    assert found.rates(150) == (30, 10)


def test_what_is_no_span_is_refused():
    with pytest.raises(ClockFault, match="rank 1 went backwards by 3 ns"):
        joined([(1, 2), (5, 2)])
    with pytest.raises(ValueError, match="no rank"):
        joined([])


def test_a_process_alone_is_one_rank():
    readings = iter([10 * SECOND, 14 * SECOND])
    found = together(Clock(now=lambda: next(readings)), lambda: None)
    assert found.by_rank == (4.0,)


def test_two_processes_start_together_and_hear_of_the_slowest(tmp_path):
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
    first, second = (json.loads(out) for out, _ in answers)
    assert first == second
    assert first["slowest_rank"] == 1
    # What a rank waited for the other at the barrier is no part of the span.
    assert first["seconds_by_rank"] == [SHORT_S, LONG_S]
    assert first["seconds"] == LONG_S
    assert first["failed"] == "rank 1 failed: ValueError: no such chunk"
    assert first["refused"] == "the model runs on 2 processes, and measurements are of one device"


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

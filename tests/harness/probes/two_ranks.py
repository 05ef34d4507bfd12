"""What each of two gloo ranks runs in the tests of ranks: prints, as one line of JSON, what it was told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch.distributed as dist

from harness.errors import ModelFault
from harness.probes.clock import Clock
from harness.probes.device import MemoryMeter
from harness.probes.ranks import together

LATE_S, SHORT_S, LONG_S = 3.0, 0.2, 0.6


def refused(call) -> str:
    try:
        call()
    except ModelFault as fault:
        return fault.message
    return ""


def main(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    if rank == 0:
        time.sleep(LATE_S)
    found = together(Clock(), lambda: time.sleep((SHORT_S, LONG_S)[rank]))

    def failing() -> None:
        if rank == 1:
            raise ValueError("no such chunk")

    said = {
        **found.to_json(),
        "seconds": found.seconds,
        "failed": refused(lambda: together(Clock(), failing)),
        "refused": refused(MemoryMeter("cpu").reset),
    }
    print(json.dumps(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

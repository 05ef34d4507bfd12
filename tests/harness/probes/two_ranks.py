"""What each of two gloo ranks runs in the tests of ranks: prints, as JSON, how a measurement of it is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from harness.errors import ModelFault
from harness.probes.timing.memory import MemoryMeter


def main(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        MemoryMeter("cpu").reset()
    except ModelFault as fault:
        print(json.dumps(fault.message))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

"""What each of two gloo ranks runs in the tests of ranks: prints, as one line of JSON, what it was told.

Each rank has a clock of its own that goes on by what is done, not by what the machine has time for; waiting for the
other rank at the barrier takes `LATE_S` of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from harness.errors import ModelFault
from harness.probes.timing.clock import Clock
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.one_device import together

LATE_S, SHORT_S, LONG_S = 3.0, 0.2, 0.6


class OwnTime:
    """Nanoseconds since the rank began."""

    ns = 0

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def now(self) -> int:
        return self.ns


def refused(call) -> str:
    try:
        call()
    except ModelFault as fault:
        return fault.message
    return ""


def main(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    own, barrier = OwnTime(), dist.barrier

    def late_barrier() -> None:
        barrier()
        own.advance(LATE_S)

    dist.barrier = late_barrier
    found = together(Clock(now=own.now), lambda: own.advance((SHORT_S, LONG_S)[rank]))

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

"""The refusal of a model that spans several devices, since probes time and weigh one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.contracts import Json
from harness.errors import ModelFault
from harness.probes.timing.clock import SECOND, Clock, ClockFault


@dataclass(frozen=True, slots=True)
class Joined:
    """One piece of work that all ranks did together.

    Attributes:
        by_rank: seconds that each rank took from the common start to its own end.
    """

    by_rank: tuple[float, ...]

    @property
    def slowest(self) -> int:
        """The rank that ended last; of equals the first."""
        return self.by_rank.index(self.seconds)

    @property
    def seconds(self) -> float:
        """Until the slowest rank had ended: the work is not done before."""
        return max(self.by_rank)

    def rates(self, frames: int) -> tuple[float, float]:
        """Pixel frames a second of the job, which made `frames`, and of each of its devices (rule T4)."""
        job = frames / self.seconds
        return job, job / len(self.by_rank)

    def to_json(self) -> dict[str, Json]:
        """For a record's notes."""
        return {"ranks": len(self.by_rank), "slowest_rank": self.slowest, "seconds_by_rank": list(self.by_rank)}


def joined(spans: Sequence[tuple[int, int]]) -> Joined:
    """The time of work whose start and end each rank read in nanoseconds, after the same barrier.

    Each rank's own clock gives its own duration, so that clocks of several hosts need not agree. Raises `ClockFault`
    for an end before its start, and `ValueError` for no rank at all.
    """
    if not spans:
        raise ValueError("no rank took part")
    for rank, (start, end) in enumerate(spans):
        if end < start:
            raise ClockFault(
                f"the host clock of rank {rank} went backwards by {start - end} ns", "use a monotonic clock"
            )
    return Joined(tuple((end - start) / SECOND for start, end in spans))


def together(clock: Clock, work: Callable[[], object]) -> Joined:
    """Do `work` on every rank of torch's process group, all from one barrier on; every rank has the same answer.

    Each rank waits for its own device before the barrier, after it, and at its end. Raises `ModelFault` on every rank
    where one of them failed, naming it. One process without a group is a rank by itself. Imports torch.
    """
    import torch.distributed as dist

    if _ranks() == 1:
        start = clock.point()
        work()
        return joined([(start, clock.point())])
    clock.synchronise()
    dist.barrier()
    start, fault, cause = clock.point(), "", None
    try:
        work()
        end = clock.point()
    except Exception as error:  # noqa: BLE001 - the other ranks wait for this one, whatever happened to it
        end, fault, cause = start, f"{type(error).__name__}: {error}", error
    said: list[tuple[int, int, str]] = [(0, 0, "")] * _ranks()
    dist.all_gather_object(said, (start, end, fault))
    failed = [f"rank {rank} failed: {text}" for rank, (_, _, text) in enumerate(said) if text]
    if failed:
        raise ModelFault("; ".join(failed)) from cause
    return joined([(start, end) for start, end, _ in said])


def _ranks() -> int:
    """Processes of torch's group; 1 without one. Imports nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 1
    return int(torch.distributed.get_world_size())


def bytes_elsewhere(device: str) -> int:
    """Bytes that this process's tensors hold on CUDA devices other than `device`; 0 without CUDA. Imports nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
        return 0
    named = torch.device(device).index
    own = torch.cuda.current_device() if named is None else named
    others = (index for index in range(torch.cuda.device_count()) if index != own)
    return sum(int(torch.cuda.memory_allocated(index)) for index in others)


def refuse_several(device: str, elsewhere: int = 0) -> None:
    """Raise `ModelFault` where a loaded model has more than `device`: other processes, or memory on other GPUs.

    The probes time and weigh one device; what another one does would be missing from their numbers.

    Args:
        device: that the model was asked to load on.
        elsewhere: bytes that lay on other GPUs before it was.
    """
    if (ranks := _ranks()) > 1:
        raise ModelFault(
            f"the model runs on {ranks} processes, and measurements are of one device",
            "start it without torchrun and without a process group",
        )
    if (more := bytes_elsewhere(device) - elsewhere) > 0:
        raise ModelFault(
            f"the model holds {more:,} bytes on GPUs other than {device}, and measurements are of one device",
            "load it on one GPU, or hide the others with CUDA_VISIBLE_DEVICES",
        )

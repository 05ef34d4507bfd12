"""Refuse a model that spans several devices: probes time and weigh one."""

from __future__ import annotations

import sys

from harness.errors import ModelFault


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
    number = torch.device(device).index
    own = torch.cuda.current_device() if number is None else number
    others = (index for index in range(torch.cuda.device_count()) if index != own)
    return sum(int(torch.cuda.memory_allocated(index)) for index in others)


def refuse_several(device: str, elsewhere: int = 0) -> None:
    """Raise `ModelFault` where a loaded model has more than `device`: other processes, or memory on other GPUs.

    The probes time and weigh one device. The share of another device would be missing from their numbers.

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

"""Training on several devices with PyTorch's FSDP: `torchrun --nproc-per-node N …`; one process needs none of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from videomla_models.network.transformer import VideoTransformer


def world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) outside `torchrun`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """The process group that `torchrun`'s environment describes, if it does: nccl on CUDA, gloo on the CPU."""
    if not (dist.is_available() and dist.is_torchelastic_launched()) or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard(network: VideoTransformer) -> VideoTransformer:
    """Shard parameters, gradients and optimiser states over all processes (FSDP), block by block; in place.

    Attention to the prompt is a unit of its own, since its keys are made outside of the block's forward pass.
    """
    if world()[1] == 1:
        return network
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in network.blocks:
        attention: Any = block.cross_attn
        fully_shard(attention)
        register_fsdp_forward_method(attention, "keys")
        fully_shard(block)
    fully_shard(network.text_embedding)
    fully_shard(network)
    register_fsdp_forward_method(network, "prompt")
    return network


def mine(batch: Sequence[Tensor], network: VideoTransformer) -> list[Tensor]:
    """This process's share of tensors [B, ...], every n-th entry, on the device of `network`."""
    (rank, size), device = world(), network.patch_embedding.weight.device
    return [x[rank::size].to(device, non_blocking=True) for x in batch]


def mean(loss: Tensor) -> float:
    """The mean over all processes, the same number in each."""
    size = world()[1]
    if size > 1:
        loss = loss.clone()
        dist.all_reduce(loss)
        loss = loss / size
    return float(loss)


def value(norm: Tensor) -> float:
    """A number that may be sharded."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def whole(tensor: Tensor) -> Tensor:
    """The unsharded tensor on the CPU; every process must ask for it."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu()


def own(path: Path) -> Path:
    """Where this process keeps its part of a state: `path` itself where there is one process."""
    rank, size = world()
    return path if size == 1 else path.with_name(f"{path.name}.{rank}-of-{size}")


def barrier() -> None:
    """Wait for all processes."""
    if world()[1] > 1:
        dist.barrier()

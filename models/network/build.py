"""A transformer on its device, from a checkpoint or with random weights; random text for the latter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import NotAvailable
from harness.system.digests import digest
from videomla_models.checkpoints.load import Checkpoint, load_into, open_checkpoint
from videomla_models.network.transformer import VideoTransformer
from videomla_models.spec.config import TransformerConfig


def build(
    config: TransformerConfig, source: str | Path | Checkpoint | None, dtype: str, device: str
) -> VideoTransformer:
    """Build on the meta device and fill tensor by tensor, so that memory peaks at the model plus one tensor.

    Args:
        config: sizes. source: a checkpoint, its path or Hub id; None for random weights, the same on every machine.
        dtype: name of a torch dtype. device: `cpu`, `cuda`, `cuda:1`.

    Raises:
        WeightsError: the checkpoint does not fit. NotAvailable: the device is not here.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise NotAvailable(f"device {device} is not available", "choose device: cpu")
    kind: torch.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        network = VideoTransformer(config)
    if source is None:
        network = network.to_empty(device=device).to(kind)
        randomise(network)
        return network
    load_into(network, source if isinstance(source, Checkpoint) else open_checkpoint(source, "any"), kind, device)
    return network


@torch.no_grad()
def randomise(network: VideoTransformer, seed: int = 0) -> None:
    """Fill every parameter at random with Wan's scales: activations stay of order one, nothing more is promised."""
    device = network.patch_embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "bias":
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif leaf == "modulation":
            parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
        else:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)


@torch.no_grad()
def disturb(network: VideoTransformer, share: float, seed: int = 0) -> None:
    """Multiply every weight by 1 + `share` times a normal number of its own: the same numbers on every device."""
    for name, parameter in network.named_parameters():
        generator = torch.Generator().manual_seed(int(digest(f"{seed}: {name}")[:12], 16))
        factor = torch.randn(parameter.shape, generator=generator).mul_(share).add_(1)
        parameter.mul_(factor.to(parameter.device))


def random_embeddings(tokens: int, width: int) -> Callable[[tuple[str, ...]], Tensor]:
    """Stand-in for a text encoder beside random weights: normal numbers [batch, tokens, width], fixed by each text."""

    def embed(texts: tuple[str, ...]) -> Tensor:
        seeds = [int(digest(text)[:12], 16) for text in texts]
        drawn = [torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn)

    return embed

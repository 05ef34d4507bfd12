"""A network and clips small enough to train in a test."""

from __future__ import annotations

from dataclasses import replace

import torch

from videomla_models.network.build import randomise
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.small_world.presets import network_config
from videomla_models.spec.config import LatentSizes, TransformerConfig
from videomla_models.spec.window import WindowPolicy
from videomla_models.training.data import ToyData
from videomla_models.training.optimisers import initialise
from videomla_models.training.parallel_pass import Clips

LATENT = replace(
    network_config("latent"),
    dim=24,
    heads=2,
    layers=2,
    ffn=32,
    freq_dim=16,
    latent=LatentSizes(d_c=6, d_q=12, d_nope=6, d_rope=6, pairs=(1, 1, 1)),
)
DENSE = replace(LATENT, attention="dense")
WINDOW = WindowPolicy(5, 1, rotation="read", positions="relative")


def clips(chunks: int = 3, prediction: str = "clean") -> Clips:
    """Clips of `chunks` chunks of two frames, longer than the window from three chunks on."""
    return Clips(WINDOW, 2, chunks, Grid(4, 4), prediction)


def data(clips: int = 4, chunks: int = 3) -> ToyData:
    """Clips as `clips()` describes them."""
    return ToyData(0, clips, chunks, chunk=2)


def network(config: TransformerConfig = LATENT, seed: int = 0, silent: bool = True) -> VideoTransformer:
    """A network with random weights; `silent` ones predict zero, as at the start of a training."""
    torch.manual_seed(seed)
    made = VideoTransformer(config)
    randomise(made, seed)
    if silent:
        initialise(made)
    return made

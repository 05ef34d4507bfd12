"""The small models: sizes, window and sampler, and the worlds that they are made for. Torch-free."""

from __future__ import annotations

from typing import Literal

from videomla_models.small_world import marked, world
from videomla_models.small_world.words import TEXT_LENGTH, Words
from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig, evenly_spaced
from videomla_models.spec.window import WindowPolicy

World = Literal["toy", "marked"]

WORDS: dict[World, Words] = {"toy": world.WORDS, "marked": marked.WORDS}

CHUNK = 3
"""Latent frames per chunk, as in the full-size models."""

PATCH = 4
"""Side of the pixel square that becomes the channels of one latent position."""

WINDOW = WindowPolicy(frames=6, sink=1, rotation="read", positions="relative")
"""VideoMLA's window: one sink frame, two past ones and the chunk, at window-relative positions."""


def text_width(world: World) -> int:
    """Of a word's embedding: which one it is, and where it stands."""
    return len(WORDS[world].names) + TEXT_LENGTH


def network_config(attention: str, world: World = "toy") -> TransformerConfig:
    """Sizes of the small model with `dense` or `latent` attention; they differ in nothing else.

    The latent and the rope key are 56 scalars per token against the dense 384: 14.6 %.
    """
    return TransformerConfig(
        dim=192,
        heads=4,
        layers=5,
        ffn=576,
        in_channels=3 * PATCH * PATCH,
        text_width=text_width(world),
        text_tokens=TEXT_LENGTH,
        rope_theta=64.0,
        attention=attention,
        latent=LatentSizes(d_c=32, d_q=144, d_nope=24, d_rope=24, pairs=(4, 4, 4)),
    )


def sampler_config(steps: int, guidance: float, first_steps: int | None = None) -> SamplerConfig:
    """Evenly spaced denoising steps at the shift of training; the network predicts the clean latent."""
    first = evenly_spaced(first_steps) if first_steps else ()
    return SamplerConfig(evenly_spaced(steps), shift=4.0, guidance=guidance, prediction="clean", first_steps=first)

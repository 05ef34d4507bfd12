"""Codecs with four pixel frames a latent frame for tests: a causal one of a few lines, and a small VAE of Wan's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from videomla_models.rollout.codecs import to_pixels


class BlendCodec:
    """Each latent frame fades in from the one before it over its four pixel frames, so that decoding has a memory.

    Sixteen channels of one colour square of 8 x 8 pixels each, colours in three of them.
    """

    channels, spatial_ratio, temporal_ratio = 16, 8, 4

    def encode(self, frames: Tensor) -> Tensor:
        """The mean colour of each square in the last pixel frame of every latent frame."""
        last = frames[:, :: self.temporal_ratio].movedim(-1, 2).double() / 127.5 - 1
        colours = last.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).mean((-1, -3))
        rest = torch.zeros_like(colours[:, :, :1]).expand(-1, -1, self.channels - 3, -1, -1)
        return torch.cat([colours, rest], 2)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat(list(self.decode_stream([latents])), 1)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        before = None
        for chunk in chunks:
            frames = []
            for latent in chunk[:, :, :3].tanh().double().split(1, 1):
                steps = [1.0] if before is None else [0.25, 0.5, 0.75, 1.0]
                start = latent if before is None else before
                frames += [torch.lerp(start, latent, step) for step in steps]
                before = latent
            wide = torch.cat(frames, 1).repeat_interleave(8, -1).repeat_interleave(8, -2)
            yield to_pixels(wide).movedim(2, -1)


def small_wan_codec():  # type: ignore[no-untyped-def]
    """Wan's VAE with four channels at its widest, random weights; needs diffusers."""
    import diffusers

    from videomla_models.rollout.wan_vae import WanCodec

    torch.manual_seed(0)
    sizes = {"base_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 2, 2, 2], "z_dim": 16}
    return WanCodec(diffusers.AutoencoderKLWan(**sizes).eval())

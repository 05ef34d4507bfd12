"""Between pixels and latents: what a codec gives, and the pixel codec of the toy world."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import OptionError


class Codec(Protocol):
    """What turns pixels into latents and back.

    Pixels are uint8 [batch, frames, height, width, 3]; latents are float [batch, latent frames, channels, h, w].

    Attributes:
        channels: of a latent frame.
        spatial_ratio: pixels per latent position along height and width.
        temporal_ratio: pixel frames that every latent frame after the first stands for.
    """

    channels: int
    spatial_ratio: int
    temporal_ratio: int

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of a whole clip."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of a whole clip."""
        ...

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pixels of each chunk of latents as it comes; joined, they equal `decode` of the joined chunks."""
        ...


def check_pixels(frames: Tensor, ratio: int) -> None:
    """Refuse what is not uint8 [batch, frames, height, width, 3] with sides divisible by `ratio` (`OptionError`)."""
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise OptionError(
            f"pixels are {frames.dtype} {list(frames.shape)}", "give uint8 [batch, frames, height, width, 3]"
        )
    height, width = frames.shape[2:4]
    if height % ratio or width % ratio:
        raise OptionError(f"a frame of {height}x{width} pixels", f"height and width must be multiples of {ratio}")


def to_pixels(images: Tensor) -> Tensor:
    """Float images in [-1, 1] (clamped) as uint8, rounded to the nearest of 256 levels; the shape stays."""
    return images.float().add(1.0).mul(127.5).clamp(0.0, 255.0).round().to(torch.uint8)


class PixelCodec:
    """Space to depth: a `patch` x `patch` square of pixels becomes the channels of one latent position. Lossless.

    Channel order is colour, row, column (that of `torch.pixel_unshuffle`); values are scaled to [-1, 1].
    """

    temporal_ratio = 1

    def __init__(self, patch: int = 4) -> None:
        if patch < 1:
            raise OptionError(f"patch is {patch}", "it must be 1 or more")
        self.spatial_ratio = patch
        self.channels = 3 * patch * patch

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 [batch, frames, height, width, 3] to float32 [batch, frames, channels, height/patch, width/patch]."""
        check_pixels(frames, self.spatial_ratio)
        images = frames.movedim(-1, -3).float().div(127.5).sub(1.0)
        return functional.pixel_unshuffle(images, self.spatial_ratio)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`; values outside [-1, 1] are clamped."""
        if latents.ndim != 5 or latents.shape[2] != self.channels:
            raise OptionError(
                f"latents are {list(latents.shape)}", f"give [batch, frames, {self.channels}, height, width]"
            )
        return to_pixels(functional.pixel_shuffle(latents.float(), self.spatial_ratio)).movedim(-3, -1)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode` of each chunk: frames do not depend on one another."""
        for chunk in chunks:
            yield self.decode(chunk)


class PreviewCodec:
    """A fixed linear map from latents to colours, one flat square a latent position: for looking and for speed alone.

    It stands in for a VAE of the same ratios where none is wanted, and is always named in the model's options.
    """

    def __init__(self, channels: int, spatial_ratio: int, temporal_ratio: int) -> None:
        self.channels, self.spatial_ratio, self.temporal_ratio = channels, spatial_ratio, temporal_ratio
        generator = torch.Generator().manual_seed(0)
        self._map = torch.randn(3, channels, generator=generator) / channels**0.5

    def encode(self, frames: Tensor) -> Tensor:
        """A preview has no inverse; raises `OptionError`."""
        raise OptionError("the preview codec cannot encode", "choose codec: wan")

    def decode(self, latents: Tensor) -> Tensor:
        """[batch, 1 + n, channels, h, w] to uint8 [batch, 1 + n * temporal ratio, height, width, 3]."""
        return torch.cat(list(self.decode_stream([latents])), 1)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Each latent frame as one pixel frame the first time, and `temporal_ratio` equal ones after."""
        started = False
        for chunk in chunks:
            colours = to_pixels(torch.einsum("bfchw,rc->bfhwr", chunk.float(), self._map.to(chunk.device)))
            wide = colours.repeat_interleave(self.spatial_ratio, 2).repeat_interleave(self.spatial_ratio, 3)
            frames = wide.repeat_interleave(self.temporal_ratio, 1)
            yield frames if started else frames[:, self.temporal_ratio - 1 :]
            started = True

"""From a request to pixels: text, rollout, streaming decode, host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.contracts import Frames, Request, Spans
from harness.errors import ModelFault
from models.cache import Grid
from models.codec import Codec
from models.rolling import RollingRollout
from models.rollout import Prompt, PromptSwitch, Rollout, SeededNoise
from models.sampler_config import SamplerConfig
from models.transformer import VideoTransformer
from models.window import WindowPolicy

Embed = Callable[[tuple[str, ...]], Tensor]
"""Text embeddings [batch, tokens, width] of a batch of prompts; the empty text is guidance's second half."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A loaded model: everything that a request needs, on one device.

    Attributes:
        latent_size: height and width of a latent frame. chunk: latent frames per chunk.
    """

    network: VideoTransformer
    codec: Codec
    embed: Embed
    policy: WindowPolicy
    sampler: SamplerConfig
    chunk: int
    latent_size: tuple[int, int]
    device: torch.device

    def stream(self, request: Request, latent_frames: int, spans: Spans) -> Iterator[Frames]:
        """Chunks of `request.frames` frames in all, uint8 [batch, frames, height, width, 3].

        Raises `ModelFault` when latents are not finite.
        """
        config, guided = self.network.config, self.sampler.guidance != 1
        with spans("text"):
            prompt = self._prompt(request.prompts, guided)
            switches = [PromptSwitch(self._latent(s.frame), self._prompt(s.prompts, guided)) for s in request.switches]
        height, width = self.latent_size
        with spans("prefix"):
            grid = Grid(height // config.patch[1], width // config.patch[2])
            kind = RollingRollout if self.policy.schedule == "rolling" else Rollout
            rollout = kind(self.network, self.policy, self.chunk, self.sampler, grid, spans)
            shape, dtype = (config.in_channels, height, width), self.network.patch_embedding.weight.dtype
            noise = SeededNoise(request.seeds, shape, self.device, dtype)
        left = request.frames
        for pixels, finite in self._decoded(rollout.run(noise, prompt, latent_frames, switches), spans):
            with spans("to_host"):
                frames = pixels[:, :left].cpu().numpy()
                if not bool(finite):
                    raise ModelFault("latents are not finite", "check the weights, or choose dtype: float32")
            left -= frames.shape[1]
            yield frames
            if left <= 0:
                return

    def _decoded(self, latents: Iterator[Tensor], spans: Spans) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels of each chunk, and whether its latents were finite.

        The decoder is fed by hand: were it given the rollout itself, its span would hold the next chunk's denoising.
        """
        waiting: list[Tensor] = []
        decoder = self.codec.decode_stream(_feed(waiting))
        for index, chunk in enumerate(latents):
            waiting.append(chunk)
            with spans(f"decode[{index}]"), torch.inference_mode():
                pixels, finite = next(decoder), torch.isfinite(chunk).all()
            yield pixels, finite

    def _prompt(self, texts: tuple[str, ...], guided: bool) -> Prompt:
        wanted = texts + ("",) * len(texts) if guided else texts
        weight = self.network.patch_embedding.weight
        with torch.inference_mode():
            return self.network.prompt(self.embed(wanted).to(weight.device, weight.dtype))

    def _latent(self, frame: int) -> int:
        """The first latent frame that stands for pixel frame `frame` or later ones alone."""
        return -(-frame // self.codec.temporal_ratio)


def _feed(waiting: list[Tensor]) -> Iterator[Tensor]:
    while True:
        yield waiting.pop()

"""From a request to pixels: text, prefix, rollout, streaming decode, host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harness.contracts import Frames, Request, Spans, no_spans
from harness.errors import ModelFault, OptionError
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.codecs import Codec
from videomla_models.rollout.rolling import RollingRollout
from videomla_models.rollout.rollout import Prompt, PromptSwitch, Rollout, SeededNoise
from videomla_models.spec.config import SamplerConfig
from videomla_models.spec.latents import check_latents
from videomla_models.spec.storage import EXACT, Storage
from videomla_models.spec.timeline import Leg, Timeline
from videomla_models.spec.window import WindowPolicy

Embed = Callable[[tuple[str, ...]], Tensor]
"""Text embeddings [batch, tokens, width] of a batch of prompts; the empty text is guidance's second half."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A loaded model: everything that a request needs, on one device.

    Attributes:
        latent_size: height and width of a latent frame. chunk: latent frames per chunk. storage: of the cache.
        at_once: requests of a batch that pass through the network together; 0 for all.
    """

    network: VideoTransformer
    codec: Codec
    embed: Embed
    policy: WindowPolicy
    sampler: SamplerConfig
    chunk: int
    latent_size: tuple[int, int]
    device: torch.device
    storage: Storage = EXACT
    at_once: int = 0

    def stream(self, request: Request, timeline: Timeline, spans: Spans) -> Iterator[Frames]:
        """Chunks of `request.frames` frames in all, uint8 [batch, frames, height, width, 3].

        Raises `ModelFault` when latents are not finite.
        """
        with spans("text"):
            prompt = self._by_part(request.prompts)
            switches = [self._by_part(switch.prompts) for switch in request.switches]
        happens = timeline.switched([switch.frame for switch in request.switches], request.frames)
        later = deque(zip(happens, switches, strict=True))
        with spans("prefix"):
            noise = SeededNoise(request.seeds, self._shape, self.device, self._dtype)
            start = self._encoded(request)
        chunk = 0
        legs = timeline.legs(request.frames)
        for number, leg in enumerate(legs, 1):
            running = _Running(self, leg, start, spans, chunk, goes_on=number < len(legs))
            starts = timeline.starts(leg)
            here = [later.popleft() for frame in [frame for frame, _ in later] if frame in starts]
            at = [(leg.prefix + self.chunk * starts.index(frame), text) for frame, text in here]
            yield from running.pixels(noise, prompt, at)
            start, chunk = running.last_chunk, chunk + leg.chunks
            prompt = here[-1][1] if here else prompt

    @property
    def _dtype(self) -> torch.dtype:
        return self.network.patch_embedding.weight.dtype

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.network.config.in_channels, *self.latent_size

    @property
    def grid(self) -> Grid:
        """Tokens of a latent frame."""
        patch = self.network.config.patch
        return Grid(self.latent_size[0] // patch[1], self.latent_size[1] // patch[2])

    def rollout(self, spans: Spans, first: int) -> Rollout:
        """A new rollout, whose first chunk has the number `first`."""
        kind = RollingRollout if self.policy.schedule == "rolling" else Rollout
        return kind(self.network, self.policy, self.chunk, self.sampler, self.grid, spans, first, self.storage)

    def rollouts(self, batch: int, spans: Spans, first: int) -> list[Rollout]:
        """A new rollout for each part of a batch; those of equal size work in the same buffers, in turns."""
        parts = self.parts(batch)
        rollouts = [self.rollout(spans, first) for _ in parts]
        for part, rollout in zip(parts[1:], rollouts[1:], strict=True):
            if part.stop - part.start == parts[0].stop - parts[0].start:
                rollout.cache.share(rollouts[0].cache)
        return rollouts

    def run(
        self,
        rollouts: Sequence[Rollout],
        noise: SeededNoise,
        prompt: Sequence[Prompt],
        frames: int,
        switches: Sequence[tuple[int, Sequence[Prompt]]] = (),
        prefix: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """As `Rollout.run`, of rollouts of the parts of a batch: a chunk of each part after the other.

        Args:
            prompt: by part, as that of a switch, which has its latent frame beside it.
        """
        parts = self.parts(len(noise.generators))
        runs = [
            rollout.run(
                noise.of(part),
                own,
                frames,
                [PromptSwitch(frame, texts[number]) for frame, texts in switches],
                None if prefix is None else prefix[part],
            )
            for number, (rollout, part, own) in enumerate(zip(rollouts, parts, prompt, strict=True))
        ]
        for chunks in zip(*runs, strict=True):
            yield chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def parts(self, batch: int) -> list[slice]:
        """The requests that pass through the network together."""
        size = self.at_once or batch
        return [slice(first, min(first + size, batch)) for first in range(0, batch, size)]

    def _by_part(self, texts: tuple[str, ...]) -> list[Prompt]:
        return [self._prompt(texts[part]) for part in self.parts(len(texts))]

    def on_latents(self, latents: Tensor, request: Request) -> Iterator[Tensor]:
        """What the network makes of each chunk behind the true chunks before it, in every denoising step.

        Args:
            latents: [B, frames, C, H, W], of any size that the patch divides; frames beyond whole chunks are left out.
            request: prompts and seeds.

        Raises `OptionError` for latents of another shape, too few frames, and the rolling schedule.
        """
        batch, frames, channels, height, width = latents.shape
        if batch != request.batch:
            raise OptionError(f"latents of {batch} clips for a request of {request.batch}", "give as many")
        check_latents((batch, channels, frames, height, width), self.network.config, self.policy, self.chunk)
        whole = frames - frames % self.chunk
        with torch.inference_mode():
            prompt = self._prompt(request.prompts)
        there = replace(self, latent_size=(height, width))
        past = latents[:, :whole].to(self.device, self._dtype)
        noise = SeededNoise(request.seeds, there._shape, self.device, self._dtype)
        yield from there.rollout(no_spans, 0).run(noise, prompt, whole, history=past)

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of pixels, where the network has its own."""
        with torch.inference_mode():
            return self.codec.encode(frames).to(self.device, self._dtype)

    def _encoded(self, request: Request) -> Tensor | None:
        """Latents of the prefixes that the clips continue."""
        if not request.prefixes:
            return None
        return self.encode(torch.from_numpy(np.stack([prefix.read() for prefix in request.prefixes])).to(self.device))

    def _prompt(self, texts: tuple[str, ...]) -> Prompt:
        batch = texts + ("",) * len(texts) if self.sampler.guidance != 1 else texts
        weight = self.network.patch_embedding.weight
        with torch.inference_mode():
            return self.network.prompt(self.embed(batch).to(weight.device, weight.dtype))


class _Running:
    """One leg of a clip: a rollout and a decoder of its own.

    Args:
        start: latents that the leg continues, [batch, leg.prefix, channels, height, width]. first: number of its first
            chunk. goes_on: whether another leg follows.

    Attributes:
        last_chunk: latents that a next leg continues, once this one has given its pixels.
    """

    def __init__(
        self, pipeline: Pipeline, leg: Leg, start: Tensor | None, spans: Spans, first: int, goes_on: bool
    ) -> None:
        self.pipeline, self.leg, self.start, self.spans, self.first = pipeline, leg, start, spans, first
        self.goes_on = goes_on
        self.last_chunk: Tensor | None = None
        # The decoder is fed by hand: were it given the rollout itself, its span would hold the next chunk's denoising.
        self._waiting: list[Tensor] = []
        self._decoder = pipeline.codec.decode_stream(_feed(self._waiting))

    def pixels(
        self, noise: SeededNoise, prompt: Sequence[Prompt], switches: Sequence[tuple[int, Sequence[Prompt]]]
    ) -> Iterator[Frames]:
        """The leg's frames, a chunk at a time; of a prefix, those that belong to the clip come with the first."""
        leg, pipeline = self.leg, self.pipeline
        with self.spans("prefix"):
            rollouts = pipeline.rollouts(len(noise.generators), self.spans, self.first)
            ahead = [] if self.start is None else [self._decode(self.start)[:, leg.skip :]]
        left = leg.frames
        frames = leg.chunks * pipeline.chunk
        chunks = pipeline.run(rollouts, noise, prompt, frames, switches, self.start)
        for index, latents in enumerate(chunks, self.first):
            with self.spans(f"decode[{index}]"), torch.inference_mode():
                decoded, finite = self._decode(latents), torch.isfinite(latents).all()
            with self.spans("to_host"):
                shown = torch.cat([*ahead, decoded], 1)[:, :left].cpu().numpy()
                if not bool(finite):
                    raise ModelFault("latents are not finite", "check the weights, or choose dtype: float32")
            ahead, left = [], left - shown.shape[1]
            yield shown
            if left <= 0:
                self.last_chunk = self._continued(latents, decoded) if self.goes_on else None
                return

    def _decode(self, latents: Tensor) -> Tensor:
        self._waiting.append(latents)
        with torch.inference_mode():
            return next(self._decoder)

    def _continued(self, latents: Tensor, decoded: Tensor) -> Tensor:
        """A restart's first latents: the last pixel frame of the last chunk's first latent frame as an image, and the
        latents after it, as CausVid joins them. There the image stays in bfloat16; here it goes through 8 bits.
        """
        behind = (self.pipeline.chunk - 1) * self.pipeline.codec.temporal_ratio
        image = decoded[:, decoded.shape[1] - behind - 1 : decoded.shape[1] - behind]
        with self.spans("prefix"):
            return torch.cat([self.pipeline.encode(image), latents[:, 1:]], 1)


def _feed(waiting: list[Tensor]) -> Iterator[Tensor]:
    while True:
        yield waiting.pop()

"""Training clips of the small worlds: rendered as they are asked for, never of a held-out caption or seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomla_models.rollout.codecs import PixelCodec
from videomla_models.small_world import marked
from videomla_models.small_world.presets import CHUNK, PATCH, WORDS, World
from videomla_models.small_world.text import NULL_PROMPT, embed
from videomla_models.small_world.world import BACKGROUNDS, Caption, held_out, render_batch, training_captions
from videomla_models.training.parallel_pass import Batch

FIRST_TRAINING_SEED = 2**20
"""Training clips draw their seeds from here on; evaluation uses smaller ones."""

Drawn = tuple[Tensor, list[str], Tensor]
"""Latents [clips, frames, C, h, w], texts (some empty), and weights of the loss, as the latents."""


@dataclass(frozen=True, slots=True)
class WorldData(ABC):
    """Clips of `chunks` chunks, `clips` of them a step.

    Attributes:
        world: whose clips they are.
        seed: of captions and clips. chunk: latent frames per chunk, a frame of pixels each.
        foreground: extra weight of pixels that are not background.
    """

    world: ClassVar[World]
    seed: int = 0
    clips: int = 8
    chunks: int = 4
    foreground: float = 2.0
    chunk: int = CHUNK

    @abstractmethod
    def drawn(self, step: int, text_drop: float = 0.0) -> Drawn:
        """The clips of one step, a function of the seed and the step alone."""

    def batch(self, step: int, text_drop: float = 0.0) -> Batch:
        """The clips of one step with their texts embedded."""
        latents, texts, weight = self.drawn(step, text_drop)
        return Batch(latents, embed(WORDS[self.world], texts), weight)

    def no_prompt(self, clips: int) -> Tensor:
        """Embeddings of padding alone."""
        return embed(WORDS[self.world], [NULL_PROMPT] * clips)

    def _encoded(self, clips: NDArray[np.uint8], figure: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Latents of pixels, and their weights, from the pixels that are not background, [..., 32, 32]."""
        codec = PixelCodec(PATCH)
        mask = codec.encode(torch.from_numpy(np.where(figure[..., None], 255, 0).astype(np.uint8).repeat(3, -1)))
        return codec.encode(torch.from_numpy(clips)), 1 + self.foreground * (mask + 1) / 2


@dataclass(frozen=True, slots=True)
class ToyData(WorldData):
    """Clips of the toy world.

    Attributes:
        crosses: share of clips whose shape is exchanged for a cross, the one learned last; 0 leaves all as drawn.
    """

    world: ClassVar[World] = "toy"
    crosses: float = 0.0

    def drawn(self, step: int, text_drop: float = 0.0) -> Drawn:
        """As every world's."""
        rng = np.random.default_rng([self.seed, step])
        pool = training_captions()
        captions = [self._crossed(step, i, pool[j]) for i, j in enumerate(rng.integers(len(pool), size=self.clips))]
        seeds = [int(s) for s in rng.integers(FIRST_TRAINING_SEED, 2**31, size=self.clips)]
        clips = render_batch(captions, seeds, self.chunks * self.chunk)
        papers = np.array([BACKGROUNDS[c.background] for c in captions], np.uint8)[:, None, None, None, :]
        latents, weight = self._encoded(clips, (clips != papers).any(-1))
        return latents, [NULL_PROMPT if rng.random() < text_drop else str(c) for c in captions], weight

    def _crossed(self, step: int, index: int, caption: Caption) -> Caption:
        """The caption with a cross for its shape, in a share of the clips; never a held-out one."""
        if np.random.default_rng([self.seed, step, index]).random() >= self.crosses:
            return caption
        cross = replace(caption, shape="cross")
        return caption if cross in held_out() else cross


@dataclass(frozen=True, slots=True)
class MarkedData(WorldData):
    """Clips of the marked world.

    Attributes:
        kinds: of captions, each as often as the others.
        gap: frames, at most, that half of the clips leave out after their first chunk, so that the sink is that much
            older than the frames beside it. The next chunk's past is torn there, so it only serves as past itself.
    """

    world: ClassVar[World] = "marked"
    kinds: tuple[marked.Kind, ...] = marked.KINDS
    gap: int = 0

    def drawn(self, step: int, text_drop: float = 0.0) -> Drawn:
        """As every world's."""
        rng = np.random.default_rng([self.seed, step])
        pools = [marked.training_captions(self.kinds[kind]) for kind in rng.integers(len(self.kinds), size=self.clips)]
        captions = [pool[rng.integers(len(pool))] for pool in pools]
        seeds = [int(s) for s in rng.integers(FIRST_TRAINING_SEED, 2**31, size=self.clips)]
        gaps = rng.integers(self.gap + 1, size=self.clips) * (rng.random(self.clips) < 0.5)
        times = np.arange(self.chunks * self.chunk)
        later = gaps[:, None] * (times >= self.chunk)
        latents, weight = self._encoded(*marked.render_batch(captions, seeds, times + later))
        weight[torch.from_numpy(gaps > 0), self.chunk : 2 * self.chunk] = 0
        return latents, [NULL_PROMPT if rng.random() < text_drop else str(c) for c in captions], weight

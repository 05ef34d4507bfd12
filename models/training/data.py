"""Training clips of the small world: rendered as they are asked for, never of a held-out caption or seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videomla_models.rollout.codecs import PixelCodec
from videomla_models.small_world.presets import CHUNK, PATCH
from videomla_models.small_world.text import NULL_PROMPT, embed
from videomla_models.small_world.world import BACKGROUNDS, Caption, held_out, render_batch, training_captions
from videomla_models.training.parallel_pass import Batch

FIRST_TRAINING_SEED = 2**20
"""Training clips draw their seeds from here on; evaluation uses smaller ones."""


@dataclass(frozen=True, slots=True)
class ToyData:
    """Clips of `chunks` chunks, `clips` of them a step.

    Attributes:
        seed: of captions and clips. chunk: latent frames per chunk, a frame of pixels each.
        foreground: extra weight of pixels that belong to the shape.
        crosses: share of clips whose shape is exchanged for a cross, the one learned last; 0 leaves all as drawn.
    """

    seed: int = 0
    clips: int = 8
    chunks: int = 4
    foreground: float = 2.0
    crosses: float = 0.0
    chunk: int = CHUNK

    def drawn(self, step: int, text_drop: float = 0.0) -> tuple[Tensor, list[str], Tensor]:
        """The clips of one step, a function of the seed and the step alone.

        Returns:
            Latents [clips, frames, C, h, w], texts (some empty), and weights of the loss, as the latents.
        """
        rng = np.random.default_rng([self.seed, step])
        pool = training_captions()
        captions = [self._crossed(step, i, pool[j]) for i, j in enumerate(rng.integers(len(pool), size=self.clips))]
        seeds = [int(s) for s in rng.integers(FIRST_TRAINING_SEED, 2**31, size=self.clips)]
        clips = render_batch(captions, seeds, self.chunks * self.chunk)
        papers = np.array([BACKGROUNDS[c.background] for c in captions], np.uint8)[:, None, None, None, :]
        shape = (clips != papers).any(-1, keepdims=True)
        codec = PixelCodec(PATCH)
        mask = codec.encode(torch.from_numpy(np.where(shape, 255, 0).astype(np.uint8).repeat(3, -1)))
        texts = [NULL_PROMPT if rng.random() < text_drop else str(c) for c in captions]
        return codec.encode(torch.from_numpy(clips)), texts, 1 + self.foreground * (mask + 1) / 2

    def _crossed(self, step: int, index: int, caption: Caption) -> Caption:
        """The caption with a cross for its shape, in a share of the clips; never a held-out one."""
        if np.random.default_rng([self.seed, step, index]).random() >= self.crosses:
            return caption
        cross = replace(caption, shape="cross")
        return caption if cross in held_out() else cross

    def batch(self, step: int, text_drop: float = 0.0) -> Batch:
        """The clips of one step with their texts embedded."""
        latents, texts, weight = self.drawn(step, text_drop)
        return Batch(latents, embed(texts), weight)

    def no_prompt(self, clips: int) -> Tensor:
        """Embeddings of padding alone."""
        return embed([NULL_PROMPT] * clips)

"""A rollout that keeps every key in a list, for tests: no ring, no window, no shared buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from videomla_models.rollout.sampler import Schedule


class EveryKey:
    """Keys and values of every frame since the rollout began, at their absolute positions."""

    def __init__(self, network: Any, rows: int, columns: int) -> None:
        self.past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(network.config.layers)]
        self.table, self.rows, self.columns = network.rotary_table(), rows, columns
        self.first, self.keep = 0, False

    def attend(self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: object) -> Tensor:
        count = query.shape[1] // (self.rows * self.columns)
        angles = self.table.angles(range(self.first, self.first + count), self.rows, self.columns)
        query, positional = _turn(query, angles), _turn(positional, angles)
        seen = [*self.past[layer], (positional, content)]
        if self.keep:
            self.past[layer] = seen
        keys, values = (torch.cat(parts, 1).movedim(1, 2) for parts in zip(*seen, strict=True))
        return scaled_dot_product_attention(query.movedim(1, 2), keys, values).movedim(1, 2).flatten(2)


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]).flatten(-2)


class SlowRollout:
    """One rollout of `model`, a loaded full-size preset with a network in float64."""

    def __init__(self, model: Any, random: torch.Generator) -> None:
        self.pipeline = model._loaded()
        self.network, self.schedule, self.random = self.pipeline.network, Schedule(model.sampler_config()), random
        height, width = model.latent_size()
        self.shape = (self.network.config.in_channels, height, width)
        self.context = EveryKey(self.network, height // 2, width // 2)

    def prompt(self, text: str) -> Any:
        return self.network.prompt(self.pipeline.embed((text,)).double())

    def noise(self, frames: int) -> Tensor:
        return torch.randn((frames, *self.shape), generator=self.random)[None].double()

    def make(self, frames: int, text: str) -> Tensor:
        """The next `frames` latent frames, [1, frames, C, H, W]."""
        x = self.noise(frames)
        for step, sigma in enumerate(self.schedule.sigmas):
            time = torch.full((1, 1), self.schedule.timesteps[step])
            clean = x - sigma * self.network(x, time, self.prompt(text), self.context)
            if step + 1 < len(self.schedule):
                after = self.schedule.sigmas[step + 1]
                x = (1 - after) * clean + after * self.noise(frames)
        self.take(clean, text)
        return clean

    def take(self, clean: Tensor, text: str) -> None:
        """Remember finished frames."""
        self.context.keep = True
        self.network(clean, torch.zeros(1, 1), self.prompt(text), self.context)
        self.context.keep = False
        self.context.first += clean.shape[1]

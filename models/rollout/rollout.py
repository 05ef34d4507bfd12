"""A rollout: chunks of latents one after the other, each denoised in a few steps against the cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from harness.contracts import Spans, no_spans, pixels_alone
from harness.errors import OptionError
from videomla_models.network.attention.context import Context, PassContext
from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.cache import ChunkContext, Grid
from videomla_models.network.heads import stream_cache
from videomla_models.network.transformer import Modulations, VideoTransformer
from videomla_models.rollout.sampler import Schedule, guided
from videomla_models.spec.config import SamplerConfig
from videomla_models.spec.storage import EXACT, Storage
from videomla_models.spec.window import WindowPolicy

Prompt = list[TextKeys]


class Noise(Protocol):
    """Where a rollout's random numbers come from, in the order in which they are used."""

    def start(self, first: int, count: int) -> Tensor:
        """Start noise of latent frames `first` to `first + count - 1`: [B, count, C, H, W]."""
        ...

    def renoise(self, count: int) -> Tensor:
        """Fresh noise for `count` latent frames, between two denoising steps: [B, count, C, H, W]."""
        ...


class SeededNoise:
    """One generator per clip, so that a clip does not depend on the batch it is made in.

    Numbers are drawn on the host in float32 and then moved, so that every device starts from the same noise.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape, self.device, self.dtype = shape, device, dtype

    def of(self, clips: slice) -> SeededNoise:
        """The same numbers for some of the clips."""
        some = SeededNoise((), self.shape, self.device, self.dtype)
        some.generators = self.generators[clips]
        return some

    def start(self, first: int, count: int) -> Tensor:
        """Start noise; drawn chunk by chunk, so that a longer clip begins as a shorter one."""
        return self.renoise(count)

    def renoise(self, count: int) -> Tensor:
        """Fresh normal numbers for every clip of the batch."""
        drawn = [torch.randn((count, *self.shape), generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device, self.dtype, non_blocking=True)


@dataclass(frozen=True, slots=True)
class PromptSwitch:
    """A new prompt, in force from the first chunk that starts at or after latent frame `frame`."""

    frame: int
    prompt: Prompt


class Rollout:
    """Streams latents for one batch of requests.

    Args:
        network: the transformer, on its device.
        policy: window policy. chunk: latent frames per chunk. sampler: denoising steps and shift.
        grid: tokens of a latent frame.
        spans: names the stages for whoever measures. first: number of the first chunk in their names.
        storage: how the cache is stored.

    With guidance the batch is doubled: the first half follows the prompt, the second half has none; so is its cache.
    """

    def __init__(
        self,
        network: VideoTransformer,
        policy: WindowPolicy,
        chunk: int,
        sampler: SamplerConfig,
        grid: Grid,
        spans: Spans = no_spans,
        first: int = 0,
        storage: Storage = EXACT,
    ) -> None:
        self.network, self.policy, self.chunk, self.spans = network, policy, chunk, spans
        # What is measured is what the published pipelines do: a whole clean pass behind every chunk.
        self.pixels_alone = spans is pixels_alone
        self.fills = self.pixels_alone and network.config.attention != "linear"
        self.first = first
        later = Schedule(sampler)
        first_chunk = Schedule(replace(sampler, steps=sampler.first_steps)) if sampler.first_steps else later
        self.schedules = first_chunk, later
        self.schedule = later
        self.last = len(self.schedule) - 1
        self.guidance = sampler.guidance
        self.capacity = policy.capacity(chunk)
        layers = network.config.layers
        self.cache = stream_cache(layers, policy, chunk, grid, network.rotary_table(), storage)
        if network.config.attention == "latent":
            self.cache.selection.into_latent = network.into_latent
        self.finished: list[Tensor] = []
        self._modulations: defaultdict[float, list[Modulations]] = defaultdict(list)
        self.device = network.patch_embedding.weight.device

    def chunks(
        self,
        noise: Noise,
        prompt: Prompt,
        frames: int,
        switches: Sequence[PromptSwitch] = (),
        prefix: Tensor | None = None,
        history: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Finished chunks [B, chunk, C, H, W] until `frames` latent frames are out, in the gradient mode of the caller.

        Args:
            noise: random numbers. prompt: for the whole batch, guidance's second half included.
            frames: latent frames to generate, a multiple of the chunk; the prefix is not counted.
            switches: later prompts, in order. prefix: clean latents [B, n, C, H, W] that the clip continues.
            history: latents [B, frames, C, H, W] that stand in for the finished chunks in the cache, so that every
                chunk is made on a given past and not on the rollout's own.
        """
        if frames < 1 or frames % self.chunk:
            raise OptionError(
                f"{frames} latent frames are not whole chunks of {self.chunk}",
                f"ask for a multiple of {self.chunk}, at least {self.chunk}",
            )
        first = self._prefill(prefix, prompt)
        waiting = list(switches)
        end = self.first + frames // self.chunk
        for index in range(self.first, end):
            while waiting and first >= waiting[0].frame:
                prompt = waiting.pop(0).prompt
                with self.spans("switch"):
                    self._switch(prompt, first)
            with self.spans(f"chunk[{index}].denoise"):
                self._choose_steps(index)
                context = self.cache.chunk(first, self.chunk, self.device, prompt)
                latents = self._denoise(noise, prompt, context, first)
            past = latents if history is None else history[:, first : first + self.chunk]
            if not (self.pixels_alone and index == end - 1):
                with self.spans(f"chunk[{index}].clean_pass"):
                    self._clean_pass(past, prompt, context)
                    self.cache.finish(first, self.chunk, past)
                self._remember(past)
            yield latents
            first += self.chunk

    run = torch.inference_mode()(chunks)
    """`chunks` without gradients, as all but training asks for them."""

    def _prefill(self, prefix: Tensor | None, prompt: Prompt) -> int:
        if prefix is None:
            return 0
        with self.spans("prefix"):
            for first in range(0, prefix.shape[1], self.chunk):
                part = prefix[:, first : first + self.chunk]
                context = self.cache.chunk(first, part.shape[1], part.device, prompt)
                self._clean_pass(part, prompt, context)
                self.cache.finish(first, part.shape[1], part)
                self._remember(part)
        return prefix.shape[1]

    def _choose_steps(self, index: int) -> None:
        """Of the first chunk of a clip, or of later ones, where they have steps of their own."""
        first, later = self.schedules
        if first is not later:
            self.schedule = later if index else first
            self.last = len(self.schedule) - 1

    def _denoise(self, noise: Noise, prompt: Prompt, context: PassContext, first: int) -> Tensor:
        x = noise.start(first, self.chunk)
        for step in range(self.last + 1):
            x = self._clean(x, step, prompt, context)
            if step < self.last:
                x = self.schedule.noisy(x, noise.renoise(self.chunk), self.schedule.sigmas[step + 1])
        return x

    def _clean(self, x: Tensor, step: int, prompt: Prompt, context: PassContext) -> Tensor:
        """The clean latents that the network sees behind those of a denoising step."""
        output = self._predict(x, self.schedule.timesteps[step], prompt, context)
        return self.schedule.clean(x, output, self.schedule.sigmas[step])

    def _predict(self, x: Tensor, timestep: float, prompt: Prompt, context: PassContext) -> Tensor:
        if self.guidance == 1:
            return self._forward(x, timestep, prompt, context)
        with_prompt, without = self._forward(torch.cat([x, x]), timestep, prompt, context).chunk(2)
        return guided(with_prompt, without, self.guidance)

    def _forward(self, x: Tensor, timestep: float, prompt: Prompt, context: Context) -> Tensor:
        times, kept = self._steps_at(timestep, x.device)
        out: Tensor = self.network(x, times, prompt, context, kept)
        return out

    def _steps_at(self, timestep: float, device: torch.device) -> tuple[Tensor, list[Modulations] | None]:
        kept = None if torch.is_grad_enabled() else self._modulations[timestep]
        return torch.full((1, 1), timestep, device=device), kept

    def _clean_pass(self, latents: Tensor, prompt: Prompt, context: PassContext) -> None:
        """One more pass on the finished frames, which overwrites their noisy entries."""
        context.clean = True
        doubled = latents if self.guidance == 1 else torch.cat([latents, latents])
        timestep = self.schedule.config.clean_timestep
        if self.fills and isinstance(context, ChunkContext) and context.fillable:
            times, kept = self._steps_at(timestep, latents.device)
            self.network.fill(doubled, times, prompt, context, kept)
        else:
            self._forward(doubled, timestep, prompt, context)

    def _remember(self, latents: Tensor) -> None:
        """Keep finished frames as far back as a rebuild can need them."""
        if self.policy.rebuilds:
            self.finished.append(latents)
            while sum(part.shape[1] for part in self.finished[1:]) >= self.capacity:
                self.finished.pop(0)

    def _switch(self, prompt: Prompt, first: int) -> None:
        if first == 0 or self.policy.switch == "keep":
            return
        if self.policy.switch == "flush":
            self.cache.compact(self.cache.ring.keep(self.policy.flush_keep))
            return
        self._rebuild(prompt, first)
        if self.policy.switch == "anchor":
            self.cache.anchor.marked = first

    def _rebuild(self, prompt: Prompt, first: int) -> None:
        """Run the window's finished frames once more, in one pass, with the new prompt (LongLive's recache).

        Without `keep_sink_on_rebuild` the sink becomes the oldest of these frames.
        """
        count = min(self.capacity, first)
        frames = torch.cat(self.finished, dim=1)[:, -count:]
        oldest = first - count
        context: PassContext
        if self.policy.keep_sink_on_rebuild and oldest > 0:
            context = self.cache.rebuild_behind_sink(oldest, count, frames.device)
        else:
            self.cache.restart(range(oldest, first))
            context = self.cache.chunk(oldest, count, frames.device)
        self._clean_pass(frames, prompt, context)

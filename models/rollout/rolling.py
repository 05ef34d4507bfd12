"""Rolling Forcing's schedule: several chunks at rising noise levels are denoised in one pass (arXiv 2509.25161).

A window of as many chunks as there are denoising steps slides by one chunk a pass; its first chunk is finished. Only
finished chunks are cached. The first chunk of the clip is the anchor: cached unrotated, and rotated on each read to
stand just before the frames that are read with it. Rules as in the public `rolling_forcing_inference.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.errors import OptionError
from videomla_models.network.attention.context import AttendWindow, rotate_tail
from videomla_models.network.cache import StreamCache
from videomla_models.ops.rope import rotate
from videomla_models.rollout.rollout import Noise, Prompt, PromptSwitch, Rollout
from videomla_models.spec.ring import Ring
from videomla_models.spec.window import check_rolling


class RollingContext:
    """One pass over `frames`: what it reads of the cache, and whether it writes its entries.

    Args:
        slots: cached slots to read besides the anchor and the pass's own entries.
        anchor_at: temporal position of the anchor's first frame; None when it is not read.
        write_to: slot of the pass's first frame when its entries are to be cached; None otherwise.
    """

    def __init__(
        self,
        cache: StreamCache,
        frames: range,
        slots: Sequence[int],
        anchor_at: int | None,
        write_to: int | None,
        device: torch.device,
    ) -> None:
        self.cache, self.slots, self.write_to = cache, slots, write_to
        grid, table = cache.grid, cache.table
        self.rotation = table(frames, grid.height, grid.width, device)
        self.anchor = None
        if anchor_at is not None:
            self.anchor = table(range(anchor_at, anchor_at + cache.ring.sink), grid.height, grid.width, device)

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """Attend to the anchor, the chosen slots and the pass's own entries, in that order."""
        cache, tokens = self.cache.layers[layer], self.cache.grid.tokens
        own = rotate(positional, self.rotation)
        keys, contents = cache.allocated(positional, content, self.cache.rows)
        if self.write_to is not None:
            here = slice(self.write_to * tokens, self.write_to * tokens + own.shape[1])
            keys[:, here] = positional if self.write_to == 0 else own
            contents[:, here] = content
            cache.keep(range(self.write_to, self.write_to + own.shape[1] // tokens))
        chosen = [slice(slot * tokens, (slot + 1) * tokens) for slot in self.slots]
        seen = [(keys[:, rows], contents[:, rows]) for rows in chosen] + [(own, content)]
        if self.anchor is not None:
            sink = self.cache.ring.sink * tokens
            seen.insert(0, (rotate(keys[:, :sink], self.anchor), contents[:, :sink]))
        joined = (torch.cat(parts, 1) for parts in zip(*seen, strict=True))
        return attend_window(rotate_tail(query, self.rotation), *joined)


class RollingRollout(Rollout):
    """A rollout in which chunk i stands at denoising step w - i in pass w, and leaves finished after the last step.

    Attention spans at most `policy.frames - policy.sink` latent frames, anchor and queries included.
    """

    @torch.inference_mode()
    def run(
        self,
        noise: Noise,
        prompt: Prompt,
        frames: int,
        switches: Sequence[PromptSwitch] = (),
        prefix: Tensor | None = None,
        history: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """As `Rollout.run`; this schedule knows no switches, prefix or history, nor fewer chunks than steps."""
        chunks, steps = frames // self.chunk, len(self.schedule)
        self._check(frames, chunks, steps, bool(switches) or prefix is not None or history is not None)
        noisy: dict[int, Tensor] = {}
        for window in range(chunks + steps - 1):
            oldest, newest = max(0, window - steps + 1), min(chunks - 1, window)
            inside = range(oldest, newest + 1)
            with self.spans(f"chunk[{oldest}].denoise"):
                if newest == window:
                    noisy[newest] = noise.start(newest * self.chunk, self.chunk)
                x = torch.cat([noisy[i] for i in inside], dim=1)
                clean = self._denoise_window(x, prompt, window, inside)
                for offset, i in enumerate(inside):
                    step = window - i
                    part = slice(offset * self.chunk, (offset + 1) * self.chunk)
                    if step < steps - 1:
                        # The public code draws numbers for the whole window each time and uses these.
                        fresh = noise.renoise(x.shape[1])[:, part]
                        noisy[i] = self.schedule.noisy(clean[:, part], fresh, self.schedule.sigmas[step + 1])
            if window - oldest == steps - 1:
                finished = clean[:, : self.chunk]
                with self.spans(f"chunk[{oldest}].clean_pass"):
                    self._cache_chunk(finished, prompt, oldest)
                noisy.pop(oldest)
                yield finished

    def _check(self, frames: int, chunks: int, steps: int, extras: bool) -> None:
        if frames % self.chunk or chunks < steps:
            raise OptionError(
                f"{frames} latent frames do not fit rolling windows of {steps} chunks of {self.chunk}",
                f"ask for a multiple of {self.chunk}, at least {steps * self.chunk}",
            )
        if extras:
            raise OptionError(
                "the rolling schedule takes no prefix, no history and no prompt switch", "use schedule: chunk"
            )
        check_rolling(self.policy, self.chunk, self.schedule.config, self.network.config.attention)

    def _denoise_window(self, x: Tensor, prompt: Prompt, window: int, inside: range) -> Tensor:
        """One pass over all chunks of the window, each at its own step; returns their clean latents."""
        oldest, first = inside[0], inside[0] * self.chunk
        ring, sink, own = self.cache.ring, self.policy.sink, x.shape[1]
        frames = range(first, first + own)
        if oldest == 0:
            context = RollingContext(self.cache, frames, [], None, None, x.device)
        else:
            # Of a span of `capacity - sink` frames, anchor and queries take their part.
            room = self.capacity - sink - sink - own
            working = range(max(sink, first - room), first)
            slots = [ring.slots.index(frame) for frame in working]
            anchor = first - len(working) - sink
            context = RollingContext(self.cache, frames, slots, anchor, None, x.device)
        steps = [window - i for i in inside for _ in range(self.chunk)]
        times = torch.tensor([self.schedule.timesteps[s] for s in steps], device=x.device).expand(x.shape[0], -1)
        output = self.network(x, times, prompt, context)
        parts = zip(torch.split(x, 1, 1), torch.split(output, 1, 1), steps, strict=True)
        return torch.cat([self.schedule.clean(a, b, self.schedule.sigmas[s]) for a, b, s in parts], dim=1)

    def _cache_chunk(self, latents: Tensor, prompt: Prompt, chunk: int) -> None:
        """The clean pass of a finished chunk, which reads the latest frames and writes its own entries."""
        first = chunk * self.chunk
        ring: Ring = self.cache.ring
        placement = ring.place(first, self.chunk)
        own = placement.runs[0].slot
        fits = len(ring.slots) <= self.capacity - self.policy.sink
        others = [s for s in range(self.policy.sink, len(ring.slots)) if not own <= s < own + self.chunk]
        frames, anchor = range(first, first + self.chunk), 0 if fits and chunk > 0 else None
        context = RollingContext(self.cache, frames, others, anchor, own, latents.device)
        self._forward(latents, self.schedule.config.clean_timestep, prompt, context)

"""One layer of each form of self-attention over its real cache: FLOPs and bytes counted, time measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.probes.timing.clock import Clock, time_calls
from harness.probes.timing.flops import FlopCounter
from harness.probes.timing.repeat import FullClock
from videomla_models.network.attention.dense import DenseAttention
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.attention.linear import LinearAttention
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.ops.rope import RotaryTable
from videomla_models.spec.config import TransformerConfig
from videomla_models.spec.window import WindowPolicy

if TYPE_CHECKING:
    from videomla_models.probes.complexity_sizes import ComplexityOptions, Form


MOST_CALLS = 200
"""Calls that one timing takes at most: of so many the 95 % interval of the median reaches from the 43rd to the 57th
percentile (Conover, Practical Nonparametric Statistics, section 3.2), and a record keeps every one of every length."""

_CORE = ("scaled_dot_product", "bmm")
"""Parts of operator names that are attention itself; projections are `addmm` and `mm`. Nothing else is there on shapes
alone, where no kernel runs."""


class Bench:
    """One layer of each form over a cache of one layer, on `device` (`meta` for shapes alone).

    `full` takes timings anew that were made at a low clock; without it all are kept.
    """

    def __init__(self, options: ComplexityOptions, device: str, full: FullClock | None = None) -> None:
        self.options, self.device, self.clock = options, device, Clock(device)
        self.full = full or FullClock(lambda: None, 0.0)
        self.dtype: Any = getattr(torch, options.dtype)
        dim, heads, eps = options.dim, options.heads, TransformerConfig().eps
        torch.manual_seed(0)
        with torch.device(device):
            dense, linear = DenseAttention(dim, heads, eps), LinearAttention(dim, heads, eps)
            latent = LatentAttention(dim, heads, eps, options.latent.sizes())
            self.x: Tensor = torch.randn(1, options.chunk * options.tokens, dim, dtype=self.dtype)
        self.layers: dict[str, Any] = {"causal_linear": linear, "mla": latent, "causal": dense}
        for layer in self.layers.values():
            layer.to(self.dtype).eval().requires_grad_(False)

    def layer(self, form: Form) -> Any:
        """The module of `form`, ready to run."""
        if form.startswith("mla"):
            self.layers["mla"].use(form.removeprefix("mla_"))
            return self.layers["mla"]
        return self.layers["causal_linear" if form == "causal_linear" else "causal"]

    def cache(self, form: Form, window: int, clip: int) -> StreamCache:
        """An empty cache as the form's models keep it; causal full keeps the whole clip."""
        options = self.options
        frames = clip if form == "causal_full" else min(window, clip)
        sink = 0 if form == "causal_full" else min(options.sink, max(0, frames - options.chunk))
        policy = WindowPolicy(frames=frames, sink=sink)
        if form.startswith("mla"):
            policy = WindowPolicy(frames=frames, sink=sink, rotation="read", positions="relative")
        pairs = options.latent.pairs if form.startswith("mla") else None
        base = TransformerConfig()
        positions = max(base.rope_positions, clip)
        table = RotaryTable(options.dim // options.heads, pairs, base.rope_theta, positions)
        return StreamCache(1, policy, policy.capacity(options.chunk), Grid(*options.grid), table)

    def clip(self, form: Form, window: int, clip: int) -> tuple[StreamCache, Callable[[], object]]:
        """Run a clip chunk by chunk, one clean pass each; returns the cache and a call that repeats the last chunk."""
        layer, cache, count = self.layer(form), self.cache(form, window, clip), self.options.chunk

        def attend(first: int) -> object:
            context = cache.chunk(first, count, torch.device(self.device))
            context.clean = True
            return layer(self.x, 0, context)

        for first in range(0, clip, count):
            attend(first)
        context = cache.chunk(clip - count, count, torch.device(self.device))
        return cache, lambda: layer(self.x, 0, context)

    def count(self, form: Form, window: int, clip: int) -> tuple[float, float, float]:
        """FLOPs of the last chunk of `clip` latent frames under `window`, those of attention, and bytes of the cache.

        For the device `meta` alone, where every operation has a formula and nothing is padded.
        """
        cache, last = self.clip(form, window, clip)
        with FlopCounter() as counter:
            last()
        core = sum(n for name, n in counter.by_operator().items() if any(word in name for word in _CORE))
        return float(counter.total()), float(core), float(cache.bytes())

    def times(self, form: Form, window: int, clip: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Seconds of each timed run of the last chunk, and of the clip chunk by chunk, one pass each."""
        _, last = self.clip(form, window, clip)
        return self._timed(last), self._timed(lambda: self.clip(form, window, clip))

    def _timed(self, call: Callable[[], object]) -> tuple[float, ...]:
        budget = self.options.measure_s

        def series() -> list[float]:
            return time_calls(self.clock, call, warmup_s=budget / 4, measure_s=budget, least=5, most=MOST_CALLS)

        return tuple(self.full.take(series))

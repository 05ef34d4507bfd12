"""How far attention on an encoded cache lies from attention on the exact one: by chunk, layer and head, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from harness.contracts import Request, Spans, no_spans
from harness.errors import OptionError
from videomla_models.network.attention.context import AttendWindow, PassContext
from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.cache import ChunkContext, StreamCache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops import reference
from videomla_models.rollout.pipeline import Pipeline
from videomla_models.rollout.rollout import Rollout
from videomla_models.spec.storage import EXACT, Storage
from videomla_models.spec.timeline import Timeline

QUERIES = 16
"""Queries of a pass that are compared, spread evenly over it; each attends by itself, whatever the others do."""


@dataclass(frozen=True, slots=True)
class CodingErrors:
    """Errors of attention's output where the cache is encoded, the model going its exact way.

    Attributes:
        by_chunk: float64 [chunks, layers, heads]: norm of the differences over the norm of the exact outputs, over all
            passes of a chunk.
        overall: the same over all chunks, float64 [layers, heads].
        bits: of storage for each number of a full cache, scales and exact frames included.
    """

    by_chunk: Tensor
    overall: Tensor
    bits: float


class _Sums:
    """Squares of differences and of exact outputs, by context, layer and head."""

    def __init__(self, network: VideoTransformer) -> None:
        self.network = network
        self.by_chunk: list[Tensor] = []

    def begin(self) -> None:
        self.by_chunk.append(torch.zeros(2, self.network.config.layers, self.network.config.heads, dtype=torch.float64))

    def add(self, layer: int, exact: tuple[Tensor, ...], coded: tuple[Tensor, ...]) -> None:
        last = exact[0].shape[1] - 1
        rows = torch.linspace(0, last, min(QUERIES, last + 1), dtype=torch.float64).round().long().to(exact[0].device)
        expected, out = (self._attended(layer, query[:, rows], *window) for query, *window in (exact, coded))
        squares = [x.square().sum((0, 1, 3)).cpu() for x in (out - expected, expected)]
        self.by_chunk[-1][:, layer] += torch.stack(squares)

    def _attended(self, layer: int, query: Tensor, keys: Tensor, content: Tensor) -> Tensor:
        """float64 [B, queries, heads, width]."""
        module: Any = self.network.blocks[layer].self_attn
        if not isinstance(module, LatentAttention):
            return reference.attention(query, keys, content)
        out: Tensor = module.by_reference(query.double(), keys, content)
        return out.reshape(*out.shape[:2], module.heads, -1)

    def errors(self, bits: float) -> CodingErrors:
        squares = torch.stack(self.by_chunk)
        total = squares.sum(0)
        return CodingErrors((squares[:, 0] / squares[:, 1]).sqrt(), (total[0] / total[1]).sqrt(), bits)


class _Cache(StreamCache):
    """An exact cache, and an encoded one that takes in the same entries."""

    def __init__(self, usual: StreamCache, storage: Storage, sums: _Sums) -> None:
        same = len(usual.layers), usual.policy, usual.ring.capacity, usual.grid, usual.table
        super().__init__(*same, spare=usual.spare)
        self.encoded, self.sums = StreamCache(*same, storage, usual.spare), sums

    def chunk(
        self, first: int, count: int, device: torch.device, prompt: Sequence[TextKeys] | None = None
    ) -> PassContext:
        self.encoded.ring.slots = list(self.ring.slots)
        here, encoded = super().chunk(first, count, device, prompt), self.encoded.chunk(first, count, device, prompt)
        return self._both(here, encoded)

    def finish(self, first: int, count: int, latents: Tensor | None = None) -> None:
        """Of both."""
        super().finish(first, count, latents)
        self.encoded.finish(first, count, latents)

    def rebuild_behind_sink(self, first: int, count: int, device: torch.device) -> ChunkContext:
        self.encoded.ring.slots = list(self.ring.slots)
        here = super().rebuild_behind_sink(first, count, device)
        return self._both(here, self.encoded.rebuild_behind_sink(first, count, device))

    def compact(self, slots: Sequence[int]) -> None:
        super().compact(slots)
        self.encoded.compact(slots)

    def _both(self, exact: PassContext, encoded: PassContext) -> ChunkContext:
        self.sums.begin()
        return _Context(exact, encoded, self.sums)


class _Context(ChunkContext):
    def __init__(self, exact: PassContext, encoded: PassContext, sums: _Sums) -> None:
        self.exact, self.encoded, self.sums = exact, encoded, sums
        self.clean = False

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """As the exact context does; the encoded one sees the same query and entries."""
        seen: list[tuple[Tensor, ...]] = []

        def noted(*window: Tensor) -> Tensor:
            seen.append(window)
            return attend_window(*window)

        def unanswered(*window: Tensor) -> Tensor:
            seen.append(window)
            return window[0]

        self.exact.clean = self.encoded.clean = self.clean
        # A context rotates the query that it is given in place.
        again = query.clone()
        out = self.exact.attend(layer, query, positional, content, noted)
        self.encoded.attend(layer, again, positional, content, unanswered)
        self.sums.add(layer, *seen)
        return out


@dataclass(frozen=True)
class _Comparing(Pipeline):
    """A pipeline whose rollouts compare."""

    encoded: Storage = EXACT
    sums: _Sums | None = None

    def rollout(self, spans: Spans, first: int) -> Rollout:
        rollout = super().rollout(spans, first)
        assert self.sums is not None
        rollout.cache = _Cache(rollout.cache, self.encoded, self.sums)
        return rollout


def attention_errors(
    pipeline: Pipeline, request: Request, timeline: Timeline, storage: Storage, latents: Tensor | None = None
) -> CodingErrors:
    """Stream `request` with an exact cache beside an encoded one that takes in the same entries.

    Args:
        pipeline: of a loaded model, whose own storage is not used. timeline: the model's, of the request.
        storage: of the encoded cache.
        latents: [B, frames, C, H, W], as `latents.read` gives them; they stand in the caches for what the model makes,
            and their length for the request's.

    Raises `OptionError` for attention that is linear and for the rolling schedule, which are not compared.
    """
    if pipeline.policy.schedule == "rolling" or pipeline.network.config.attention == "linear":
        raise OptionError("a rolling schedule and linear attention are not compared", "choose a model with neither")
    network, sums = pipeline.network, _Sums(pipeline.network)
    same = {field.name: getattr(pipeline, field.name) for field in fields(Pipeline)}
    comparing = _Comparing(**{**same, "storage": EXACT, "at_once": 0}, encoded=storage, sums=sums)
    runners = {block.self_attn.runner for block in network.blocks if isinstance(block.self_attn, LatentAttention)}
    network.use_form("expanded")
    try:
        if latents is None:
            for _ in comparing.stream(request, timeline, no_spans):
                pass
        else:
            for _ in comparing.on_latents(latents, request):
                pass
    finally:
        for runner in runners:
            network.use_form(runner)
    grid = comparing.grid
    capacity = pipeline.policy.capacity(pipeline.chunk) + pipeline.policy.spare(pipeline.chunk)
    element = network.patch_embedding.weight.element_size()
    return sums.errors(storage.effective_bits(network.config, grid.tokens, capacity, element))

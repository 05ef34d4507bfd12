"""Rollouts of a loaded model whose cache is followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from harness.contracts import Spans
from videomla_models.network.attention.context import PassContext
from videomla_models.network.attention.dense import TextKeys
from videomla_models.rollout.pipeline import Pipeline
from videomla_models.rollout.rollout import Rollout


@dataclass(frozen=True, slots=True)
class _Followed(Pipeline):
    """A pipeline that hands out its rollouts."""

    follow: Callable[[Rollout], None] = field(kw_only=True)

    def rollout(self, spans: Spans, first: int) -> Rollout:
        """A new rollout, followed."""
        rollout = Pipeline.rollout(self, spans, first)
        self.follow(rollout)
        return rollout


@contextmanager
def followed(model: Any, note: Callable[[Sequence[int]], None]) -> Iterator[list[Rollout]]:
    """While the context lasts, `note` is told what a loaded model's chunks see; its rollouts, in a list."""
    pipeline: Pipeline = model.pipeline
    rollouts: list[Rollout] = []

    def follow(rollout: Rollout) -> None:
        rollouts.append(rollout)
        place = rollout.cache.chunk

        def chunk(
            first: int, count: int, device: torch.device, prompt: Sequence[TextKeys] | None = None
        ) -> PassContext:
            context = place(first, count, device, prompt)
            note(rollout.cache.ring.slots)
            return context

        rollout.cache.chunk = chunk  # type: ignore[method-assign]

    parts: Mapping[str, Any] = {part.name: getattr(pipeline, part.name) for part in fields(pipeline)}
    model.pipeline = _Followed(**parts, follow=follow)
    try:
        yield rollouts
    finally:
        model.pipeline = pipeline

"""Rollouts of a loaded model whose cache is followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from harness.contracts import Spans
from videomla_models.probes.cache_contents import Contents, Shares
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
def followed(model: Any, note: Callable[[Shares, float], None]) -> Iterator[list[Rollout]]:
    """While the context lasts, `note` is told what a loaded model's chunks see, as `Contents.shown` says it.

    Yields the model's rollouts, in a list.
    """
    pipeline: Pipeline = model.pipeline
    rollouts: list[Rollout] = []

    def follow(rollout: Rollout) -> None:
        rollouts.append(rollout)
        contents, end = Contents(rollout.cache), rollout.cache.finish

        def finish(first: int, count: int, latents: Tensor | None = None) -> None:
            note(*contents.shown(first, count))
            end(first, count, latents)

        rollout.cache.finish = finish  # type: ignore[method-assign]

    parts: Mapping[str, Any] = {part.name: getattr(pipeline, part.name) for part in fields(pipeline)}
    model.pipeline = _Followed(**{**parts, "at_once": 0}, follow=follow)
    try:
        yield rollouts
    finally:
        model.pipeline = pipeline

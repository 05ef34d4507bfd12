"""What a model's card says, as columns of a table."""

from __future__ import annotations

from harness.contracts import ModelCard, Value
from harness.plan import Arm
from harness.report.layout import Cell, numeral

CARD = {
    "cached_scalars": Value("cached_scalars", "per token and layer", "lower", "cached scalars"),
    "cache_bytes": Value("cache_bytes", "bytes", "lower", "cache"),
    "transient_bytes": Value("transient_bytes", "bytes", "lower", "transient keys and values"),
    "forwards_per_chunk": Value("forwards_per_chunk", "", "lower", "forward passes per chunk"),
    "parameters": Value("parameters", "", "none", "parameters"),
    "frames_per_chunk": Value("frames_per_chunk", "pixel frames", "none", "chunk"),
    "temporal_ratio": Value("temporal_ratio", "pixel per latent frame", "none", "temporal ratio"),
    "window_frames": Value("window_frames", "latent frames", "none", "window"),
    "sink_frames": Value("sink_frames", "latent frames", "none", "sink"),
}
"""How the fields of a model's card are read; any other is shown under its own name and not ranked."""


def number(card: ModelCard, name: str) -> int | float | None:
    """The field `name` of `card`, or of its details, where it is a number."""
    content = getattr(card, name, card.details.get(name))
    return content if isinstance(content, int | float) and not isinstance(content, bool) else None


def card_cell(arm: Arm, name: str, spec: str) -> Cell:
    """The field `name` of the card of `arm`, in the format `spec`."""
    content = number(arm.card, name)
    if content is None:
        text = getattr(arm.card, name, arm.card.details.get(name))
        return Cell("-" if text is None else str(text))
    return Cell(numeral(content, content, spec), float(content))

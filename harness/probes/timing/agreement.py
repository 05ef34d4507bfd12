"""The correctness check before a speed figure: the model's fast path held against its slow reference (rule T14)."""

from __future__ import annotations

from dataclasses import replace

from harness.contracts import Agreement, Json, ModelCard, VideoModel, Workload, enforce

NONE = "no reference"
PASSED = "passed"


def workload_of(workload: Workload, card: ModelCard) -> Workload:
    """`workload` with clips no longer than it takes to fill the window and to push frames out of it.

    The window is full after `window_frames` latent frames; two chunks more are made under it.
    """
    if card.window_frames is None:
        return workload
    frames = min(workload.frames, card.window_frames * card.temporal_ratio + 2 * card.frames_per_chunk)
    return replace(workload, frames=frames, switches=tuple(s for s in workload.switches if s.frame < frames))


def take(model: VideoModel, workload: Workload, card: ModelCard) -> Agreement | None:
    """Agreement of the loaded `model` on the first request of `workload` but for its length; None without a reference.

    Raises `ModelFault` where it does not agree.
    """
    return enforce.agreement(model, workload_of(workload, card).request(0))


def error_of(found: Agreement | None) -> float:
    """The value `agreement_error`: NaN without a reference."""
    return float("nan") if found is None else float(found.error)


def to_json(found: Agreement | None) -> dict[str, Json]:
    """For a record's notes. The record that holds it is the one whose speed it stands for."""
    if found is None:
        return {"verdict": NONE}
    return {
        "verdict": PASSED,
        "reference": found.reference,
        "error": found.error,
        "limit": found.limit,
        "compared": found.compared,
        **found.details,
    }

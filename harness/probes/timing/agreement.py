"""The correctness check before a speed figure: compare the model's fast path with its slow reference (rule T14)."""

from __future__ import annotations

from dataclasses import replace

from harness.contracts import Agreement, ModelCard, NotHeld, VideoModel, Workload, enforce


def workload_of(workload: Workload, card: ModelCard) -> Workload:
    """`workload` with clips just long enough to fill the window and to push frames out of it.

    The window is full after `window_frames` latent frames. Two more chunks follow.
    """
    if card.window_frames is None:
        return workload
    frames = min(workload.frames, card.window_frames * card.temporal_ratio + 2 * card.frames_per_chunk)
    return replace(workload, frames=frames, switches=tuple(s for s in workload.switches if s.frame < frames))


def take(model: VideoModel, workload: Workload, card: ModelCard) -> Agreement | NotHeld:
    """Agreement of the loaded `model` on the first request of `workload` but for its length, if it has a reference.

    Raises `ModelFault` where it does not agree.
    """
    return enforce.agreement(model, workload_of(workload, card).request(0)) or "no reference"

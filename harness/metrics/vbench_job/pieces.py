"""Score long clips in pieces of a few seconds, as ranges of frames of one decode. Nothing is re-encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .decay import Decay
from .frames import Batch, ClipFault, decode, whole
from .loading import Networks
from .long_range import dinov2_feature, dreamsim_feature
from .scorer import Scorer, Task
from .scorers import SCORERS, Consistency, clip_b32_features, dino_features
from .scoring import batch_size, counted

Links = Mapping[str, Callable[[Networks, Batch, int], torch.Tensor]]
"""By dimension that is also compared from piece to piece: the features [1, d] of one frame of a batch."""

IN_CLIP_LINKS: Links = {
    "subject_consistency": lambda networks, batch, index: dino_features(networks, batch)[index : index + 1],
    "background_consistency": lambda networks, batch, index: clip_b32_features(networks, batch)[index : index + 1],
}
"""The features by which neighbouring frames are compared: DINO and CLIP."""

LONG_LINKS: Links = {"subject_consistency": dinov2_feature, "background_consistency": dreamsim_feature}
"""Those that VBench-Long compares pieces by: DINOv2 and DreamSim."""


def ranges(frames: int, length: int) -> list[tuple[int, int]]:
    """Pieces of `length` frames as (first, last + 1).

    A remainder becomes one more piece that reaches back into the one before, so that all are of one length; a clip
    shorter than `length` is one piece. VBench-Long's rule (vbench2_beta_long/utils.py, split_video_into_clips).
    """
    if frames <= length:
        return [(0, frames)]
    spans = [(start, start + length) for start in range(0, frames - length + 1, length)]
    if frames % length:
        spans.append((frames - length, frames))
    return spans


@dataclass
class Piece:
    """A piece while its frames pass: its range, and a scorer for each dimension."""

    first: int
    end: int
    scorers: dict[str, Scorer]


@dataclass(frozen=True)
class Pieces:
    """The scores of a long clip.

    Attributes:
        ranges: each piece's frames as (first, last + 1).
        scores: one number a piece, by dimension.
        clip_to_clip: similarity of the pieces' first frames, by consistency dimension; none for a single piece.
        decay: mean similarity of the frames' DINO features by their distance, where subject consistency is asked for.
    """

    ranges: Sequence[tuple[int, int]]
    scores: dict[str, list[float]]
    clip_to_clip: dict[str, float]
    decay: dict[int, float]


def score_pieces(
    networks: Networks,
    path: str,
    dimensions: Sequence[str],
    seconds: float,
    prompt: str = "",
    links: Links = IN_CLIP_LINKS,
    least: int = 1,
    frames: int = 0,
    frame_rate: float = 0.0,
) -> Pieces:
    """Each of `dimensions` for every piece of `seconds` of the clip `path`, in one decode.

    `frames` and `frame_rate` are as in `score_clip`.
    A frame's features are computed once, also where two pieces overlap. `links` are the features that the pieces' first
    frames are compared by. Raises as `score_clip`, and `ClipFault` for a clip of fewer than `least` pieces.
    """
    info = counted(path, networks.device, frames, frame_rate)
    if info.frame_rate <= 0:
        raise ClipFault(f"{path} has no frame rate")
    spans = ranges(info.frames, max(1, round(info.frame_rate * seconds)))
    if len(spans) < least:
        raise ClipFault(
            f"{path} has {info.frames} frames, no more than one piece of {seconds:g} s: there is nothing to compare it "
            "with; score it with vbench, or with vbench_long's compat in_clip"
        )
    # Pieces overlap at the end of a clip, so two may run at once.
    waiting = list(spans)
    running: list[Piece] = []
    scores: dict[str, list[float]] = {name: [] for name in dimensions}
    consistency_by_dimension = {name: Consistency() for name in links if name in dimensions}
    decay, frames_so_far = Decay(), 0
    for batch in decode(path, batch_size(info, networks.device), networks.device):
        frames_so_far += len(batch)
        while waiting and waiting[0][0] < frames_so_far:
            running.append(_start(waiting.pop(0), networks, info.path, info.frame_rate, prompt, dimensions))
        if "subject_consistency" in dimensions:
            decay.push(dino_features(networks, batch))
        for piece in running:
            _push(piece, batch)
            if batch.start <= piece.first < batch.start + len(batch):
                for name, link in consistency_by_dimension.items():
                    link.push(links[name](networks, batch, piece.first - batch.start))
        for piece in [piece for piece in running if piece.end <= frames_so_far]:
            running.remove(piece)
            for name, scorer in piece.scorers.items():
                scores[name].append(scorer.finish())
    whole(info, frames_so_far)
    clip_to_clip = {name: link.mean() for name, link in consistency_by_dimension.items() if link.pairs}
    return Pieces(spans, scores, clip_to_clip, decay.means())


def _start(
    span: tuple[int, int], networks: Networks, path: str, frame_rate: float, prompt: str, dimensions: Sequence[str]
) -> Piece:
    first, end = span
    task = Task(f"{path}, frames {first} to {end}", end - first, frame_rate, prompt)
    return Piece(first, end, {name: SCORERS[name](networks, task) for name in dimensions})


def _push(piece: Piece, batch: Batch) -> None:
    low = max(piece.first, batch.start) - batch.start
    high = min(piece.end, batch.start + len(batch)) - batch.start
    for scorer in piece.scorers.values():
        scorer.push(batch, slice(low, high))


def drift(values: Sequence[float]) -> tuple[float, float]:
    """Spread (population standard deviation) of a value over the pieces, and its change from the first to the last."""
    return float(np.std(values)), float(values[-1] - values[0])


def summary(pieces: Pieces) -> dict[str, Any]:
    """One number a dimension and video: the mean over its pieces; drift; and the numbers behind them."""
    out: dict[str, Any] = {name: float(np.mean(values)) for name, values in pieces.scores.items()}
    for name in IN_CLIP_LINKS:
        if name in out:
            out[f"{name}_in_clip"] = out[name]
            out[f"{name}_clip_to_clip"] = pieces.clip_to_clip.get(name, float("nan"))
    if "imaging_quality" in pieces.scores:
        out["imaging_spread"], out["imaging_change"] = drift(pieces.scores["imaging_quality"])
    out["pieces"] = float(len(pieces.ranges))
    out["piece_starts"] = [float(first) for first, _ in pieces.ranges]
    for name, values in pieces.scores.items():
        out[f"{name}_by_piece"] = values
    if pieces.decay:
        out["dino_distances"] = [float(distance) for distance in pieces.decay]
        out["dino_by_distance"] = list(pieces.decay.values())
    return out

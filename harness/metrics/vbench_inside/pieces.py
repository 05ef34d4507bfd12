"""Long clips in pieces of a few seconds, as ranges of frames of one decode: nothing is cut into files or re-encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .frames import Batch, ClipFault, decode, whole
from .loading import Networks
from .scorer import Scorer, Task
from .scorers import SCORERS, Consistency, clip_b32_features, dino_features
from .scoring import batch_size, counted

CONSISTENCY = {"subject_consistency": dino_features, "background_consistency": clip_b32_features}
"""The dimensions that are also compared from piece to piece, and the features they compare."""


def ranges(frames: int, length: int) -> list[tuple[int, int]]:
    """Pieces of `length` frames as (first, last + 1).

    A remainder becomes one more piece that reaches back into the one before, so that all are of one length; a clip
    shorter than `length` is one piece. VBench-Long's rule (vbench2_beta_long/utils.py, split_video_into_clips).
    """
    if frames <= length:
        return [(0, frames)]
    found = [(start, start + length) for start in range(0, frames - length + 1, length)]
    if frames % length:
        found.append((frames - length, frames))
    return found


@dataclass
class Piece:
    """A piece while its frames pass: its range, and a scorer for each dimension."""

    first: int
    end: int
    scorers: dict[str, Scorer]


@dataclass(frozen=True)
class Pieces:
    """What a long clip gave.

    Attributes:
        ranges: each piece's frames as (first, last + 1).
        scores: one number a piece, by dimension.
        clip_to_clip: similarity of the pieces' first frames, by consistency dimension; none for a single piece.
    """

    ranges: Sequence[tuple[int, int]]
    scores: dict[str, list[float]]
    clip_to_clip: dict[str, float]


def score_pieces(networks: Networks, path: str, dimensions: Sequence[str], seconds: float, prompt: str = "") -> Pieces:
    """Each of `dimensions` for every piece of `seconds` of the clip `path`, in one decode.

    A frame's features are computed once, also where two pieces overlap and for the comparison of pieces. Raises as
    `score_clip`.
    """
    info = counted(path, networks.device)
    if info.frame_rate <= 0:
        raise ClipFault(f"{path} has no frame rate")
    found = ranges(info.frames, max(1, round(info.frame_rate * seconds)))
    waiting = list(found)
    running: list[Piece] = []
    scores: dict[str, list[float]] = {name: [] for name in dimensions}
    across = {name: Consistency() for name in CONSISTENCY if name in dimensions}
    seen = 0
    for batch in decode(path, batch_size(info, networks.device), networks.device):
        seen += len(batch)
        while waiting and waiting[0][0] < seen:
            running.append(_start(waiting.pop(0), networks, info.path, info.frame_rate, prompt, dimensions))
        for piece in running:
            _push(piece, batch, networks, across)
        for piece in [piece for piece in running if piece.end <= seen]:
            running.remove(piece)
            for name, scorer in piece.scorers.items():
                scores[name].append(scorer.finish())
    whole(info, seen)
    linked = {name: link.mean() for name, link in across.items() if link.pairs}
    return Pieces(found, scores, linked)


def _start(
    span: tuple[int, int], networks: Networks, path: str, frame_rate: float, prompt: str, dimensions: Sequence[str]
) -> Piece:
    first, end = span
    task = Task(f"{path}, frames {first} to {end}", end - first, frame_rate, prompt)
    return Piece(first, end, {name: SCORERS[name](networks, task) for name in dimensions})


def _push(piece: Piece, batch: Batch, networks: Networks, across: dict[str, Consistency]) -> None:
    low = max(piece.first, batch.start) - batch.start
    high = min(piece.end, batch.start + len(batch)) - batch.start
    for scorer in piece.scorers.values():
        scorer.push(batch, slice(low, high))
    if batch.start <= piece.first < batch.start + len(batch):
        for name, link in across.items():
            link.push(CONSISTENCY[name](networks, batch)[low : low + 1])


def drift(values: Sequence[float]) -> tuple[float, float]:
    """Spread (population standard deviation) of a value over the pieces, and its change from the first to the last."""
    return float(np.std(values)), float(values[-1] - values[0])


def summary(found: Pieces) -> dict[str, Any]:
    """One number a dimension and video: the mean over its pieces; drift; and the numbers behind them."""
    out: dict[str, Any] = {name: float(np.mean(values)) for name, values in found.scores.items()}
    for name in CONSISTENCY:
        if name in out:
            out[f"{name}_clip_to_clip"] = found.clip_to_clip.get(name, float("nan"))
    if "imaging_quality" in found.scores:
        out["imaging_spread"], out["imaging_change"] = drift(found.scores["imaging_quality"])
    out["pieces"] = float(len(found.ranges))
    for name, values in found.scores.items():
        out[f"{name}_by_piece"] = values
    return out

"""Score one clip on any of VBench's dimensions in one decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .detectors import DETECTORS, lacking
from .frames import Batch, ClipFault, ClipInfo, decode, describe, whole
from .loading import Networks
from .sampled import Sampled
from .scorer import Scorer, Task
from .scorers import SCORERS

BATCH_BYTES = 64 << 20
"""Bytes of float32 frames held at once."""


def batch_size(info: ClipInfo, device: str) -> int:
    """Frames to a batch: as many as `BATCH_BYTES` hold, 32 on a GPU and 16 on a CPU at most."""
    fit = BATCH_BYTES // max(1, info.height * info.width * 12)
    return max(1, min(fit, 16 if device == "cpu" else 32))


def scorer_for(dimension: str, networks: Networks, task: Task) -> Scorer:
    """The scorer of `dimension`. Raises `ImportError` if its packages are not installed, `ClipFault` if too short."""
    packages = lacking(dimension)
    if packages:
        raise ImportError(f"{dimension} needs {', '.join(packages)}, not installed in this environment")
    scorer: Scorer = {**SCORERS, **DETECTORS}[dimension](networks, task)
    return scorer


def feed(scorers: Sequence[Scorer], batch: Batch) -> None:
    """Push a whole batch to every scorer."""
    for scorer in scorers:
        scorer.push(batch, slice(None))


def counted(path: str, device: str, frames: int = 0, frame_rate: float = 0.0) -> ClipInfo:
    """The clip's header, with what is known better: `frames` that decode, and their `frame_rate`; 0 for unknown.

    Where the header does not say how many frames there are, they are counted by decoding.
    """
    info = describe(path)
    info = replace(info, frames=frames or info.frames, frame_rate=frame_rate or info.frame_rate)
    if info.frames == 0:
        frames = sum(len(batch) for batch in decode(path, 16, device))
        info = replace(info, frames=frames)
    return info


def score_clip(
    networks: Networks,
    path: str,
    dimensions: Sequence[str],
    prompt: str,
    auxiliary: Mapping[str, Any],
    frames: int = 0,
    frame_rate: float = 0.0,
) -> dict[str, Any]:
    """Each of `dimensions` for the clip `path`, on the scale of VBench's overall values.

    `frames` and `frame_rate` are the clip's, where they are known better than from its header. A dimension that looks
    at a few frames also gets `<dimension>_other_frames_upstream`, a list of one number, where decord's random access,
    by which the package reads them, gives other frames than these: how many.

    Raises:
        ClipFault: the clip cannot be read, is truncated, or too short for a dimension.
        WeightsFault: a checkpoint is missing or wrong.
        ImportError: a dimension's packages are not installed.
    """
    info = counted(path, networks.device, frames, frame_rate)
    task = Task(info.path, info.frames, info.frame_rate, prompt, auxiliary)
    scorers = {name: scorer_for(name, networks, task) for name in dimensions}
    frames_so_far = 0
    for batch in decode(path, batch_size(info, networks.device), networks.device):
        frames_so_far += len(batch)
        if frames_so_far > info.frames:
            raise ClipFault(f"{path} has more frames than the {info.frames} that are stated")
        feed(list(scorers.values()), batch)
    whole(info, frames_so_far)
    scores: dict[str, Any] = {name: scorer.finish() for name, scorer in scorers.items()}
    for name, scorer in scorers.items():
        if isinstance(scorer, Sampled) and (others := scorer.read_otherwise(path)):
            scores[f"{name}_other_frames_upstream"] = [float(others)]
    return scores

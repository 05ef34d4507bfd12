"""Score one clip on any of VBench's dimensions in one decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .detectors import DETECTORS, lacking
from .frames import Batch, ClipFault, ClipInfo, decode, describe, whole
from .loading import Networks
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


def counted(path: str, device: str) -> ClipInfo:
    """The clip's header, with its frames counted by decoding where the header does not say."""
    info = describe(path)
    if info.frames == 0:
        frames = sum(len(batch) for batch in decode(path, 16, device))
        info = ClipInfo(info.path, frames, info.height, info.width, info.frame_rate)
    return info


def score_clip(
    networks: Networks, path: str, dimensions: Sequence[str], prompt: str, auxiliary: Mapping[str, Any]
) -> dict[str, float]:
    """Each of `dimensions` for the clip `path`, on the scale of VBench's overall values.

    Raises:
        ClipFault: the clip cannot be read, is truncated, or too short for a dimension.
        WeightsFault: a checkpoint is missing or wrong.
        ImportError: a dimension's packages are not installed.
    """
    info = counted(path, networks.device)
    task = Task(info.path, info.frames, info.frame_rate, prompt, auxiliary)
    scorers = {name: scorer_for(name, networks, task) for name in dimensions}
    frames_so_far = 0
    for batch in decode(path, batch_size(info, networks.device), networks.device):
        frames_so_far += len(batch)
        if frames_so_far > info.frames:
            raise ClipFault(f"{path} has more frames than the {info.frames} that its header promises")
        feed(list(scorers.values()), batch)
    whole(info, frames_so_far)
    return {name: scorer.finish() for name, scorer in scorers.items()}

"""The base of scorers: one dimension of one clip, fed with frames in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .frames import Batch, ClipFault
from .loading import Networks


@dataclass(frozen=True)
class Task:
    """A clip to score, or a piece of one.

    Attributes:
        name: for messages.
        frames: how many frames will be pushed.
        frame_rate: frames per second, by which dynamic degree skips frames.
        prompt: the text that the clip is scored by.
        auxiliary: VBench's extra facts of the prompt, by dimension (`appearance_style`, `object_class`, ...).
    """

    name: str
    frames: int
    frame_rate: float
    prompt: str = ""
    auxiliary: Mapping[str, Any] = field(default_factory=dict)


class Scorer(ABC):
    """One dimension of one task. `push` takes its frames in order, `finish` returns its number."""

    least = 1
    """Fewest frames for which the dimension is defined."""

    def __init__(self, networks: Networks, task: Task) -> None:
        self.networks, self.task = networks, task
        if task.frames < self.least:
            raise ClipFault(f"{task.name} has {task.frames} frames; {type(self).__name__} needs {self.least}")

    @abstractmethod
    def push(self, batch: Batch, part: slice) -> None:
        """Take the frames `part` of `batch`."""

    @abstractmethod
    def finish(self) -> float:
        """The dimension's number, once every frame has been pushed."""


def in_parts(tensor: Any, size: int, network: Any) -> torch.Tensor:
    """`network` over `tensor` in slices of `size` along the first axis."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in tensor.split(size)])


def parts_for(device: str, on_cpu: int) -> int:
    """Frames per forward: on a CPU what measured fastest for the network, many on a GPU."""
    return on_cpu if device == "cpu" else 32

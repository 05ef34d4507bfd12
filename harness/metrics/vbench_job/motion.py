"""The dimensions of motion: flickering, smoothness, dynamic degree; and the static filter."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .forwards import Seen, flow, look
from .frames import Batch
from .loading import Networks
from .scorer import Scorer, Task


class TemporalFlickering(Scorer):
    """255 minus the mean absolute difference of neighbouring frames, over 255."""

    least = 2

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        self.last: NDArray[np.uint8] | None = None
        self.differences: list[float] = []

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        from vbench.temporal_flickering import calculate_mae

        for frame in batch.opencv.rgb[part]:
            if self.last is not None:
                self.differences.append(calculate_mae(self.last, frame))
            self.last = frame

    def finish(self) -> float:
        """The score."""
        return (255.0 - float(np.mean(np.array(self.differences)))) / 255.0


class MotionSmoothness(Scorer):
    """How well AMT-S guesses every odd frame from its even neighbours: 255 minus the mean difference, over 255."""

    least = 3

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        self.tools = importlib.import_module("vbench.third_party.amt.utils.utils")
        self.seen = 0
        self.even: NDArray[np.uint8] | None = None
        self.odd: NDArray[np.uint8] | None = None
        self.differences: list[float] = []

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        import cv2

        for frame in batch.opencv.rgb[part]:
            if self.seen % 2:
                self.odd = frame
            else:
                if self.even is not None and self.odd is not None:
                    guess = self._between(self.even, frame)
                    self.differences.append(float(np.mean(cv2.absdiff(self.odd, guess))))
                self.even = frame
            self.seen += 1

    def _between(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
        device = self.networks.device
        ends = [self.tools.img2tensor(frame).to(device) for frame in (before, after)]
        padder = self.tools.InputPadder(ends[0].shape, 16)
        half = torch.full((1, 1, 1, 1), 0.5, device=device)
        with torch.inference_mode():
            guess = self.networks.amt(*padder.pad(*ends), half, scale_factor=1.0, eval=True)["imgt_pred"]
        pixels: NDArray[np.uint8] = self.tools.tensor2img(padder.unpad(guess))
        return pixels

    def finish(self) -> float:
        """The score."""
        return (255.0 - float(np.mean(np.array(self.differences)))) / 255.0


class DynamicDegree(Scorer):
    """Whether the clip moves (1) or not (0): enough pairs of frames, about 8 a second, with strong optical flow.

    It stops looking at pairs once the answer is sure, which changes nothing but the time.
    """

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        from vbench.dynamic_degree import DynamicDegree as Upstream

        # Without its constructor, which would load a second RAFT; only its arithmetic is used.
        self.upstream = Upstream.__new__(Upstream)
        self.interval = max(1, round(task.frame_rate / 8))
        self.sampled = len(range(0, task.frames, self.interval))
        self.seen, self.pairs, self.moving = 0, 0, 0
        self.last: Seen | None = None

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        frames = batch.opencv.floats()[part]
        for index in range(len(frames)):
            if self.seen % self.interval == 0 and not self._sure():
                frame = frames[index : index + 1]
                sight = look(self.networks.raft, frame)
                if self.last is None:
                    self.upstream.set_params(frame=frame, count=self.sampled)
                else:
                    optical_flow = flow(self.networks.raft, self.last, sight)
                    self.moving += self.upstream.get_score(optical_flow, optical_flow) > self.upstream.params["thres"]
                    self.pairs += 1
                self.last = sight
            self.seen += 1

    def _sure(self) -> bool:
        if not self.pairs:
            return False
        enough = self.upstream.params["count_num"]
        return bool(self.moving >= enough or self.moving + (self.sampled - 1 - self.pairs) < enough)

    def finish(self) -> float:
        """1 when the clip moves."""
        return float(self.pairs > 0 and self.moving >= self.upstream.params["count_num"])


class Static(Scorer):
    """Whether the clip stands still (1): the filter that picks clips for temporal flickering.

    vbench/cli/static_filter.py: the flow of neighbouring frames, and of the first and last one both ways.
    """

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        from vbench.cli.static_filter import StaticFilter

        self.upstream = StaticFilter.__new__(StaticFilter)
        self.first: Seen | None = None
        self.last: Seen | None = None
        self.moving = 0

    def _score(self, before: Seen, after: Seen) -> float:
        optical_flow = flow(self.networks.raft, before, after)
        return float(self.upstream.get_score(optical_flow, optical_flow))

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        frames: Any = batch.opencv.floats()[part]
        for frame in frames.split(1):
            sight = look(self.networks.raft, frame)
            if self.first is None or self.last is None:
                self.first = sight
                self.upstream.set_params(frame=frame, count=self.task.frames)
            elif self.moving <= self.upstream.params["count_num"]:
                self.moving += self._score(self.last, sight) > self.upstream.params["thres"]
            self.last = sight

    def finish(self) -> float:
        """1 when the clip stands still."""
        limits = self.upstream.params
        if self.first is None or self.last is None or self.moving > limits["count_num"]:
            return 0.0
        ends = (self._score(self.first, self.last), self._score(self.last, self.first))
        # RAFT's flow of a clip below 128 pixels is no number, which upstream takes for no motion.
        return float(not any(score > limits["thres"] * limits["count_num"] * 2 for score in ends))

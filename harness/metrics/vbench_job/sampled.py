"""The dimensions that look at a few frames of the whole clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .frames import Batch, open_decord, pixels_of
from .loading import Networks, old_numpy_names
from .scorer import Scorer, Task


class Sampled(Scorer):
    """A dimension that looks at a few frames in the middle of equal stretches of the clip."""

    samples = 8

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        from vbench.utils import get_frame_indices

        self.wanted: Sequence[int] = [int(i) for i in get_frame_indices(self.samples, task.frames, sample="middle")]
        self.kept: dict[int, NDArray[np.uint8]] = {}
        self.seen = 0

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        for frame in batch.rgb[part]:
            if self.seen in self.wanted:
                self.kept[self.seen] = frame.copy()
            self.seen += 1

    def read_otherwise(self, path: str) -> int:
        """How many of the frames decord's random access, by which the package reads them, gives otherwise."""
        by_package = pixels_of(open_decord(path).get_batch(list(self.wanted)))
        return sum(
            not np.array_equal(frame, self.kept[index]) for frame, index in zip(by_package, self.wanted, strict=True)
        )

    def pixels(self) -> NDArray[np.uint8]:
        """The sampled frames, uint8 [samples, height, width, 3]; a short clip repeats its last one."""
        return np.stack([self.kept[index] for index in self.wanted])


class OverallConsistency(Sampled):
    """ViCLIP similarity of 8 frames and the prompt."""

    def finish(self) -> float:
        """The cosine."""
        from vbench.overall_consistency import get_text_features, get_vid_features
        from vbench.utils import clip_transform

        frames = clip_transform(224)(torch.from_numpy(self.pixels()).permute(0, 3, 1, 2)).to(self.networks.device)
        with torch.inference_mode():
            video = get_vid_features(self.networks.viclip, frames.unsqueeze(0))
            text = get_text_features(self.networks.viclip, self.task.prompt, None, {})
            return float((video @ text.T)[0][0].cpu())


class TemporalStyle(OverallConsistency):
    """The same for prompts that name a way of moving."""


class HumanAction(Sampled):
    """Whether the prompt's action is among the recogniser's five likeliest, each at least 0.85 sure."""

    samples = 16

    def finish(self) -> float:
        """1 when the action is recognised."""
        old_numpy_names()
        from vbench import human_action
        from vbench.human_action import CenterCrop, ClipToTensor, Compose, Normalize, Resize

        prepare = Compose(
            [
                Resize(256, interpolation="bilinear"),
                CenterCrop(size=(224, 224)),
                ClipToTensor(),
                Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        )
        frames = prepare(self.pixels()).unsqueeze(0).to(self.networks.device)
        with torch.inference_mode():
            probabilities, classes = torch.topk(torch.sigmoid(self.networks.umt(frames)), 5, dim=1)
        names = human_action.build_dict()
        likely_actions = [
            names[str(index)]
            for index, chance in zip(classes[0].tolist(), probabilities[0].tolist(), strict=True)
            if round(chance, 4) >= 0.85
        ]
        return float(self.task.prompt.lower().split("person is ")[-1] in likely_actions)

"""VBench's dimensions as scorers that take a clip's frames in batches, with the package's own networks and arithmetic.

Each scorer gives the number that the package gives for the same clip (`video_results`; imaging quality divided by 100,
as in the package's overall value), but sees every frame once and keeps none but those that it still needs.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .frames import Batch, ClipFault
from .loading import Networks, old_numpy_names


@dataclass(frozen=True)
class Task:
    """What is scored: a clip, or a piece of one.

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
    """One dimension of one task. `push` takes its frames in order, `finish` gives its number."""

    least = 1
    """Fewest frames for which the dimension is defined."""

    def __init__(self, networks: Networks, task: Task) -> None:
        self.networks, self.task = networks, task
        if task.frames < self.least:
            raise ClipFault(f"{task.name} has {task.frames} frames; {self.name()} needs {self.least}")

    @classmethod
    def name(cls) -> str:
        """The dimension's name in VBench."""
        return next(name for name, scorer in SCORERS.items() if scorer is cls)

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


def parts_for(device: str) -> int:
    """Frames per forward: few on a CPU, whose caches are small, many on a GPU."""
    return 2 if device == "cpu" else 32


def clip_frames(batch: Batch) -> torch.Tensor:
    """Frames as CLIP wants them, shared by the two CLIPs."""
    from vbench.utils import clip_transform

    made: torch.Tensor = batch.get("clip_frames", lambda: clip_transform(224)(batch.floats()))
    return made


# ------------------------------------------------------------------------------------------- consistency


class Consistency:
    """Mean over frames of the similarity to the frame before and to the first one, negative ones counted as 0.

    vbench/subject_consistency.py and vbench/background_consistency.py.
    """

    def __init__(self) -> None:
        self.first: torch.Tensor | None = None
        self.last: torch.Tensor | None = None
        self.total, self.pairs = 0.0, 0

    def push(self, features: torch.Tensor) -> None:
        """Take the next frames' features [n, d]."""
        unit: Any = functional.normalize(features, dim=-1, p=2)
        for feature in unit.split(1):
            if self.first is None or self.last is None:
                self.first = feature
            else:
                before = max(0.0, functional.cosine_similarity(self.last, feature).item())
                start = max(0.0, functional.cosine_similarity(self.first, feature).item())
                self.total += (before + start) / 2
                self.pairs += 1
            self.last = feature

    def mean(self) -> float:
        """The mean so far."""
        return self.total / self.pairs


def dino_features(networks: Networks, batch: Batch) -> torch.Tensor:
    """DINO features of a batch's frames [n, 768]."""
    from vbench.utils import dino_transform

    def make() -> torch.Tensor:
        return in_parts(dino_transform(224)(batch.floats()), parts_for(batch.device), networks.dino)

    return batch.get("dino", make)


def clip_b32_features(networks: Networks, batch: Batch) -> torch.Tensor:
    """CLIP ViT-B/32 features of a batch's frames [n, d]."""

    def make() -> torch.Tensor:
        return in_parts(clip_frames(batch), parts_for(batch.device), networks.clip_b32.encode_image)

    return batch.get("clip_b32", make)


class SubjectConsistency(Scorer):
    """Consistency of DINO features."""

    least = 2

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        self.consistency = Consistency()

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        self.consistency.push(dino_features(self.networks, batch)[part])

    def finish(self) -> float:
        """The mean similarity."""
        return self.consistency.mean()


class BackgroundConsistency(SubjectConsistency):
    """Consistency of CLIP ViT-B/32 features."""

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        self.consistency.push(clip_b32_features(self.networks, batch)[part])


# ---------------------------------------------------------------------------------------- frame quality


class AestheticQuality(Scorer):
    """LAION's aesthetic head on CLIP ViT-L/14 features, mean over frames, divided by 10."""

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        self.scores: list[torch.Tensor] = []

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""

        def make() -> torch.Tensor:
            features = in_parts(clip_frames(batch), parts_for(batch.device), self.networks.clip_l14.encode_image)
            with torch.inference_mode():
                unit = functional.normalize(features.to(torch.float32), dim=-1, p=2)
                scores: torch.Tensor = self.networks.aesthetic_head(unit).squeeze(dim=-1)
            return scores

        self.scores.append(batch.get("aesthetic", make)[part])

    def finish(self) -> float:
        """The mean score."""
        return float(torch.mean(torch.cat(self.scores) / 10))


class ImagingQuality(Scorer):
    """MUSIQ on frames whose longer side is at most 512, mean over frames, divided by 100."""

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        self.total, self.frames = 0.0, 0

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        from vbench.imaging_quality import transform

        def make() -> torch.Tensor:
            return in_parts(transform(batch.floats(), "longer"), parts_for(batch.device), self.networks.musiq)

        scores = batch.get("musiq", make)[part].flatten().tolist()
        self.total += sum(scores)
        self.frames += len(scores)

    def finish(self) -> float:
        """The mean score."""
        return self.total / self.frames / 100


class AppearanceStyle(Scorer):
    """CLIP ViT-B/32 similarity of frames and the prompt's style phrase, mean over frames."""

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        import clip

        style = task.auxiliary["appearance_style"]["appearance_style"]
        with torch.inference_mode():
            text = networks.clip_b32.encode_text(clip.tokenize([style]).to(networks.device))
            self.text = text / text.norm(dim=1, keepdim=True)
        self.scores: list[float] = []

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        from PIL import Image
        from vbench.utils import clip_transform_Image

        network = self.networks.clip_b32

        def make() -> torch.Tensor:
            resize = clip_transform_Image(224)
            images = torch.stack([resize(Image.fromarray(frame)) for frame in batch.rgb]).to(batch.device)
            return in_parts(images, parts_for(batch.device), network.encode_image)

        with torch.inference_mode():
            images = batch.get("clip_b32_pil", make)[part]
            logits = network.logit_scale.exp() * self.text @ (images / images.norm(dim=1, keepdim=True)).t()
        self.scores += [float(score) / 100 for score in logits[0].cpu()]

    def finish(self) -> float:
        """The mean similarity."""
        return float(np.mean(self.scores))


# ---------------------------------------------------------------------------------------------- motion


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

        for frame in batch.rgb[part]:
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

        for frame in batch.rgb[part]:
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


def flow_of(networks: Networks, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """RAFT's flow from one frame [1, 3, h, w] to another, padded to a multiple of 8, after 20 iterations."""
    from vbench.third_party.RAFT.core.utils_core.utils import InputPadder

    with torch.inference_mode():
        padded = InputPadder(before.shape).pad(before, after)
        flow: torch.Tensor = networks.raft(*padded, iters=20, test_mode=True)[1]
    return flow


class DynamicDegree(Scorer):
    """Whether the clip moves (1) or not (0): enough pairs of frames, about 8 a second, with strong optical flow.

    Stops looking at pairs once the answer is sure, which changes nothing but the time.
    """

    def __init__(self, networks: Networks, task: Task) -> None:
        super().__init__(networks, task)
        from vbench.dynamic_degree import DynamicDegree as Upstream

        self.upstream = Upstream.__new__(Upstream)
        self.interval = max(1, round(task.frame_rate / 8))
        self.sampled = len(range(0, task.frames, self.interval))
        self.seen, self.pairs, self.moving = 0, 0, 0
        self.last: torch.Tensor | None = None

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        frames = batch.floats()[part]
        for index in range(len(frames)):
            if self.seen % self.interval == 0 and not self._sure():
                frame = frames[index : index + 1]
                if self.last is None:
                    self.upstream.set_params(frame=frame, count=self.sampled)
                else:
                    flow = flow_of(self.networks, self.last, frame)
                    self.moving += self.upstream.get_score(flow, flow) > self.upstream.params["thres"]
                    self.pairs += 1
                self.last = frame
            self.seen += 1

    def _sure(self) -> bool:
        if not self.pairs:
            return False
        wanted = self.upstream.params["count_num"]
        return bool(self.moving >= wanted or self.moving + (self.sampled - 1 - self.pairs) < wanted)

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
        self.first: torch.Tensor | None = None
        self.last: torch.Tensor | None = None
        self.moving = 0

    def _score(self, before: torch.Tensor, after: torch.Tensor) -> float:
        flow = flow_of(self.networks, before, after)
        return float(self.upstream.get_score(flow, flow))

    def push(self, batch: Batch, part: slice) -> None:
        """Take frames."""
        frames: Any = batch.floats()[part]
        for frame in frames.split(1):
            if self.first is None or self.last is None:
                self.first = frame
                self.upstream.set_params(frame=frame, count=self.task.frames)
            elif self.moving <= self.upstream.params["count_num"]:
                self.moving += self._score(self.last, frame) > self.upstream.params["thres"]
            self.last = frame

    def finish(self) -> float:
        """1 when the clip stands still."""
        limits = self.upstream.params
        if self.first is None or self.last is None or self.moving > limits["count_num"]:
            return 0.0
        ends = (self._score(self.first, self.last), self._score(self.last, self.first))
        return float(all(score <= limits["thres"] * limits["count_num"] * 2 for score in ends))


# ------------------------------------------------------------------------------------------ whole clips


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
            sure, classes = torch.topk(torch.sigmoid(self.networks.umt(frames)), 5, dim=1)
        names = human_action.build_dict()
        seen = [
            names[str(index)]
            for index, chance in zip(classes[0].tolist(), sure[0].tolist(), strict=True)
            if round(chance, 4) >= 0.85
        ]
        return float(self.task.prompt.lower().split("person is ")[-1] in seen)


SCORERS: Mapping[str, type[Scorer]] = {
    "subject_consistency": SubjectConsistency,
    "background_consistency": BackgroundConsistency,
    "temporal_flickering": TemporalFlickering,
    "motion_smoothness": MotionSmoothness,
    "dynamic_degree": DynamicDegree,
    "aesthetic_quality": AestheticQuality,
    "imaging_quality": ImagingQuality,
    "appearance_style": AppearanceStyle,
    "temporal_style": TemporalStyle,
    "overall_consistency": OverallConsistency,
    "human_action": HumanAction,
    "static": Static,
}
"""The eleven dimensions that need nothing but PyTorch, and the static filter."""

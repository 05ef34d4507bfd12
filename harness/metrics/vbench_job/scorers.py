"""VBench's dimensions as scorers that take a clip's frames in batches, with the package's own networks and arithmetic.

Each scorer gives the number that the package gives for the same clip (`video_results`; imaging quality divided by 100,
as in the package's overall value), but sees every frame once and keeps none but those that it still needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .frames import Batch
from .loading import Networks
from .motion import DynamicDegree, MotionSmoothness, Static, TemporalFlickering
from .sampled import HumanAction, OverallConsistency, TemporalStyle
from .scorer import Scorer, Task, in_parts, parts_for


def clip_frames(batch: Batch) -> torch.Tensor:
    """Frames as CLIP wants them, shared by the two CLIPs."""
    from vbench.utils import clip_transform

    frames: torch.Tensor = batch.get("clip_frames", lambda: clip_transform(224)(batch.floats()))
    return frames


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
        return in_parts(dino_transform(224)(batch.floats()), parts_for(batch.device, 8), networks.dino)

    return batch.get("dino", make)


def clip_b32_features(networks: Networks, batch: Batch) -> torch.Tensor:
    """CLIP ViT-B/32 features of a batch's frames [n, d]."""

    def make() -> torch.Tensor:
        return in_parts(clip_frames(batch), parts_for(batch.device, 16), networks.clip_b32.encode_image)

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
            features = in_parts(clip_frames(batch), parts_for(batch.device, 8), self.networks.clip_l14.encode_image)
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
            return in_parts(transform(batch.floats(), "longer"), parts_for(batch.device, 2), self.networks.musiq)

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
            return in_parts(images, parts_for(batch.device, 16), network.encode_image)

        with torch.inference_mode():
            images = batch.get("clip_b32_pil", make)[part]
            logits = network.logit_scale.exp() * self.text @ (images / images.norm(dim=1, keepdim=True)).t()
        self.scores += [float(score) / 100 for score in logits[0].cpu()]

    def finish(self) -> float:
        """The mean similarity."""
        return float(np.mean(self.scores))


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

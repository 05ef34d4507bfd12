"""The five dimensions whose networks need packages that are hard to install: GRiT's four (detectron2), and `scene`.

They run through the package's own functions; the four read the frames that were decoded for the other dimensions.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .sampled import Sampled
from .scorer import Scorer

NEEDS: Mapping[str, tuple[str, ...]] = {
    "object_class": ("detectron2",),
    "multiple_objects": ("detectron2",),
    "color": ("detectron2",),
    "spatial_relationship": ("detectron2",),
    "scene": ("fairscale", "transformers"),
}
"""Packages that each dimension needs and that not every environment has."""


def lacking(dimension: str) -> list[str]:
    """The packages of `dimension` that are not installed here."""
    return [name for name in NEEDS.get(dimension, ()) if importlib.util.find_spec(name) is None]


class Detected(Sampled):
    """A dimension that counts what the GRiT detector sees in 16 frames. NaN where the package drops the clip."""

    samples = 16
    task_of_grit = "initialize_model_det"
    dimension = ""

    def frames_for_upstream(self, path: str, num_frames: int, return_tensor: bool = True) -> Any:
        """The sampled frames in place of vbench.utils.load_video's, in its layout."""
        pixels = self.pixels()
        return torch.Tensor(pixels).permute(0, 3, 1, 2) if return_tensor else pixels

    def detector(self) -> Any:
        """GRiT with its checkpoint, loaded once for each of its two tasks."""
        path = self.networks.file("grit")
        key = f"grit_{self.task_of_grit}"
        if key not in self.networks.others:
            module = importlib.import_module("vbench.third_party.grit_model")
            model = module.DenseCaptioning(torch.device(self.networks.device))
            getattr(model, self.task_of_grit)(model_weight=str(path))
            self.networks.others[key] = model
        return self.networks.others[key]

    def finish(self) -> float:
        """The package's number."""
        module = importlib.import_module(f"vbench.{self.dimension}")
        one = {"prompt": self.task.prompt, "video_list": [self.task.name], "auxiliary_info": self.auxiliary()}
        decoder, module.load_video = module.load_video, self.frames_for_upstream  # type: ignore[attr-defined]
        try:
            _, rows = getattr(module, self.dimension)(self.detector(), [one], self.networks.device)
        except ZeroDivisionError:  # `color` divides by the clips that it kept, and kept none
            return float("nan")
        finally:
            module.load_video = decoder  # type: ignore[attr-defined]
        return float(np.mean([row["video_results"] for row in rows]))

    def auxiliary(self) -> Any:
        """The prompt's facts, as load_dimension_info hands them on."""
        return self.task.auxiliary[self.dimension]


class ObjectClass(Detected):
    """Share of frames in which the object is seen."""

    dimension = "object_class"


class MultipleObjects(Detected):
    """Share of frames in which both objects are seen."""

    dimension = "multiple_objects"


class Color(Detected):
    """Among frames that show the object in some colour, the share with the right one."""

    dimension = "color"
    task_of_grit = "initialize_model"


class SpatialRelationship(Detected):
    """How well two objects stand as the prompt says; upstream does not tell left from right."""

    dimension = "spatial_relationship"


class Scene(Scorer):
    """Share of 16 frames whose Tag2Text caption has every word of the scene; the package decodes these itself."""

    def push(self, batch: Any, part: slice) -> None:
        """Nothing: the package scales frames while it decodes them."""

    def finish(self) -> float:
        """The package's number."""
        path = self.networks.file("tag2text")
        module = importlib.import_module("vbench.scene")
        if "tag2text" not in self.networks.others:
            model = module.tag2text_caption(pretrained=str(path), image_size=384, vit="swin_b")
            self.networks.others["tag2text"] = self.networks.ready(model)
        one = {
            "prompt": self.task.prompt,
            "video_list": [self.task.name],
            "auxiliary_info": self.task.auxiliary["scene"],
        }
        _, rows = module.scene(self.networks.others["tag2text"], [one], self.networks.device)
        return float(rows[0]["video_results"])


DETECTORS: Mapping[str, Any] = {
    "object_class": ObjectClass,
    "multiple_objects": MultipleObjects,
    "color": Color,
    "spatial_relationship": SpatialRelationship,
    "scene": Scene,
}

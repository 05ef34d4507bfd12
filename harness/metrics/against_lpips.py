"""LPIPS of a clip to that of another arm of equal prompt and seed, through torchvision in the `quality` environment."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from harness.contracts import Clip, Curve, Value
from harness.environments.worker.metric import DRAWING, JOBS, WorkerMetric
from harness.errors import ClipError
from harness.metrics.against import WindowOptions, window_of, windowed


class AgainstLpips(WorkerMetric):
    """LPIPS 0.1 on AlexNet to the clip of another arm, in windows of time; `harness fetch lpips` brings the weights.

    A value is the mean of its frames. Zhang, Isola, Efros, Shechtman and Wang, 2018 (arXiv 1801.03924).
    """

    schema = WindowOptions
    takes_reference = True
    values: ClassVar[tuple[Value, ...]] = windowed("lpips", "", "lower", "LPIPS", 0.0, None)
    curves: ClassVar[tuple[Curve, ...]] = (Curve(Value("lpips_by_frame", direction="lower", label="LPIPS")),)
    environment = "quality"
    job = JOBS / "lpips_job.py"
    drawing = DRAWING / "draw_lpips.py"
    weights = "lpips"
    packages = ("torch", "torchvision", "numpy", "av")

    def smallest(self) -> int:
        """Every layer of AlexNet's features has a place from here on."""
        return 31

    def asked_for(self) -> Collection[str]:
        """All values but those of windows beyond `windows`."""
        return [value.name for value in self.values if window_of(value.name) <= self.options.windows]

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The whole clip, and each window. Raises `ClipError`, and what any metric of an environment raises."""
        if clip.reference is None:
            raise ClipError(f"{clip.path} has no reference to be held against", "name an arm with `against`")
        scores = {value.name: math.nan for value in self.values} | dict(super().score(clip))
        options: WindowOptions = self.options
        means = options.means(np.array(self.samples()["lpips_by_frame"]), clip.frame_rate)
        return scores | {f"lpips_{number}": mean for number, mean in enumerate(means, 1)}

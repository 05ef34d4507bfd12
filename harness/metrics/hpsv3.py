"""HPSv3 of a clip (Ma et al. 2025, arXiv 2508.03789) through the hpsv3 package, under three named protocols.

HPSv3 judges images. There is no standard that makes one number of a clip from its frames, and the three ways in use are
not comparable. So each is a metric with a name of its own, and no number is called HPSv3 alone. `mu` is an unbounded
preference score. `sigma` is the model's second output, its uncertainty. Records keep both for every frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from harness.contracts import Availability, Curve, FilePath, Json, Options, Value
from harness.environments.worker.metric import DRAWING, JOBS, WorkerMetric
from harness.system.digests import remembered_sha256
from harness.system.files import expanded


class HPSv3Options(Options):
    """Options of every protocol.

    Attributes:
        checkpoint, base: local HPSv3 weights (.safetensors) and the folder of the Qwen2-VL model that they were trained
            from; both empty for what `harness fetch hpsv3` brought.
        batch: frames in one pass of the network.
    """

    checkpoint: FilePath = ""
    base: FilePath = ""
    batch: Annotated[int, Field(ge=1, le=512)] = 4


class MeanOptions(HPSv3Options):
    """Frames evenly spread.

    Attributes:
        n: frames, first and last included; None for every frame.
    """

    n: Annotated[int, Field(ge=1)] | None = 5


class KeyframeOptions(HPSv3Options):
    """The middle frame of each of equal parts.

    Attributes:
        n: parts.
    """

    n: Annotated[int, Field(ge=1)] = 15


class ShareOptions(HPSv3Options):
    """The best share of evenly spread frames.

    Attributes:
        p: the share, rounded up to whole frames. n: frames; None for every one.
    """

    p: Annotated[float, Field(gt=0, le=1)] = 0.3
    n: Annotated[int, Field(ge=1)] | None = None


class _HPSv3(WorkerMetric):
    """The part that the protocols share."""

    values = (Value("mu", label="HPSv3"), Value("sigma", direction="none", label="HPSv3 sigma"))
    curves = (Curve(Value("mu_per_frame", label="HPSv3"), "adherence", frames="frames"),)
    environment = "quality"
    job = JOBS / "hpsv3_job.py"
    drawing = DRAWING / "draw_hpsv3.py"
    weights = "hpsv3"
    packages = ("hpsv3", "transformers", "torch", "torchvision", "numpy", "pillow", "av")
    protocol: ClassVar[str]

    def available(self) -> Availability:
        """As for any metric of an environment; files of the user's own must exist."""
        if not self._own():
            return super().available()
        for path in self._own():
            if not path.exists():
                return Availability(False, f"{path} does not exist", "put it there, or name another")
        if len(self._own()) == 1:
            return Availability(False, "checkpoint and base belong together", "give both options, or neither")
        return self.environment_available()

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 of every file that is loaded."""
        if not self._own():
            return super().weight_digests()
        files: list[Path] = []
        for path in self._own():
            files += sorted(path.iterdir()) if path.is_dir() else [path]
        return {path.name: remembered_sha256(path) for path in files if path.is_file()}

    def drawn(self, folder: Path) -> Mapping[str, Json]:
        """The places where `harness fetch` would put them."""
        return {"checkpoint": "", "base": ""}

    def job_options(self) -> dict[str, Json]:
        """The options, with absolute paths, and the protocol."""
        options = super().job_options()
        paths = {name: str(_absolute(options[name])) for name in ("checkpoint", "base") if options[name]}
        return {**options, **paths, "protocol": self.protocol}

    def _own(self) -> list[Path]:
        return [_absolute(path) for path in (self.options.checkpoint, self.options.base) if path]


class MeanOfFrames(_HPSv3):
    """Mean of mu over n frames, evenly spread with both ends."""

    schema = MeanOptions
    protocol = "mean_of_frames"


class Keyframes(_HPSv3):
    """Mean of mu over n key frames, the middles of n equal parts."""

    schema = KeyframeOptions
    protocol = "keyframes"


class BestShare(_HPSv3):
    """Mean of mu over the best share p of the frames. It forgives bad frames, so it is no measure of drift."""

    schema = ShareOptions
    protocol = "best_share"


def _absolute(path: object) -> Path:
    return expanded(str(path)).resolve()

"""CLIP-T and CLIP-F of a clip, and CLIP-T of its segments, through open_clip in the `quality` environment.

CLIP-T is the mean cosine between the features of frames and of the prompt (features: Radford et al. 2021, arXiv
2103.00020). CLIP-F is the mean cosine between neighbouring frames. Published numbers rarely say which model, how many
frames or which resize they used. Here the options hold all of it, and so does the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.contracts import Availability, Curve, FilePath, Json, Options, Value
from harness.environments.weights.manifest import File, read_manifest
from harness.environments.worker.metric import JOBS, WorkerMetric
from harness.system.digests import remembered_sha256

SEGMENTS = 12
"""Segments with a value of their own: two minutes of ten-second ones. All of them are among the samples."""


class ClipOptions(Options):
    """Which CLIP network, and which frames it reads.

    Attributes:
        model: open_clip's name of the network.
        pretrained: its tag of the weights, brought by `harness fetch clip`; empty with a checkpoint.
        checkpoint: a local file instead of a tag: a state dict, safetensors or TorchScript archive.
        quick_gelu: the activation of the towers; None takes what the tag was trained with, and GELU for a checkpoint.
        frames: frames of a clip (of a segment), evenly spread, first and last included; None for every one. CLIP-F
            compares neighbours among these.
        resize: how a frame is brought to the network's square: its short side with a central crop (open_clip's and
            OpenAI's own), both sides, or its long side with borders.
        batch: frames in one pass of the network.
    """

    model: str = "ViT-L-14"
    pretrained: str = "openai"
    checkpoint: FilePath = ""
    quick_gelu: bool | None = None
    frames: Annotated[int, Field(ge=1)] | None = 16
    resize: Literal["shortest", "squash", "longest"] = "shortest"
    batch: Annotated[int, Field(ge=1, le=4096)] = 32

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, options: Any) -> Any:
        """A checkpoint takes the tag's place, so that no record names weights that were not used."""
        if not isinstance(options, dict) or not options.get("checkpoint"):
            return options
        if options.get("pretrained"):
            raise ValueError("give either a pretrained tag or a checkpoint")
        return {**options, "pretrained": ""}


class SegmentOptions(ClipOptions):
    """The options of the whole clip, and the length of a segment.

    Attributes:
        seconds: of a segment.
    """

    seconds: Annotated[float, Field(gt=0)] = 10.0


class ClipScore(WorkerMetric):
    """CLIP-T and CLIP-F of a whole clip. With prompt switches, each frame counts against the prompt in force at it."""

    schema = ClipOptions
    values: ClassVar[tuple[Value, ...]] = (
        Value("clip_t", direction="higher", label="CLIP-T"),
        Value("clip_f", direction="higher", label="CLIP-F"),
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(Value("clip_t_per_frame", label="CLIP-T"), "adherence", frames="frames"),
        Curve(Value("clip_f_by_distance", label="CLIP-F by distance"), "distance", frames="clip_f_distances"),
    )
    environment = "quality"
    job = JOBS / "clip_job.py"
    weights = "clip"
    packages = ("open_clip_torch", "torch", "torchvision", "numpy", "pillow", "av")
    by: ClassVar[str] = "clip"

    def weight_groups(self) -> Sequence[str]:
        """The model and tag."""
        return (f"{self.options.model}/{self.options.pretrained}",)

    def available(self) -> Availability:
        """As for any metric of an environment; a checkpoint must exist, and a tag must be one that is fetched."""
        options: ClipOptions = self.options
        if not options.checkpoint and self._file() is None:
            published = ", ".join(read_manifest().get(self.weights).groups)
            reason = f"no published weights {options.pretrained!r} of {options.model} are listed (listed: {published})"
            return Availability(False, reason, "name a local file with the option checkpoint")
        if options.checkpoint and not _local(options).is_file():
            return Availability(False, f"checkpoint {_local(options)} does not exist", "put it there, or name another")
        return self.environment_available() if options.checkpoint else super().available()

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 of the checkpoint, or of the tag's file."""
        if self.options.checkpoint:
            path = _local(self.options)
            return {path.name: remembered_sha256(path) if path.is_file() else ""}
        return super().weight_digests() if self._file() else {}

    def job_options(self) -> dict[str, Json]:
        """The options, the file to load, and what to score."""
        file = self._file()
        checkpoint = str(_local(self.options)) if self.options.checkpoint else ""
        more: dict[str, Json] = {"file": file.path if file else "", "checkpoint": checkpoint, "by": self.by}
        return {**super().job_options(), **more, "segments": SEGMENTS}

    def _file(self) -> File | None:
        files = read_manifest().get(self.weights).files
        return next((file for file in files if set(self.weight_groups()) & set(file.groups)), None)


class ClipSegments(ClipScore):
    """CLIP-T of each segment against its own prompt.

    A clip is cut where its prompt switches, and every `seconds` between. A rest shorter than half a segment belongs
    to the one before it. Papers on interactive one-minute clips print such numbers for six segments of ten seconds
    (there times 100; here cosines).
    """

    schema = SegmentOptions
    values = (
        Value("mean", label="CLIP-T, mean of segments"),
        Value("first", label="CLIP-T, first segment"),
        Value("last", label="CLIP-T, last segment"),
        Value("change", direction="zero", label="CLIP-T, last less first"),
        *(Value(f"segment_{number}", label=f"CLIP-T, segment {number}") for number in range(1, SEGMENTS + 1)),
    )
    curves = (Curve(Value("segment_scores", label="CLIP-T"), "adherence", starts="segment_starts"),)
    by = "segment"


def _local(options: Any) -> Path:
    return Path(options.checkpoint).expanduser().resolve()

"""CLIP-T and CLIP-F of a clip, and CLIP-T of its segments, through open_clip in the `quality` environment.

CLIP-T is the mean cosine between the features of frames and of the prompt (features: Radford et al. 2021, arXiv
2103.00020). CLIP-F is the mean cosine between neighbouring frames. Published numbers rarely say which model, how many
frames or which resize they used. Here the options hold all of it, and so does the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from harness.contracts import Availability, Curve, FilePath, Json, Options, Value
from harness.contracts.metric import tokens_left_out
from harness.environments.weights.manifest import Colour, File, Spread, read_manifest
from harness.environments.worker.metric import DRAWING, JOBS, WorkerMetric
from harness.metrics.clip_preparation import FIELDS, OPENAI, QUICK_GELU, is_script, of_file, of_tag
from harness.system.digests import remembered_sha256
from harness.system.files import expanded

ADDED = ("mean", "std", "interpolation")
TINY = "ViT-S-32-alt"
"""open_clip's name of a small network that needs nothing but its file."""
DRAWN = "random"
"""Name of a file of drawn weights, without its ending."""
SEGMENTS = 12
"""Segments with a value of their own: two minutes of ten-second ones. All of them are among the samples."""


class ClipOptions(Options):
    """Which CLIP network, and which frames it reads.

    Attributes:
        model: open_clip's name of the network.
        pretrained: its tag of the weights, brought by `harness fetch clip`; empty with a checkpoint.
        checkpoint: a local file instead of a tag: a state dict, safetensors or TorchScript archive.
        quick_gelu: the activation of the towers; None takes what the weights were trained with, where they are known:
            those of a tag, a file with the same content, and TorchScript archives as OpenAI publishes them.
        mean, std: of red, green and blue between 0 and 1, which each frame is normalised by; None as for `quick_gelu`.
        interpolation: of the resize; None as for `quick_gelu`.
        frames: frames of a clip (of a segment), evenly spread, first and last included; None for every one. CLIP-F
            compares neighbours among these.
        resize: how a frame is brought to the network's square: its short side with a central crop (open_clip's and
            OpenAI's own), both sides, or its long side with borders; None as for `quick_gelu`. With a tag the short
            side unless given.
        batch: frames in one pass of the network.
    """

    model: str = "ViT-L-14"
    pretrained: str = "openai"
    checkpoint: FilePath = ""
    quick_gelu: bool | None = None
    mean: Colour | None = None
    std: Spread | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    frames: Annotated[int, Field(ge=1)] | None = 16
    resize: Literal["shortest", "squash", "longest"] | None = None
    batch: Annotated[int, Field(ge=1, le=4096)] = 32

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, options: Any) -> Any:
        """A checkpoint takes the tag's place, so that no record names weights that were not used."""
        if not isinstance(options, dict):
            return options
        if options.get("quick_gelu") is False and str(options.get("model")).endswith(QUICK_GELU):
            raise ValueError(f"{options['model']} has QuickGELU; name the network without {QUICK_GELU}")
        if not options.get("checkpoint"):
            return {"resize": "shortest", **options}
        if options.get("pretrained"):
            raise ValueError("give either a pretrained tag or a checkpoint")
        return {**options, "pretrained": ""}

    @model_serializer(mode="wrap")
    def _as_keys_have_it(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what nobody gave: keys were made before there were these options."""
        values: dict[str, Any] = fields(self)
        return {name: value for name, value in values.items() if value is not None or name not in ADDED}


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
        Value("clip_t", direction="higher", label="CLIP-T", low=-1.0, high=1.0),
        Value("clip_f", direction="higher", label="CLIP-F", low=-1.0, high=1.0),
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(Value("clip_t_per_frame", label="CLIP-T"), "adherence", frames="frames"),
        Curve(Value("clip_f_by_distance", label="CLIP-F by distance"), "distance", frames="clip_f_distances"),
    )
    environment = "quality"
    job = JOBS / "clip_job.py"
    drawing = DRAWING / "draw_clip.py"
    weights = "clip"
    packages = ("open_clip_torch", "torch", "torchvision", "numpy", "pillow", "av")
    by: ClassVar[str] = "clip"
    reads_tokens = 77

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
        prepared = self.preparation()
        if unsaid := [name for name in FIELDS if name not in prepared]:
            reason = f"nothing says how frames are prepared for {_local(options).name}: {', '.join(unsaid)}"
            return Availability(False, reason, "give them as options of the metric, as its weights were trained")
        return self.environment_available() if options.checkpoint else super().available()

    def preparation(self) -> dict[str, Json]:
        """How frames are prepared, and the activation: what options give, else what is known of the weights."""
        options: ClipOptions = self.options
        group = self.weight_groups()[0]
        known = (
            of_file(self.weights, options.model, _local(options)) if options.checkpoint else of_tag(self.weights, group)
        )
        given = {name: value for name in FIELDS if (value := getattr(options, name)) is not None}
        return {**known, **given}

    def identity(self) -> Mapping[str, Json]:
        """As of every metric of an environment; of a checkpoint also what options leave open of its preparation."""
        options: ClipOptions = self.options
        filled = {name: value for name, value in self.preparation().items() if getattr(options, name) is None}
        return {**super().identity(), **({"preparation": filled} if options.checkpoint and filled else {})}

    def notes(self) -> Mapping[str, Json]:
        """As of every metric of an environment, how frames were prepared, and how many prompts were read in part."""
        notes = super().notes()
        longer = tokens_left_out(self.samples(), self.reads_tokens)
        cut = {"prompts_cut": longer} if longer else {}
        return {**notes, "preparation": self.preparation(), **cut} if notes else notes

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 of the checkpoint, or of the tag's file."""
        if self.options.checkpoint:
            path = _local(self.options)
            return {path.name: remembered_sha256(path) if path.is_file() else ""}
        return super().weight_digests() if self._file() else {}

    def drawn(self, folder: Path) -> Mapping[str, Json]:
        """A small network whose file has the form of these weights, with frames prepared as for them."""
        file = self._file()
        source = _local(self.options) if self.options.checkpoint else Path(file.path if file else "")
        archive = self.options.pretrained == "openai" or is_script(source)
        name = "archive.pt" if archive else f"weights{'.safetensors' if source.suffix == '.safetensors' else '.pt'}"
        checkpoint = str((folder / self.weights / f"{DRAWN}_{name}").absolute())
        prepared = OPENAI.model_dump(mode="json") | self.preparation()
        return {"model": TINY, "pretrained": "", "checkpoint": checkpoint, **prepared}

    def drawing_options(self) -> dict[str, Json]:
        """The network, and the file to draw: that of the option `checkpoint`."""
        name = _local(self.options).name
        return {"model": self.options.model, "file": name, "script": name.endswith("_archive.pt")}

    def job_options(self) -> dict[str, Json]:
        """The options, the file to load, and what to score."""
        file = self._file()
        checkpoint = str(_local(self.options)) if self.options.checkpoint else ""
        more: dict[str, Json] = {"file": file.path if file else "", "checkpoint": checkpoint, "by": self.by}
        assumed = [name for name in FIELDS if getattr(self.options, name) is None]
        return {**super().job_options(), **self.preparation(), **more, "assumed": assumed, "segments": SEGMENTS}

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
        Value("mean", label="CLIP-T, mean of segments", low=-1.0, high=1.0),
        Value("first", label="CLIP-T, first segment", low=-1.0, high=1.0),
        Value("last", label="CLIP-T, last segment", low=-1.0, high=1.0),
        Value("change", direction="zero", label="CLIP-T, last less first", low=-2.0, high=2.0),
        *(
            Value(f"segment_{number}", label=f"CLIP-T, segment {number}", low=-1.0, high=1.0)
            for number in range(1, SEGMENTS + 1)
        ),
    )
    curves = (Curve(Value("segment_scores", label="CLIP-T"), "adherence", starts="segment_starts"),)
    by = "segment"


def _local(options: ClipOptions) -> Path:
    return expanded(options.checkpoint).resolve()

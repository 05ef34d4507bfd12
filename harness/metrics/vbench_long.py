"""VBench on long clips: six dimensions in pieces of two seconds, with drift beside every mean.

Two of the six, subject and background consistency, have a long-range half in VBench-Long as its README and script run
it (`--dev_flag`): the pieces' first frames are compared by other features, their similarity passes a table, and the
score is half that and half the mean of the pieces' own scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from harness.contracts import Clip, Curve, Json, Options, Value
from harness.metrics import vbench_totals
from harness.metrics.vbench import LABELS, OF_FLOW, VBenchMetric, dimension

PIECE_SECONDS = 2.0
"""Length of a piece in upstream's mode for one's own clips (vbench2_beta_long, `long_custom_input`)."""

CONSISTENCY = ("subject_consistency", "background_consistency")
"""The dimensions that have a long-range half."""

HALVES: Mapping[str, str] = {"in_clip": "in clip", "clip_to_clip": "piece to piece", "long_range": "long range"}
"""What their parts are called, in names and in labels."""

IN_CLIP_FEATURES: Mapping[str, str] = dict(zip(CONSISTENCY, ("DINO ViT-B/16", "CLIP ViT-B/32"), strict=True))
LONG_FEATURES: Mapping[str, str] = dict(zip(CONSISTENCY, ("DINOv2 ViT-B/14", "DreamSim ensemble"), strict=True))
TABLES: Mapping[str, str] = {
    name: f"vbench2_beta_long/configs/{name.split('_')[0]}_mapping_table.yaml of Vchitect/VBench at 45e79ec"
    for name in CONSISTENCY
}
"""The tables of 101 points that similarities of pieces pass; `harness fetch vbench` brings that very commit's."""

RENAMED: Mapping[str, tuple[str, str]] = {
    "none": ("in_clip", "long"),
    "upstream": ("upstream_in_clip", "upstream_dev"),
}
"""Modes without the long-range half, by their names in earlier versions: their present name, and the mode with it."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What one `compat` scores the consistency dimensions by.

    Attributes:
        upstream: upstream's own code runs, its faults included.
        weights: of the in-clip and the long-range half; upstream's are in configs/slow_fast_params.yaml.
    """

    upstream: bool
    weights: tuple[float, float]

    def parts(self) -> dict[str, Json]:
        """The mode's parts by name, for records: code, features, tables and weights."""
        long_range = self.weights[1] > 0
        return {
            "code": "vbench2_beta_long of vbench 0.1.5" if self.upstream else "ranges of frames of one decode",
            "in_clip": dict(IN_CLIP_FEATURES),
            "clip_to_clip": dict(LONG_FEATURES if long_range else IN_CLIP_FEATURES),
            "tables": dict(TABLES) if long_range else {},
            "weights": dict(zip(("in_clip", "long_range"), self.weights, strict=True)),
        }


MODES: Mapping[str, Mode] = {
    "long": Mode(upstream=False, weights=(0.5, 0.5)),
    "upstream_dev": Mode(upstream=True, weights=(0.5, 0.5)),
    "in_clip": Mode(upstream=False, weights=(1.0, 0.0)),
    "upstream_in_clip": Mode(upstream=True, weights=(1.0, 0.0)),
}


class VBenchLongOptions(Options):
    """Options of `vbench_long`.

    Attributes:
        compat: `long` is VBench-Long's score with its long-range half: pieces are ranges of frames of one decode, of
            any file name, and every video counts once. A clip of one piece has no such half and is refused.
            `upstream_dev` runs VBench-Long's own code as its README does, for rows beside published ones. It re-encodes
            pieces, counts every piece as a video, and leaves out the long-range half for a clip of one piece or with an
            underscore in its name. Its overall value is the mean over pieces. A table's mean over clips equals that
            where clips are of one length, as in the suites. `in_clip` and `upstream_in_clip` are the same two without
            the long-range half; the similarity of pieces, by the in-clip features, stands beside.
        seconds: length of a piece; upstream's code always takes 2.
    """

    compat: Literal["long", "upstream_dev", "in_clip", "upstream_in_clip"] = "long"
    seconds: float = Field(PIECE_SECONDS, gt=0, le=60)

    @field_validator("compat", mode="before")
    @classmethod
    def _renamed(cls, name: object) -> object:
        if isinstance(name, str) and name in RENAMED:
            in_clip, with_long_range = RENAMED[name]
            raise ValueError(f"{name!r} is called {in_clip!r} now; with the long-range half it is {with_long_range!r}")
        return name

    @model_validator(mode="after")
    def _of_the_mode(self) -> VBenchLongOptions:
        if MODES[self.compat].upstream and self.seconds != PIECE_SECONDS:
            raise ValueError(f"upstream's pieces last {PIECE_SECONDS:g} s, not {self.seconds:g}")
        return self


class VBenchLong(VBenchMetric):
    """The six dimensions of the field's common long-video protocol (Vchitect/VBench, vbench2_beta_long)."""

    version = "2"
    schema = VBenchLongOptions
    packages = (*VBenchMetric.packages, "dreamsim", "peft")
    values: ClassVar[tuple[Value, ...]] = (
        *map(dimension, vbench_totals.SIX),
        # Means of cosines as the dimension itself, or such a mean by a table from 0 to 1 to 0 to 1.
        *(
            Value(f"{name}_{half}", "", "higher", f"{LABELS[name]}, {words}", low=0.0, high=1.0)
            for half, words in HALVES.items()
            for name in CONSISTENCY
        ),
        Value("imaging_spread", "", "lower", "imaging quality, spread over pieces", low=0.0),
        Value("imaging_change", "", "zero", "imaging quality, last piece minus first"),
        Value("pieces", "pieces", "none", "pieces", low=1.0),
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        *(
            Curve(
                Value(f"{name}_by_piece", label=name.replace("_", " ")),
                "motion" if name == "dynamic_degree" else "quality",
                starts="piece_starts",
            )
            for name in vbench_totals.SIX
        ),
        Curve(Value("dino_by_distance", label="DINO similarity"), "distance", frames="dino_distances"),
    )
    derived: ClassVar[tuple[Value, ...]] = (Value("mean_of_six", "", "higher", "mean of six raw dimensions"),)

    @property
    def mode(self) -> Mode:
        """What the option `compat` stands for."""
        return MODES[self.options.compat]

    def weight_groups(self) -> Sequence[str]:
        """The six dimensions, and what their long-range half needs."""
        return (*vbench_totals.SIX, *(f"long_{name}" for name in CONSISTENCY if self.mode.weights[1] > 0))

    def identity(self) -> Mapping[str, Json]:
        """As of any worker metric, and the parts of the mode."""
        return {**super().identity(), "parts": self.mode.parts()}

    def notes(self) -> Mapping[str, Json]:
        """As of any worker metric, and the parts of the mode."""
        of_worker = super().notes()
        return {**of_worker, "compat": self.options.compat, "parts": self.mode.parts()} if of_worker else of_worker

    def job_options(self) -> dict[str, Json]:
        """The arguments of `vbench_job.long_job.Plan`."""
        return {
            "job": "long",
            "dimensions": list(vbench_totals.SIX),
            "seconds": self.options.seconds,
            "upstream": self.mode.upstream,
            "weights": list(self.mode.weights),
        }

    def shortest(self, frame_rate: float) -> int:
        """Two pieces and one frame more, as a clip of one piece has no long-range half."""
        options: VBenchLongOptions = self.options
        return math.ceil(2 * options.seconds * frame_rate) + 1

    def smallest(self) -> int:
        """What the optical flow takes."""
        return OF_FLOW

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The six dimensions of one clip and their parts; `samples()` has a number for every piece.

        Of the consistency dimensions `_in_clip` is the mean over pieces, `_clip_to_clip` the similarity of the pieces'
        first frames, and `_long_range` that similarity by the table.
        """
        scores = super().score(clip)
        return {value.name: scores.get(value.name, float("nan")) for value in self.values}

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """The mean of the six raw dimensions, where all are measured."""
        raw = {name: means[name] for name in vbench_totals.SIX if name in means and means[name] == means[name]}
        return {"mean_of_six": vbench_totals.mean_of_six(raw)} if len(raw) == len(vbench_totals.SIX) else {}

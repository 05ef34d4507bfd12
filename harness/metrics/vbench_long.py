"""VBench on long clips: six dimensions in pieces of two seconds, with drift beside every mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from harness.contracts import Clip, Json, Options, Value
from harness.metrics import vbench_score
from harness.metrics.vbench import Faults

PIECE_SECONDS = 2.0
"""Length of a piece in upstream's mode for one's own clips (vbench2_beta_long, `long_custom_input`)."""


class VBenchLongOptions(Options):
    """Options of `vbench_long`.

    Attributes:
        compat: `none` scores pieces that are ranges of frames of one decode, of any file name, and averages over
            videos. `upstream` runs VBench-Long's own code with its defaults (no development flag): re-encoded pieces,
            names cut at underscores, every piece a video of its own. Its overall value is the mean over pieces, which
            a table's mean over clips equals where clips are of one length, as in the suites.
        seconds: length of a piece; upstream's code always takes 2.
    """

    compat: Literal["none", "upstream"] = "none"
    seconds: float = Field(PIECE_SECONDS, gt=0, le=60)


class VBenchLong(Faults):
    """The six dimensions of the field's common long-video protocol (Vchitect/VBench, vbench2_beta_long)."""

    version = "1"
    schema = VBenchLongOptions
    values: ClassVar[tuple[Value, ...]] = (
        *(Value(name, "", "higher", name.replace("_", " ")) for name in vbench_score.SIX),
        Value("subject_consistency_clip_to_clip", "", "higher", "subject consistency, piece to piece"),
        Value("background_consistency_clip_to_clip", "", "higher", "background consistency, piece to piece"),
        Value("imaging_spread", "", "lower", "imaging quality, spread over pieces"),
        Value("imaging_change", "", "zero", "imaging quality, last piece minus first"),
        Value("pieces", "pieces", "none", "pieces"),
    )
    derived: ClassVar[tuple[Value, ...]] = (Value("mean_of_six", "", "higher", "mean of six raw dimensions"),)

    def weight_groups(self) -> Sequence[str]:
        """The six dimensions."""
        return vbench_score.SIX

    def job_options(self) -> dict[str, Json]:
        """What the job needs to know."""
        return {
            "job": "long",
            "dimensions": list(vbench_score.SIX),
            "seconds": self.options.seconds,
            "compat": self.options.compat,
        }

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The six dimensions of one clip, each the mean over its pieces; `samples()` has a number for every piece."""
        found = super().score(clip)
        return {value.name: found.get(value.name, float("nan")) for value in self.values}

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """The mean of the six raw dimensions, where all are measured."""
        raw = {name: means[name] for name in vbench_score.SIX if name in means and means[name] == means[name]}
        return {"mean_of_six": vbench_score.mean_of_six(raw)} if len(raw) == len(vbench_score.SIX) else {}

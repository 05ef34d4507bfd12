"""The contract of a probe: a measurement of a live model, or of the device alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from harness.contracts.base import Availability, Direction, Json, Options
from harness.contracts.metric import Value
from harness.contracts.model import Agreement, ModelCard, Prefix, Request, Spans, Switch, VideoModel, no_spans

# ---------------------------------------------------------------------------------------------- probes


@dataclass(frozen=True, slots=True)
class Workload:
    """What a probe has the model do: prompts and seeds to draw from, and the pixel frames of a clip.

    `prefixes` are what the clips continue, one a prompt, or none.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    frames: int
    batch: int = 1
    switches: tuple[Switch, ...] = ()
    prefixes: tuple[Prefix, ...] = ()

    def request(self, number: int) -> Request:
        """The `number`-th distinct request (rule T13).

        (prompt, seed) pairs are taken in order, prompts fastest, `batch` at a time. When they are used up the seeds go
        on beyond the largest, so that no request of a run is ever repeated by accident.
        """
        stride = max(self.seeds) + 1
        chosen, numbers = [], []
        for clip in range(self.batch):
            turn, prompt = divmod(number * self.batch + clip, len(self.prompts))
            cycle, seed = divmod(turn, len(self.seeds))
            chosen.append(prompt)
            numbers.append(self.seeds[seed] + cycle * stride)
        switches = tuple(
            Switch(s.frame, tuple(s.prompts[p if len(s.prompts) > 1 else 0] for p in chosen)) for s in self.switches
        )
        prefixes = tuple(self.prefixes[p] for p in chosen) if self.prefixes else ()
        return Request(tuple(self.prompts[p] for p in chosen), tuple(numbers), self.frames, switches, prefixes)


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under measurement: how to name it, what it says of itself, and how to make it live.

    `load` returns the model ready on `device`; `name` and `options` suffice to make it anew in a fresh process.
    """

    name: str
    options: Mapping[str, Json]
    card: ModelCard
    device: str
    load: Callable[[], VideoModel]
    plugins: tuple[Path, ...] = ()


def _silent(line: str) -> None:
    """Drop a line of progress."""


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """Where a probe measures, and what it may use besides.

    Attributes:
        device: `cpu`, `cuda` or `cuda:1`.
        scratch: folder for files that outlive an attempt, so that a later one goes on from them. The measurements of a
            run share it, and the probe that needs it makes it.
        report: takes a line of progress.
        spans: names a step of the measurement while it lasts, as in `with context.spans("warm-up")`; progress shows it.
    """

    device: str
    scratch: Path
    report: Callable[[str], None] = _silent
    spans: Spans = no_spans


@dataclass(frozen=True, slots=True)
class Product:
    """A file that a measurement leaves in the scratch folder, found in the run as `folder`/<section>/`name`.

    Attributes:
        file: its path in the scratch folder. sha256: of its bytes; empty where only its being there counts.
    """

    folder: str
    name: str
    file: str
    sha256: str = ""


AuditVerdict = Literal["passed", "failed", "unclear", "left out"]

NotHeld = Literal["no reference", "not taken"]
"""Why no agreement stands behind a speed: the model has no reference, or there was no room for it."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Whether a model answers a repeated request from a cache (rule T13).

    Attributes:
        distinct_s, same_s: seconds of each distinct and of each repeated request.
    """

    verdict: AuditVerdict
    distinct_s: Sequence[float] = ()
    same_s: Sequence[float] = ()


Text = Annotated[str, Field(max_length=500)]


@dataclass(frozen=True, slots=True)
class ProbeTable:
    """A table whose rows are no arms, as the forms of attention.

    Attributes:
        title: above it. corner: heading of the labels. columns: label, unit and direction of each.
        rows: label and a number a column; None, or one that is not finite, where nothing was measured.
        remarks: sentences below it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    title: Text
    corner: Text
    columns: Sequence[tuple[Text, Text, Direction]]
    rows: Sequence[tuple[Text, Sequence[float | None]]]
    remarks: Sequence[Text] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a probe found.

    What casts doubt on it is said by fields of their own, each None where the probe has nothing to say of it. Tables
    mark a value that a doubt stands against, and never show it as the best.

    Attributes:
        values: headline values. samples: every raw sample by name. notes: for the record.
        converged: whether the stop rule was met (rule T8). contended: whether other work ran meanwhile (rule T1).
        audit: of a model that might answer from a cache (rule T13).
        agreement: with the model's slow reference, or why there is none (rule T14).
        table: of rows that are no arms. products: files that it leaves; its record counts only while they are there.
    """

    values: Mapping[str, float]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Mapping[str, Json] = field(default_factory=dict)
    converged: bool | None = None
    contended: bool | None = None
    audit: Audit | None = None
    agreement: Agreement | NotHeld | None = None
    table: ProbeTable | None = None
    products: Sequence[Product] = ()


ProbePlot = Literal["memory_by_batch", "chunk_time", "complexity", "cache_history"]

DRAWN_FROM: Mapping[ProbePlot, tuple[str, ...]] = {
    "memory_by_batch": ("budget_bytes", "batch", "fits", "peak_bytes"),
    "chunk_time": ("chunk_s_by_index",),
    "complexity": ("window_frames", "clip_frames"),
    "cache_history": ("seen_chunk", "seen_frame", "left_chunk", "left_frame", "error_chunk", "error"),
}
"""The plots of a measurement, and the values and samples that each is drawn from.

`memory_by_batch`: the value `budget_bytes`; of every batch size tried its requests, 1 or 0 for whether it fits, and its
peak bytes. `chunk_time`: median seconds of each chunk of a clip. `complexity`: lengths of windows and of clips, and
`<form>:<curve>` as `harness.report.plots.complexity` names the curves. `cache_history`: pairs
of chunk and latent frame, of what a chunk sees and of what it is the first not to see; and errors of attention, each
with its chunk, or none. Where they are there, `seen_share` says how much of its frame each of the first pairs is, and
`merged_chunk` and `merged_frames` how many frames' worth of averages a chunk sees.
"""


class Probe(ABC):
    """A measurement of a live model, or of the device alone when `needs_model` is false.

    Attributes:
        takes_prefix: it gives the model the workload's prefixes; a suite that has some for another probe is refused.
        plots: those that its measurements can be drawn as. has_table: its measurements bring a `ProbeTable`.
        side_by_side: several measurements may run at the same time, since no figure depends on what else runs.
    """

    version: ClassVar[str] = "1"
    schema: ClassVar[type[Options]] = Options
    values: ClassVar[tuple[Value, ...]]
    needs_model: ClassVar[bool] = True
    takes_prefix: ClassVar[bool] = False
    plots: ClassVar[tuple[ProbePlot, ...]] = ()
    has_table: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        self.options: Any = options

    def available(self, device: str) -> Availability:
        """Whether the probe can run on `device`. Asking changes nothing."""
        return Availability(True)

    def check(self, model: VideoModel, workload: Workload) -> None:
        """Refuse a model or a workload that cannot be measured, before anything is loaded. Raises `OptionError`.

        Asked when a suite is planned, of each arm of a probe that needs a model. Imports no torch.
        """
        return

    def identity(self) -> Mapping[str, Json]:
        """What decides the result beyond name, version, options, model and workload, as files that options name.

        Part of the unit's key where not empty. Imports no torch.
        """
        return {}

    def keyed_options(self, options: Mapping[str, Json]) -> Mapping[str, Json]:
        """`options`, which hold every default, as the unit's key has them: a file by its digest. Imports no torch."""
        return options

    def tiny(self) -> Mapping[str, Json]:
        """Options that, set over these, make the shortest measurement which still takes every step.

        `harness check` and `harness rehearse` measure by them. Empty, as for every probe that does not override this:
        it measures as it is. Imports no torch.
        """
        return {}

    @abstractmethod
    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Run the measurement. `subject` is None only where `needs_model` is false."""

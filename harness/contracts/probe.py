"""The contract of a probe: a measurement of a live model, or of the device alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness.contracts.base import Availability, Json, Options
from harness.contracts.metric import Value
from harness.contracts.model import ModelCard, Prefix, Request, Spans, Switch, VideoModel, no_spans

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


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a probe found.

    Attributes:
        values: headline values. samples: every raw sample by name. notes: for the record.
        products: files that it leaves; its record counts only while they are there and as they were.
    """

    values: Mapping[str, float]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Mapping[str, Json] = field(default_factory=dict)
    products: Sequence[Product] = ()


class Probe(ABC):
    """A measurement of a live model, or of the device alone when `needs_model` is false.

    Attributes:
        takes_prefix: it gives the model the workload's prefixes; a suite that has some for another probe is refused.
        side_by_side: several measurements may run at the same time, since no figure depends on what else runs.
    """

    version: ClassVar[str] = "1"
    schema: ClassVar[type[Options]] = Options
    values: ClassVar[tuple[Value, ...]]
    needs_model: ClassVar[bool] = True
    takes_prefix: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        self.options: Any = options

    def available(self, device: str) -> Availability:
        """Whether the probe can run on `device`. Asking changes nothing."""
        return Availability(True)

    def identity(self) -> Mapping[str, Json]:
        """What decides the result beyond name, version, options, model and workload, as files that options name.

        Part of the unit's key where not empty. Imports no torch.
        """
        return {}

    def keyed_options(self, options: Mapping[str, Json]) -> Mapping[str, Json]:
        """`options`, which hold every default, as the unit's key has them: a file by its digest. Imports no torch."""
        return options

    @abstractmethod
    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Run the measurement. `subject` is None only where `needs_model` is false."""

"""Draw what stands in a cache along a rollout: the frames that each chunk sees, and what storage costs in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from harness.report.plots.chart import Axis, Line, Panel
from harness.runs.line import Record

MOST_ARMS = 7
"""Arms whose frames are shown; with the panel of errors they fill two rows."""

Arm = tuple[int, str, Record]
"""Number in the suite, label, and the newest record of the probe."""


def panels(arms: Sequence[Arm]) -> list[Panel]:
    """A panel an arm for the frames, and one for the errors of all arms that lose anything."""
    drawn = [_frames(*arm) for arm in arms[:MOST_ARMS]]
    errors = [line for arm in arms if (line := _errors(*arm))]
    return drawn + [Panel(Axis("chunk", whole=True), Axis("attention error"), tuple(errors))] * bool(errors)


def _frames(number: int, label: str, record: Record) -> Panel:
    """A mark for each frame that a chunk sees, and a cross where a frame is gone."""
    seen, left = (_pairs(record, name) for name in ("seen", "left"))
    lines = Line("seen", number, *seen, joined=False)
    crosses = tuple((chunk, frame, number) for chunk, frame in zip(*left, strict=True))
    return Panel(
        Axis("chunk", whole=True), Axis(f"{label}: latent frame", whole=True), (lines,), crosses=crosses, named=False
    )


def _pairs(record: Record, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chunks, frames = (record.samples.get(f"{name}_{part}", ()) for part in ("chunk", "frame"))
    return tuple(chunks), tuple(frames)


def _errors(number: int, label: str, record: Record) -> Line | None:
    """The mean over layers and heads of each chunk, in a band from the least to the greatest; None without any."""
    by_chunk: dict[float, list[float]] = {}
    for chunk, error in zip(record.samples.get("error_chunk", ()), record.samples.get("error", ()), strict=False):
        by_chunk.setdefault(chunk, []).append(error)
    if not any(map(any, by_chunk.values())):
        return None
    chunks = tuple(sorted(by_chunk))
    mean, low, high = (tuple(each(by_chunk[chunk]) for chunk in chunks) for each in (fmean, min, max))
    return Line(label, number, chunks, mean, low, high, band=True)

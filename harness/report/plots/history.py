"""Draw what stands in a cache along a rollout: the frames that each chunk sees, and what storage costs in accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from harness.report.plots.chart import Axis, Line, Panel
from harness.runs.line import Record

MOST_ARMS = 7
"""Arms whose frames are shown; with the panel of errors they fill two rows."""

WHOLE = 1 - 1e-9
"""Share of a frame from which on it counts as seen whole."""
BELOW = 3.0
"""Frames between the first one and an average, and between averages."""

Arm = tuple[int, str, Record]
"""Number in the suite, label, and the newest record of the probe."""


def panels(arms: Sequence[Arm]) -> list[Panel]:
    """A panel an arm for the frames, and one for the errors of all arms that lose anything."""
    drawn = [_frames(*arm) for arm in arms[:MOST_ARMS]]
    errors = [line for arm in arms if (line := _errors(*arm))]
    return drawn + [Panel(Axis("chunk", whole=True), Axis("attention error of storage"), tuple(errors))] * bool(errors)


def remarks(arms: Sequence[Arm]) -> tuple[str, ...]:
    """What small marks and marks below zero mean, where there are any."""
    shown = [record.samples for _, _, record in arms[:MOST_ARMS]]
    return (
        *("Small marks: some of its tokens, in some layers, heads or clips.",)
        * any(share < WHOLE for samples in shown for share in samples.get("seen_share", ())),
        *("Marks below zero: averages, which are of no frame.",) * any("merged_chunk" in samples for samples in shown),
    )


def _frames(number: int, label: str, record: Record) -> Panel:
    """A mark for each frame that a chunk sees, a smaller one where it sees a part, and a cross where a frame is gone.

    Averages stand below the frames, since they are of none.
    """
    (chunks, frames), left = (_pairs(record, name) for name in ("seen", "left"))
    shares = record.samples.get("seen_share") or [1.0] * len(chunks)
    pairs = list(zip(chunks, frames, shares, strict=True))
    merged = [record.samples.get(f"merged_{name}", ()) for name in ("chunk", "frames")]
    points: dict[str, list[tuple[float, float]]] = {
        "seen": [(x, y) for x, y, share in pairs if share >= WHOLE],
        "seen in part": [(x, y) for x, y, share in pairs if share < WHOLE],
        "average": [
            (x, -BELOW * place) for x, count in zip(*merged, strict=True) for place in range(1, math.ceil(count) + 1)
        ],
    }
    lines = [
        Line(name, number, *_axes(some), joined=False, small=name != "seen") for name, some in points.items() if some
    ]
    crosses = tuple((chunk, frame, number) for chunk, frame in zip(*left, strict=True))
    return Panel(
        Axis("chunk", whole=True),
        Axis(f"{label}: latent frame", whole=True),
        tuple(lines),
        crosses=crosses,
        named=False,
    )


def _axes(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(x for x, _ in points), tuple(y for _, y in points)


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

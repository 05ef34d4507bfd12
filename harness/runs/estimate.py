"""How long a plan's units will take and how much disk, from earlier records, or from FLOPs and a stated rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from harness.contracts import ModelCard
from harness.runs.index import IndexEntry
from harness.runs.line import Record
from harness.runs.plan import Plan, Unit
from harness.runs.records import RecordFile
from harness.system.digests import canonical

SAMPLES = 16
"""Records of one kind, model, section and plug-in of a run that are read, evenly from all of them."""
RECORD_BYTES = 3000
"""Of a record without samples, about."""

Costs = Mapping[tuple[str, ...], Sequence[tuple[float, float]]]
"""Seconds and bytes of a unit by what it is of, per frame for a clip."""


@dataclass(slots=True)
class Estimate:
    """Of some units.

    Attributes:
        units: all of them. seconds: of work, one unit after another. bytes: of clips and records.
        by_rate: clips whose seconds are those of their FLOPs at the stated rate.
        without: those that nothing is known of, by what they are of; they are in neither sum.
        unweighed: clips whose bytes are in no sum, as no clip of their model was made before.
    """

    units: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    by_rate: int = 0
    without: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unweighed: int = 0


def estimate(plan: Plan, units: Iterable[Unit], costs: Costs, rate: float | None = None) -> Estimate:
    """What `units` of `plan` will cost, from the `costs` of earlier ones.

    Args:
        rate: FLOP a second that a network reaches, for clips of models that no earlier record is of.
    """
    cards = {arm.label: arm.card for arm in plan.arms}
    total = Estimate()
    for unit in units:
        total.units += 1
        total.bytes += RECORD_BYTES
        frames = _frames(unit.preimage)
        known = next((costs[name] for name in _names(unit.kind, unit.preimage) if name in costs), None)
        card = cards.get(str(unit.context["arm"]))
        if known:
            scale = frames if unit.kind == "generate" else 1
            total.seconds += scale * median(seconds for seconds, _ in known)
            total.bytes += scale * median(size for _, size in known)
            continue
        total.unweighed += unit.kind == "generate"
        if unit.kind == "generate" and rate and card and (flops := _flops(card, frames)):
            total.seconds += flops / rate
            total.by_rate += 1
        else:
            total.without[_names(unit.kind, unit.preimage)[-1][1]] += 1
    return total


def costs_of(files: Iterable[RecordFile]) -> Costs:
    """What the finished units of earlier runs cost."""
    costs: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for file in files:
        alike: dict[tuple[Any, ...], list[IndexEntry]] = defaultdict(list)
        for entry in file.newest().values():
            if entry.status == "ok":
                place = (entry.context.get(name, "") for name in ("arm", "section", "plugin"))
                alike[entry.kind, *place].append(entry)
        for entries in alike.values():
            for entry in entries[:: -(-len(entries) // SAMPLES)]:
                record = file.at(entry.offset)
                try:
                    cost = _cost(record)
                    names = _names(record.kind, record.preimage)
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue  # an estimate may do without a record that says too little
                for name in names:
                    costs[name].append(cost)
    return costs


def _names(kind: str, preimage: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What a unit is of, the most exact name first: with the model's options, then by names alone."""
    plugin = {"score": "metric", "measure": "probe"}.get(kind, "model")
    name = str(preimage[plugin]["name"])
    exact = [canonical(preimage[each]) for each in (plugin, "model", "workload") if preimage.get(each)]
    return [(kind, name, *exact), (kind, name)]


def _frames(preimage: Mapping[str, Any]) -> int:
    frames = preimage.get("frames")
    return frames if isinstance(frames, int) else 1


def _cost(record: Record) -> tuple[float, float]:
    """Seconds and bytes; per frame of a clip, and of one of a batch its share of the seconds."""
    began, ended = map(datetime.fromisoformat, (record.started, record.ended))
    seconds = max(0.0, (ended - began).total_seconds())
    if record.kind != "generate":
        return seconds, 0.0
    frames = max(1, _whole(record.clip.get("frames"))) if isinstance(record.preimage.get("frames"), int) else 1
    together = max(1, _whole(record.notes.get("batch", 1)))
    return seconds / together / frames, _whole(record.clip.get("bytes")) / frames


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _flops(card: ModelCard, frames: int) -> float:
    """Of the network, all chunks at a full window; 0 where the card does not say."""
    by_part: Any = card.details.get("flops_per_chunk")
    total = by_part.get("total", 0) if isinstance(by_part, dict) else 0
    return float(total) * -(-frames // max(1, card.frames_per_chunk))

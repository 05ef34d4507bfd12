"""Parts of a plan: the units of some models and sections alone, and the share of one of several machines."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.contracts import registry
from harness.errors import HarnessError, OptionError, nearest
from harness.execute import batches
from harness.runs.plan import Plan, Unit, scored_clips
from harness.runs.records import SHARDS

MOST_SHARDS = 100_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of `count` shares of a plan, from 1; written `3/16`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `text` names. Raises `HarnessError`."""
        parts = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        number, count = (int(parts[1]), int(parts[2])) if parts else (0, 0)
        if not 1 <= number <= count <= MOST_SHARDS:
            raise HarnessError(
                f"shard {text!r}: expected NUMBER/COUNT, the number from 1 to the count (at most {MOST_SHARDS:,})",
                "as in --shard 3/16",
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number}-of-{self.count}"


def part_of(plan: Plan, base: Path, names: Sequence[str], shard: Shard | None) -> tuple[Plan, Path]:
    """What of `plan` is to be done, and in which folder: `base`, or that of the shard in it. Raises `OptionError`."""
    part = only(plan, names)
    return (share(part, shard), base / SHARDS / shard.name) if shard else (part, base)


def share(plan: Plan, shard: Shard) -> Plan:
    """`plan` with the units of one shard; every unit is in exactly one of `shard.count`.

    A share depends on models and keys alone, not on the order of a suite. It holds clips of few models, whole batches,
    and as many frames as any other; a clip's scores go with it. Clips that are held against each other stay together,
    so that a share of such a section has some of every model. The measurements of a section stay together, since
    their speeds are compared, unless the probe says that it does not matter what else runs.
    """
    mine = {unit.key for units in (*_clips(plan, shard), *_measurements(plan, shard)) for unit in units}
    return replace(plan, units=tuple(unit for unit in plan.units if _own_or_clip(unit) in mine))


def _own_or_clip(unit: Unit) -> str:
    """The key of the unit itself; of a score that of its clip."""
    return str(unit.preimage["generate"]) if unit.kind == "score" else unit.key


def _clips(plan: Plan, shard: Shard) -> Iterator[Sequence[Unit]]:
    """The shard's batches of clips: the row of all of them is cut into parts of equal frames."""
    by_arm: dict[str, list[Unit]] = defaultdict(list)
    families: dict[str, list[Unit]] = defaultdict(list)
    first_of = _families(plan)
    for unit in sorted(plan.units, key=lambda unit: unit.key):
        if unit.key in first_of:
            families[first_of[unit.key]].append(unit)
        elif unit.kind == "generate":
            by_arm[str(unit.context["arm"])].append(unit)
    arms = sorted((arm for arm in plan.arms if arm.label in by_arm), key=lambda arm: arm.label)
    row: list[Sequence[Unit]] = [batch for arm in arms for batch in batches.grouped(by_arm[arm.label], arm)]
    row += families.values()
    weights = [sum(_frames(unit) for unit in batch) for batch in row]
    total, before = sum(weights), 0
    for batch, weight in zip(row, weights, strict=True):
        # By the middle of the batch, in whole numbers, so that every machine cuts at the same place.
        if (2 * before + weight) * shard.count // (2 * total) == shard.number - 1:
            yield batch
        before += weight


def _families(plan: Plan) -> dict[str, str]:
    """Of each clip that is held against another, or another against it, the least key of all that belong together."""
    less: dict[str, str] = {}

    def first(key: str) -> str:
        while key in less:
            key = less[key]
        return key

    keys = set[str]()
    for unit in plan.units:
        if len(clips := scored_clips(unit)) > 1:
            keys.update(clips)
            low, high = sorted(map(first, clips))
            if low != high:
                less[high] = low
    return {key: first(key) for key in keys}


def _frames(unit: Unit) -> int:
    preimage: Any = unit.preimage
    frames = preimage["frames"]
    # Of a clip that is taken whole nobody knows the length yet.
    return frames if isinstance(frames, int) else 1


def _measurements(plan: Plan, shard: Shard) -> Iterator[Sequence[Unit]]:
    """The shard's measurements. What must be measured on one machine is dealt out as one."""
    together: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in plan.units:
        if unit.kind == "measure":
            alone = registry.probes.get(str(unit.context["plugin"])).side_by_side
            together[str(unit.context["section"]), unit.key if alone else ""].append(unit)
    for place, (_, units) in enumerate(sorted(together.items())):
        if place % shard.count == shard.number - 1:
            yield units


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """`plan` with the units of those models and sections alone, or all of it where `names` is empty.

    A label before its grid stands for all of the grid. Where models and sections are named, a unit must be of one of
    each; the clips that others are held against come along. Raises `OptionError` for an unknown name, and where nothing
    is left.
    """
    if not names:
        return plan
    sections = {group.section for group in plan.groups}
    arms: set[str] = set()
    chosen_sections: set[str] = set()
    for name in names:
        labels = {arm.label for arm in plan.arms if arm.label == name or arm.label.startswith(f"{name} [")}
        if not labels and name not in sections:
            known = [*(arm.label for arm in plan.arms), *sorted(sections)]
            raise OptionError(f"--only {name}: the suite has no such model or section", nearest(name, known))
        if labels and name in sections:
            raise OptionError(f"--only {name}: the suite has a model and a section of that name", "rename one of them")
        arms |= labels
        chosen_sections |= {name} & sections
    keys = {
        key
        for group in plan.groups
        if (not arms or group.arm in arms) and (not chosen_sections or group.section in chosen_sections)
        for key in group.keys
    }
    if not keys:
        raise OptionError(
            f"--only {' --only '.join(names)}: no section that is named has a model that is", "name others"
        )
    keys.update(clip for unit in plan.units if unit.key in keys for clip in scored_clips(unit))
    return replace(plan, units=tuple(unit for unit in plan.units if unit.key in keys))

"""Which units of a plan a run folder has done: those whose newest record is ok and agrees with its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.execute.products import placed
from harness.runs.folder import agrees
from harness.runs.index import Index
from harness.runs.plan import Plan, Unit
from harness.runs.records import RecordFile


def digests(
    plan: Plan, records: RecordFile, index: Index, scratch: Path, *, verify: bool = False, place: bool = False
) -> dict[str, str]:
    """The clip digest of every unit whose record is ok and whose own file is there as recorded; empty without a clip.

    `verify` compares the digest of every clip's file, not its length alone. `place` gives the products of measurements
    in `scratch` their names in the run folder; else nothing is written.
    """
    folder = records.path.parent
    standing: dict[str, str] = {}
    for unit in plan.units:
        entry = index.get(unit.key)
        if entry is None or entry.status != "ok":
            continue
        if unit.kind == "generate":
            stands = agrees(folder, entry.clip, verify)
        else:
            stands = unit.kind == "score" or placed(records.at(entry.offset), scratch, folder, look_only=not place)
        if stands:
            standing[unit.key] = str(entry.clip.get("digest", ""))
    return standing


def done(unit: Unit, digest_by_key: Mapping[str, str]) -> bool:
    """Whether a unit is among `digests`, a score only while it is of the present clip."""
    digest = digest_by_key.get(unit.key)
    if digest is None or unit.kind != "score":
        return digest is not None
    return digest == digest_by_key.get(str(unit.preimage["generate"]))

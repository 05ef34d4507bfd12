"""Which units of a plan a run folder has done: those whose newest record is ok and agrees with its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.execute.products import placed
from harness.runs.code import CODE
from harness.runs.folder import agrees
from harness.runs.index import Index
from harness.runs.plan import Plan, Unit, scored_clips
from harness.runs.records import RecordFile

SHOWN_KEYS = 5


def digests(
    plan: Plan, records: RecordFile, index: Index, scratch: Path, *, verify: bool = False, place: bool = False
) -> dict[str, str]:
    """Of every unit whose record is ok and whose own file is there as recorded, the `seen` clips.

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
            standing[unit.key] = seen(entry.clip)
    return standing


def seen(clip: Mapping[str, Any]) -> str:
    """The digests in the `clip` of a record: of the clip, and of the one it was held against; empty without a clip."""
    return " ".join(str(clip[name]) for name in ("digest", "reference") if name in clip)


def other_texts(plan: Plan, index: Index, digest_by_key: Mapping[str, str]) -> list[str]:
    """A sentence for each file of code that has another text today than the records of units that are done.

    Its version is the same, as that is part of the key.
    """
    keys_by_file: dict[str, list[str]] = defaultdict(list)
    for unit in plan.units:
        texts: Any = unit.context.get(CODE)
        if texts and done(unit, digest_by_key):
            recorded = index[unit.key].context.get(CODE, {})
            for file in texts:
                if recorded.get(file, texts[file]) != texts[file]:
                    keys_by_file[file].append(unit.key[:12])
    return [
        f"{file} has another text today, under the same version, than {len(keys):,} results were made with: "
        f"{', '.join(keys[:SHOWN_KEYS])}{', …' if len(keys) > SHOWN_KEYS else ''}; raise its version to make them anew "
        "or name it in `files` where a program runs it"
        for file, keys in keys_by_file.items()
    ]


def done(unit: Unit, digest_by_key: Mapping[str, str]) -> bool:
    """Whether a unit is among `digests`, a score only while it is of the present clips."""
    digest = digest_by_key.get(unit.key)
    if digest is None or unit.kind != "score":
        return digest is not None
    clips = [digest_by_key.get(key) for key in scored_clips(unit)]
    return digest == " ".join(clip for clip in clips if clip is not None) and None not in clips

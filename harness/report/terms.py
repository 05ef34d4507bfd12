"""The facts that two results must share before one is ranked above the other: one rule for tables and comparisons."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import numpy as np

from harness.contracts import Json
from harness.errors import RecordError
from harness.report.view import AnySection, Place, View
from harness.runs.plan import Group
from harness.suite.schema import GenerateSection, Suite
from harness.suite.scripts import scripts_of, words
from harness.system.digests import canonical, digest

Terms = Mapping[str, Json]
"""A fact by its name in words."""

DEVICE, SCHEMA, VERSION, CLIPS = "device", "record schema", "version", "prompts"
SHORT = 48
"""Letters of a fact that is quoted; a longer one is told apart by a letter."""


def terms(view: View, section: AnySection, group: Group) -> Terms:
    """The facts behind the values of a group that has results."""
    preimage, arm = view.preimage(section, group), view.arms.get(group.arm)
    facts: dict[str, Json] = {
        DEVICE: list(view.devices(section, group)),
        SCHEMA: sorted(view.samples(section, group).schemas),
    }
    if arm is not None:
        facts |= {"frame size": [arm.card.height, arm.card.width], "frame rate": arm.card.frame_rate}
    if not isinstance(section, GenerateSection):
        return {**facts, **_plugin("probe", preimage["probe"]), **preimage["workload"]}
    if against := view.held_against(section, group.plugin):
        # By identity, as two runs may have other models of one label.
        facts["held against"] = [against, digest(canonical(view.arms[against].identity))[:12]]
    if section.name not in view.clips:
        view.clips[section.name] = _clips(view, section)
    return {
        **facts,
        **_plugin("metric", preimage["metric"]),
        CLIPS: view.clips[section.name],
        "frames": section.frames,
        "switches": [switch.frame or words(switch) for switch in section.switches],
        "video": view.run.suite.video.model_dump(mode="json"),
    }


def _clips(view: View, section: GenerateSection) -> Mapping[str, Json]:
    """How many clips count, and the digest of what tells them apart."""
    clips = clips_of(view.run.suite, section)
    if (chosen := view.common.get(section.name)) is not None:
        clips = [clips[place] for place in chosen]
    return {"clips": len(clips), "digest": digest(canonical(sorted(map(list, clips), key=canonical)))}


def _plugin(kind: str, identity: Mapping[str, Json]) -> dict[str, Json]:
    """A metric or probe of a pre-image, each option by its name."""
    options = identity.get("options")
    assert isinstance(options, Mapping)
    return {
        kind: identity["name"],
        VERSION: identity["version"],
        **{f"option {name}": value for name, value in options.items()},
        f"what the {kind} depends on": identity.get("identity"),
    }


def clips_of(suite: Suite, section: GenerateSection) -> list[tuple[Json, ...]]:
    """What tells each planned clip of a section from the others, in the order planned: its prompts, and its seed.

    Its identity stands before the seed where that is another text than its prompt.
    """
    scripts = scripts_of(suite, section)
    about = [(s.text, *s.later, *((s.identity,) if s.identity != s.text else ())) for s in scripts]
    return [(*texts, seed) for texts in about for seed in section.seeds]


def share_clips(views: Sequence[View]) -> list[str]:
    """Leave in each section that several of `views` have only the clips that all of them plan; a sentence for each.

    Raises `RecordError` where they share none.
    """
    sentences = []
    for name in dict.fromkeys(section.name for view in views for section in view.run.suite.generate):
        planned = []
        for view in views:
            section = view.section(name)
            if isinstance(section, GenerateSection):
                planned.append((view, clips_of(view.run.suite, section)))
        shared = set.intersection(*(set(clips) for _, clips in planned))
        if not shared:
            raise RecordError(f"section {name!r}: the runs share no prompt and seed", "leave --common out")
        if all(len(clips) == len(shared) for _, clips in planned):
            continue
        for view, clips in planned:
            view.common[name] = np.flatnonzero([clip in shared for clip in clips])
        counts = ", ".join(f"{len(clips)} in {view.run.folder.name}" for view, clips in planned)
        kept = "the one clip" if len(shared) == 1 else f"the {len(shared)} clips"
        sentences.append(f"{name}: over {kept} that all runs plan ({counts}).")
    return sentences


def differences(rows: Sequence[tuple[str, Terms]], without: Collection[str] = ()) -> str:
    """The facts in which rows (label, terms) differ, with the rows of each, in words; empty where in none."""
    parts = []
    for name in dict.fromkeys(name for _, facts in rows for name in facts if name not in without):
        labels: dict[str, list[str]] = {}
        values: dict[str, Json] = {}
        for label, facts in rows:
            text = json.dumps(facts.get(name), sort_keys=True)
            labels.setdefault(text, []).append(label)
            values[text] = facts.get(name)
        if len(labels) > 1:
            words = [_word(name, value) for value in values.values()]
            kinds = [
                f"{word or 'kind'} {place}" if not word or words.count(word) > 1 else word
                for place, word in enumerate(words, 1)
            ]
            sides = (f"{kind}: {', '.join(each)}" for kind, each in zip(kinds, labels.values(), strict=True))
            parts.append(f"{name} ({'; '.join(sides)})")
    return ", ".join(parts)


def _word(name: str, value: Json) -> str:
    if name == CLIPS and isinstance(value, Mapping):
        return f"{value['clips']} clips"
    if name == CLIPS and isinstance(value, Sequence):
        return f"{len(value)} prompts"
    if name == "frame size" and isinstance(value, Sequence):
        return " x ".join(map(str, value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = " and ".join(map(str, value)) or "none"
    else:
        text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHORT else ""


# ------------------------------------------------------------------------------- one after the other


def timed_apart(spans: Mapping[Place, tuple[datetime, datetime] | None]) -> set[Place]:
    """Those of some measurements of several rounds that were not timed in turns with the others (rule T12).

    Measurements whose times overlap were taken in turns, A B B A. Of several such sets the largest stands, and of equal
    ones the first.

    Args:
        spans: first start and last end of each; None where it has one round, or does not say.
    """
    known = sorted((span, place) for place, span in spans.items() if span is not None)
    sets: list[set[Place]] = []
    last: datetime | None = None
    for (start, end), place in known:
        if last is None or start >= last:
            sets.append(set())
        sets[-1].add(place)
        last = end if last is None else max(last, end)
    main = max(sets, key=len, default=set())
    return {place for each in sets if each is not main for place in each}

"""Say below a table what its clips from elsewhere are: of which sizes, lengths and rates, which are copies, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from harness.runs.records import Run


def remarks(run: Run, sections: Collection[str]) -> Iterator[tuple[str, str]]:
    """Label of each arm whose clips exist and differ, or are not all as they were, and the sentence that says how."""
    for group in run.groups:
        if group.kind != "generate" or group.section not in sections:
            continue
        first = next((entry for key in group.keys if (entry := run.index.get(key)) and entry.status == "ok"), None)
        if first is None or "source" not in first.clip:
            continue
        entries = (run.index.get(key) for key in group.keys)
        parts = _parts([entry.clip for entry in entries if entry is not None and entry.status == "ok"])
        if parts:
            yield group.arm, f"{group.section}, {group.arm}: clips {'; '.join(parts)}."


def _parts(clips: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of `clips`; nothing where they are alike and as they were."""
    sizes = Counter(f"{clip['height']}x{clip['width']}" for clip in clips)
    lengths = Counter(f"{clip['frames']}" for clip in clips)
    rates = Counter(f"{clip['frame_rate']:g}" for clip in clips)
    reasons = Counter(reason for clip in clips for reason in clip["encoder"].get("because", ()))
    notes = Counter(note for clip in clips for note in clip["source"]["notes"])
    copies = sum("copied" in clip["encoder"] for clip in clips)
    parts = [
        f"of {len(kinds)} {what} ({_listed(kinds)})"
        for what, kinds in (("sizes", sizes), ("lengths in frames", lengths), ("frame rates", rates))
        if len(kinds) > 1
    ]
    if copies:
        parts.append(f"{copies} of {len(clips)} scored as copies without loss ({_listed(reasons)})")
    return parts + [f"{count} of {len(clips)} {note}" for note, count in notes.most_common()]


def _listed(kinds: Counter[str], most: int = 4) -> str:
    text = ", ".join(name for name, _ in kinds.most_common(most))
    return text + (", …" if len(kinds) > most else "")

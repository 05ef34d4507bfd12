"""Link the clips of a run under names made of their prompts, as VBench expects them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ClipError, RecordError, StorageError
from harness.runs.folder import agrees, inside
from harness.runs.records import Run
from harness.suite.scripts import scripts_of
from harness.system import files
from harness.system.digests import digest
from harness.system.text import inert, without_quote

MAX_NAME = 240
"""Bytes of a prompt in a file name. File systems allow 255 for the whole name, which also has `-<i>.mp4`; the longest
prompt of VBench has 210."""

_UNSAFE = re.compile(r"[^\w \-,.'()!&+=@#$;\[\]]")


def safe_name(prompt: str) -> str:
    """A file name for `prompt`: the prompt itself where it is harmless, else its harmless characters and a digest.

    VBench finds a clip by its prompt in the file name, so a plain prompt stays as it is. Never empty, never with a
    separator, a control character or a leading dot or dash, at most `MAX_NAME` bytes.
    """
    replaced = _UNSAFE.sub("_", prompt)
    harmless = replaced.strip().lstrip(".-")
    if harmless == prompt and harmless and len(harmless.encode()) <= MAX_NAME:
        return prompt
    tag = digest(prompt)[:12]
    stem = harmless.encode()[: MAX_NAME - 13].decode(errors="ignore").rstrip()
    return f"{stem}~{tag}" if stem else tag


def by_prompt(run: Run, labels: Iterable[str] = (), sections: Iterable[str] = ()) -> tuple[Path, int]:
    """Make RUN/by-prompt/<arm>/<section>/<prompt>-<i>.mp4, hard links to the clips, and `index.csv` that names each.

    A clip has the name of what it is known by, its prompt unless the prompt set says otherwise. i counts the seeds of a
    prompt from 0, as VBench counts samples, and goes on for a script that begins alike. `labels` and `sections` narrow
    the choice to those arms and sections. The index has arm, section, prompt, seed, index and file of every clip; the
    folder of each arm and section has one of its own, which the model `folder` takes as it is (`index: index.csv`).
    Returns the folder and the number of clips. Raises `RecordError` where there is none to show, `ClipError` where a
    clip does not agree with its record.
    """
    wanted_arms, wanted_sections = set(labels), set(sections)
    view = run.folder / "by-prompt"
    rows: list[dict[str, Any]] = []
    for group in run.groups:
        if group.kind != "generate" or (wanted_arms and group.arm not in wanted_arms):
            continue
        if wanted_sections and group.section not in wanted_sections:
            continue
        section = next(section for section in run.suite.generate if section.name == group.section)
        seeds = len(section.seeds)
        identities = [script.identity for script in scripts_of(run.suite, section)]
        for place, key in enumerate(group.keys):
            entry = run.index.get(key)
            if entry is None or entry.status != "ok":
                continue
            number, seed_number = divmod(place, seeds)
            prompt = identities[number]
            # By its place, so that a sample keeps its number when the run is completed later.
            index = identities[:number].count(prompt) * seeds + seed_number
            if not agrees(run.folder, entry.clip):
                raise ClipError(f"clip {entry.clip.get('path')} does not agree with its record", "run the suite again")
            name = f"{safe_name(group.arm)}/{safe_name(group.section)}/{safe_name(prompt)}-{index}.mp4"
            _link(inside(run.folder, str(entry.clip["path"])), view / name)
            rows.append(
                {
                    "arm": inert(group.arm),
                    "section": group.section,
                    "prompt": inert(prompt),
                    "seed": entry.context["seed"],
                    "index": index,
                    "file": inert(name),
                }
            )
    if not rows:
        raise RecordError(f"{run.folder} has no clips to show")
    _write_index(view, rows)
    rows_by_folder: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        folder, _, name = without_quote(row["file"]).rpartition("/")
        rows_by_folder.setdefault(folder, []).append({**row, "file": inert(name)})
    for folder, rows_of_folder in rows_by_folder.items():
        _write_index(view / folder, rows_of_folder)
    return view, len(rows)


def _write_index(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_atomic(folder / "index.csv", text.getvalue())


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            # Some file systems know no hard links.
            target.symlink_to(os.path.relpath(source, target.parent))
    except OSError as error:
        raise StorageError(f"{target} cannot be made: {error.strerror}") from error

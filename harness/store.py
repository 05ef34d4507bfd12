"""The run folder: where plan, records and clips lie, one run at a time, and a view of the clips by prompt.

    RUN/plan.json  RUN/records.jsonl  RUN/clips/ab/<key>.mp4  RUN/by-prompt/<prompt>-<i>.mp4  RUN/by-prompt/index.csv

Names come from keys, never from prompts; only the view on request has names made of prompts, and those are made safe.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import durable, video
from harness.errors import ClipError, HarnessError, RecordError, StorageError
from harness.plan import Plan, to_json
from harness.records import RecordFile, Run

MAX_NAME = 180
"""Bytes of a prompt in a file name; file systems allow 255 for the whole name."""


class Store:
    """A run folder, open for one run. Raises `RecordError` when another run has it open, or it is a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = RecordFile(folder / "records.jsonl")
        if folder.exists() and not folder.is_dir():
            raise RecordError(f"{folder} is a file, so no run can be kept there", "name a folder with --out DIR")
        with durable.storage(folder):
            durable.make_folder(folder)
        self._lock = self._take_lock()

    def _take_lock(self) -> int:
        path = self.folder / ".lock"
        with durable.storage(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise RecordError(
                f"another run is working in {self.folder}", "wait for it to end, or give this one --out DIR"
            ) from error
        return handle

    def close(self) -> None:
        """Close the records and let another run in."""
        self.records.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_plan(self, plan: Plan) -> None:
        """Keep `plan` as what this folder is about; the records of an earlier one stay."""
        members = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in to_json(plan).items())
        content = ("{\n" + ",\n".join(members) + "\n}\n").encode()
        path = self.folder / "plan.json"
        if not (path.is_file() and path.read_bytes() == content):
            durable.write_bytes(path, content)

    def clip_path(self, key: str) -> Path:
        """Where the clip of the generate unit `key` lies."""
        return self.folder / clip_name(key)

    def agrees(self, clip: Mapping[str, Any], verify: bool = False) -> bool:
        """Whether the file that a record's `clip` names is there and as recorded."""
        return agrees(self.folder, clip, verify)

    def sweep(self) -> None:
        """Delete the parts of files that a crash left behind."""
        for part in (self.folder / "clips").glob(f"*/.*{durable.TEMPORARY}"):
            part.unlink(missing_ok=True)
        for part in self.folder.glob(f".*{durable.TEMPORARY}"):
            part.unlink(missing_ok=True)


def clip_name(key: str) -> str:
    """Path of a clip inside the run folder."""
    return f"clips/{key[:2]}/{key}.mp4"


def agrees(folder: Path, clip: Mapping[str, Any], verify: bool = False) -> bool:
    """Whether the file that a record's `clip` names is in `folder` and as recorded.

    The number of bytes is always compared. `verify` also compares the SHA-256 of the file, which finds a change that
    keeps its length; times of modification are never looked at, as copying changes them.
    """
    try:
        path = inside(folder, clip["path"])
        if path.stat().st_size != clip["bytes"]:
            return False
        return not verify or video.file_digest(path) == clip["sha256"]
    except (OSError, KeyError, HarnessError):
        return False


def inside(folder: Path, name: str) -> Path:
    """`folder / name`; raises `RecordError` for a name that leads out of the folder."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RecordError(f"a record of {folder} names the file {name!r} outside of it")
    return path


# -------------------------------------------------------------------------------------- view by prompt

_UNSAFE = re.compile(r"[^\w \-,.'()!&+=@#$;\[\]]")


def safe_name(prompt: str) -> str:
    """A file name for `prompt`: the prompt itself where it is harmless, else what is harmless of it and a digest.

    VBench finds a clip by its prompt in the file name, so a plain prompt stays as it is. Never empty, never with a
    separator, a control character or a leading dot or dash, at most `MAX_NAME` bytes.
    """
    plain = _UNSAFE.sub("_", prompt)
    kept = plain.strip().lstrip(".-")
    if kept == prompt and kept and len(kept.encode()) <= MAX_NAME:
        return prompt
    tag = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    stem = kept.encode()[: MAX_NAME - 13].decode(errors="ignore").rstrip()
    return f"{stem}~{tag}" if stem else tag


def by_prompt(run: Run, labels: Iterable[str] = (), sections: Iterable[str] = ()) -> tuple[Path, int]:
    """Make RUN/by-prompt/<arm>/<section>/<prompt>-<i>.mp4, hard links to the clips, and `index.csv` that names each.

    i counts the seeds of a prompt from 0, as VBench counts samples. `labels` and `sections` narrow the choice to those
    arms and sections. The index gives arm, section, prompt, seed, index and file, so that any name can be traced back.
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
        seen: dict[str, int] = {}
        for key in group.keys:
            head = run.heads.get(key)
            if head is None:
                continue
            prompt = str(head.context["prompt"])
            index = seen.setdefault(prompt, -1) + 1
            seen[prompt] = index
            if head.status != "ok":
                continue
            if not agrees(run.folder, head.clip):
                raise ClipError(f"clip {head.clip.get('path')} does not agree with its record", "run the suite again")
            name = f"{safe_name(group.arm)}/{safe_name(group.section)}/{safe_name(prompt)}-{index}.mp4"
            _link(inside(run.folder, str(head.clip["path"])), view / name)
            rows.append(
                {
                    "arm": group.arm,
                    "section": group.section,
                    "prompt": prompt,
                    "seed": head.context["seed"],
                    "index": index,
                    "file": name,
                }
            )
    if not rows:
        raise RecordError(f"{run.folder} has no clips to show")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    durable.write_bytes(view / "index.csv", text.getvalue().encode())
    return view, len(rows)


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            target.symlink_to(os.path.relpath(source, target.parent))
    except OSError as error:
        raise StorageError(f"{target} cannot be made: {error.strerror}") from error

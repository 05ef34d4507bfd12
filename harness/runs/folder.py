"""The run folder: paths of plan, records and clips, and a lock that lets one run in at a time.

    RUN/plan.json  RUN/records.jsonl  RUN/printed.log  RUN/clips/ab/<key>.mp4
    RUN/by-prompt/<prompt>-<i>.mp4  RUN/by-prompt/index.csv

File names come from keys. Only the view by prompt has names made of prompts, and those are made safe.
"""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.errors import HarnessError, RecordError
from harness.runs.plan import PLAN_SCHEMA, Plan, to_json
from harness.runs.records import PLAN, RECORDS, RecordFile
from harness.system import files
from harness.system.digests import file_sha256


class Store:
    """A run folder, open for one run. Raises `RecordError` when another run has it open, or it is a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = RecordFile(folder / RECORDS)
        if folder.exists() and not folder.is_dir():
            raise RecordError(f"{folder} is a file, so no run can be kept there", "name a folder with --out DIR")
        with files.storage(folder):
            files.make_folder(folder)
        self._lock = self._take_lock()

    def _take_lock(self) -> int:
        path = self.folder / ".lock"
        with files.storage(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # The system gives this lock back when the process dies, so no run is locked out by a crash.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise RecordError(
                f"another run is working in {self.folder}", "wait for it to end, or give this one --out DIR"
            ) from error
        # A process that a plug-in forks would keep the lock for as long as it lives.
        os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))
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

    def write_plan(self, plan: Plan, replace: bool = False) -> str:
        """Write `plan` as this folder's plan. Records of an earlier one stay.

        Returns a sentence on the units of the earlier plan that are no longer planned; empty where there are none.
        Raises `RecordError` where there are records of the earlier plan, none of whose units is in this one, unless
        `replace` says that it may go.
        """
        # A line each, so that a diff of two plans names the member that differs.
        members = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in to_json(plan).items())
        content = ("{\n" + ",\n".join(members) + "\n}\n").encode()
        path = self.folder / PLAN
        if path.is_file() and files.read_regular(path) == content:
            return ""
        refuse_newer(path)
        earlier = _planned_keys(path)
        gone = earlier - {key for group in plan.groups for key in group.keys}
        if gone == earlier and not replace and gone & self.records.newest().keys():
            raise RecordError(
                f"{self.folder} holds the plan and records of another suite or of other options: none of its "
                f"{len(earlier):,} units is in this one",
                "give this run --out DIR, or put its plan in place of the other with --replace-plan; records stay",
            )
        files.write_atomic(path, content)
        return f"{len(gone):,} of {len(earlier):,} units of the plan before are no longer planned" if gone else ""

    def clip_path(self, key: str) -> Path:
        """The path of the generate unit `key`'s clip."""
        return self.folder / clip_name(key)

    def agrees(self, clip: Mapping[str, Any], verify: bool = False) -> bool:
        """Whether the file that a record's `clip` names is there and as recorded."""
        return agrees(self.folder, clip, verify)

    def sweep(self) -> None:
        """Delete the parts of files that a crash left behind."""
        for pattern in (f"clips/*/.*{files.TEMPORARY}", f".*{files.TEMPORARY}"):
            for part in self.folder.glob(pattern):
                with suppress(OSError):
                    part.unlink()


def refuse_newer(path: Path) -> None:
    """Raise `RecordError` for a plan file that a later version of the harness wrote."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if (schema := from_json(files.read_regular(path))["schema"]) > PLAN_SCHEMA:
            raise RecordError(
                f"{path}: plan schema {schema} is newer than this harness writes ({PLAN_SCHEMA})",
                "give another --out, or pip install --upgrade videomla-bench",
            )


def _let_go(store: weakref.ref[Store]) -> None:
    if (kept := store()) is not None and kept._lock >= 0:
        os.close(kept._lock)
        kept._lock = -1


def _planned_keys(path: Path) -> set[str]:
    """The keys in a plan file; none where it is missing or damaged."""
    try:
        return {str(key) for group in from_json(files.read_regular(path))["groups"] for key in group["keys"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def clip_name(key: str) -> str:
    """Path of a clip inside the run folder."""
    return f"clips/{key[:2]}/{key}.mp4"


def agrees(folder: Path, clip: Mapping[str, Any], verify: bool = False) -> bool:
    """Whether the file that a record's `clip` names is in `folder` and as recorded.

    The number of bytes is always compared. `verify` also compares the SHA-256, which finds a change that keeps the
    length. Times of modification do not count, as copying changes them.
    """
    try:
        path = inside(folder, clip["path"])
        if path.stat().st_size != clip["bytes"]:
            return False
        return not verify or file_sha256(path) == clip["sha256"]
    except (OSError, KeyError, HarnessError):
        return False


def inside(folder: Path, name: str) -> Path:
    """`folder / name`; raises `RecordError` for a name that leads out of the folder."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RecordError(f"a record of {folder} names the file {name!r} outside of it")
    return path

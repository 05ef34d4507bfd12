"""Write tables and plots of a run beside its records: `RUN/tables/NAME.md`, `.csv`, `.tex`, `.html`, `.svg`, `.png`.

They are made from the records alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import RecordError
from harness.report.plots.style import FORMATS
from harness.report.render import RENDERERS
from harness.report.table import Table
from harness.report.tables import build
from harness.runs.records import PLAN, SHARDS, Run, load_run
from harness.system.files import below, make_folder, storage, write_atomic

FOLDER = "tables"


def contents(tables: Sequence[Table], formats: Iterable[str] = tuple(RENDERERS)) -> dict[str, bytes]:
    """File names and their bytes for `tables` in `formats`."""
    files = {}
    for table in tables:
        for name in formats:
            suffix, draw = RENDERERS[name]
            files[f"{table.name}{suffix}"] = draw(table).encode()
    return files


def drawings(runs: Sequence[Run]) -> dict[str, bytes]:
    """File names and bytes of the pictures of `runs`; of several runs each starts with its folder's name."""
    if not any(run.suite.plots or run.suite.drift for run in runs):
        return {}
    from harness.report.plots.kinds import pictures

    prefixes = [f"{run.folder.name}-" if len(runs) > 1 else "" for run in runs]
    return {
        prefix + name: content
        for prefix, run in zip(prefixes, runs, strict=True)
        for name, content in pictures(run).items()
    }


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write `files` into `folder`, those that would change alone. Returns all their paths."""
    with storage(folder):
        make_folder(folder)
    for name, content in files.items():
        path = folder / name
        if not (path.is_file() and path.read_bytes() == content):
            write_atomic(path, content)
    return [folder / name for name in files]


def renew(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write `files` as `write` does, and remove the tables and pictures that an earlier plan left in `folder`."""
    paths = write(folder, files)
    for path in left_over(folder, files):
        with storage(path):
            path.unlink(missing_ok=True)
    return paths


def left_over(folder: Path, files: Iterable[str]) -> list[Path]:
    """The files of tables and pictures in `folder` that are not among the names `files`.

    Only what is there in every format counts as a table or a picture: a note that somebody put beside them is none.
    """
    names = set(files)
    there = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    leftovers = []
    for suffixes in ([suffix for suffix, _ in RENDERERS.values()], FORMATS):
        for stem in sorted(name.removesuffix(suffixes[0]) for name in there if name.endswith(suffixes[0])):
            of_stem = [f"{stem}{suffix}" for suffix in suffixes]
            if there.issuperset(of_stem) and not names & set(of_stem):
                leftovers += [folder / name for name in of_stem]
    return leftovers


def run_folders(root: Path) -> list[Path]:
    """Every run folder in `root` or below it but the shards of another, sorted. Raises `RecordError` without any."""
    every = {path.parent for path in below(root) if path.name == PLAN and path.is_file()}
    folders = sorted(path for path in every if path.parent.name != SHARDS or path.parent.parent not in every)
    if not folders:
        raise RecordError(f"{root}: no run folder here or below (a run folder holds plan.json)")
    return folders


def remake(folder: Path) -> dict[Path, bytes]:
    """What the table files of the run in `folder` must hold, by path."""
    run = load_run(folder, rehearsal=True)
    files = contents(build([run])) | drawings([run])
    return {folder / FOLDER / name: content for name, content in files.items()}


def stale(files: dict[Path, bytes]) -> list[Path]:
    """Those of `files` that are missing or differ on the disk, and those beside them that no longer belong there."""
    differing = [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
    names = [path.name for path in files]
    return differing + [path for folder in {path.parent: None for path in files} for path in left_over(folder, names)]

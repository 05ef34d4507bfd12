"""`harness merge`: unite the records and clips of runs of one plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The run folder to bring them to; it need not exist.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders of one plan; OUT/shards unless given.")
    ] = None,
    keep_first: Annotated[
        bool, typer.Option("--keep-first", help="Of two different results of a unit keep the first; else refuse them.")
    ] = False,
) -> Iterator[str]:
    """Bring OUT every record and clip of the runs that it lacks."""
    from harness.execute import merging
    from harness.runs.records import load_run

    folders = runs or merging.shards_of(out)
    merged = merging.merge(out, folders, keep_first)
    yield f"{merged.records:,} records and {merged.clips:,} clips brought from {len(folders)} runs to {out}"
    if len(merged.devices) > 1:
        yield "records by device: " + ", ".join(f"{label}: {count:,}" for label, count in merged.devices.items())
    run = load_run(out)
    planned = {key for group in run.groups for key in group.keys}
    status = [entry.status for key in planned if (entry := run.index.get(key)) is not None]
    yield f"{len(planned):,} units: {status.count('ok'):,} done, {len(planned) - len(status):,} to do" + "".join(
        f", {status.count(word):,} {word}" for word in ("failed", "skipped") if word in status
    )
    for key, path in merged.left_out:
        yield f"left out: {key[:12]}: {path} is not the clip of its record; run again to make it"
    if merged.left_out:
        raise typer.Exit(1)

"""`harness by-prompt`: the clips of a run under the file names that VBench expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def by_prompt(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    arm: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    section: Annotated[list[str] | None, typer.Option(help="Only this section; may be repeated.")] = None,
) -> Iterator[str]:
    """Make RUN/by-prompt with the clips under VBench's file names."""
    from harness.runs import by_prompt as view
    from harness.runs.records import load_run

    folder, count = view.by_prompt(load_run(run), arm or (), section or ())
    yield f"{count:,} clips: {folder}"

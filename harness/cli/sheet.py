"""`harness sheet`: frames of clips side by side as a picture for a paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.arguments import path_named


def sheet(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="WHICH", help="Numbers from 0 (0,3 or 2-5) or words of a prompt; may be repeated."),
    ] = None,
    frames: Annotated[
        str, typer.Option(metavar="N,N,...", help="Frames from 0, or from the end if negative; six unless given.")
    ] = "",
    model: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Only this; may be repeated.")] = None,
    section: Annotated[str, typer.Option(help="Of the suite's `generate`; the first unless given.")] = "",
    seed: Annotated[int | None, typer.Option(help="The section's first unless given.")] = None,
    width: Annotated[int, typer.Option(min=16, max=2000, help="Pixels of a picture, at most.")] = 200,
    out: Annotated[Path, typer.Option(parser=path_named, metavar="FILE", help="The PNG to write.")] = Path("sheet.png"),
) -> Iterator[str]:
    """Write frames of clips side by side as one PNG."""
    from harness.errors import HarnessError
    from harness.report.page.sheet import Choice, sheet
    from harness.runs.records import load_run
    from harness.system.files import write_atomic

    try:
        numbers = [int(number) for number in frames.split(",") if number.strip()]
    except ValueError:
        raise HarnessError(f"--frames {frames}: expected numbers such as 0,40,-1") from None
    drawn = sheet(load_run(run), Choice(prompts or (), numbers, model or (), section, seed, width))
    write_atomic(out, drawn)
    yield f"sheet: {out}"

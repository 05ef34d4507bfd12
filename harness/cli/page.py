"""`harness page`: a folder to look at runs in a browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.arguments import Plugins, load_plugins, path_named


def page(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(parser=path_named, metavar="DIR", help="Where to make it; `page` in the first run unless given."),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then serve it to this machine alone, until stopped.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve; 0 takes a free one.")] = 0,
    attributes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or JSONL with a column `prompt`; its others are filtered by."),
    ] = None,
    plugin: Plugins = None,
) -> Iterator[str]:
    """Make a page of tables, plots and clips for a browser."""
    from harness.report.page.folder import write
    from harness.runs.records import load_run
    from harness.suite.attributes import read_attributes

    load_plugins(plugin)
    folder = out or runs[0] / "page"
    said = read_attributes(attributes) if attributes else {}
    made = write([load_run(run) for run in runs], folder, said)
    empty = f", {made.missing:,} places without one" if made.missing else ""
    yield f"page: {made.index} ({made.clips:,} clips{empty})"
    if serve:
        from harness.report.page.serve import serving

        with serving(folder, port) as server:
            yield f"serving: http://127.0.0.1:{server.server_port}/ (Ctrl+C ends it)"
            sys.stdout.flush()
            server.serve_forever()

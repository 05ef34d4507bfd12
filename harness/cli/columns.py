"""Tables of texts on standard output: as wide as the terminal, or a line a row where nobody looks."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence

from harness.errors import shown


def columns(rows: Sequence[Sequence[str]], headings: Sequence[str] = (), width: int | None = None) -> str:
    """`rows` under `headings`, in columns that fit a terminal of `width` characters, the first never broken.

    Without a width it is the terminal's, and where output goes to a file or another program nothing is broken.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if width is None:
        seen = sys.stdout.isatty() or "COLUMNS" in os.environ
        width = shutil.get_terminal_size().columns if seen else 100_000
    table = Table(box=box.SIMPLE_HEAD, show_header=bool(headings), show_edge=False, pad_edge=False)
    for index in range(max((len(row) for row in rows), default=0)):
        heading = headings[index] if index < len(headings) else ""
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell, 2000)) for cell in row))
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())

"""Write the folder of a page: `index.html`, which holds script, style and data, and beside it clips, plots and tables.

The page opens from a disk as from any host. Its policy lets in no script but its own, by digest, and nothing from
elsewhere; all texts are escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.errors import RecordError
from harness.report.files import contents
from harness.report.page import summary
from harness.report.page.gallery import gallery
from harness.report.page.media import Media
from harness.report.render import ARROWS
from harness.report.table import NOTES
from harness.report.view import View
from harness.runs.records import Run
from harness.suite.attributes import Attributes
from harness.system import files
from harness.system.digests import digest

INDEX = "index.html"
MARKER = b'<meta name="generator" content="videomla-bench page">'
"""By which an earlier page is told from a folder of something else."""
MOST_ROWS = 500
"""Rows of a table that are drawn; the file beside the page has all."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was made: its file, how many clips it shows, and how many places are marked as empty."""

    index: Path
    clips: int
    missing: int


def write(runs: Sequence[Run], folder: Path, attributes: Attributes | None = None) -> Page:
    """Make the page of `runs` in `folder`, or make it anew where there is one.

    `attributes` are those of the prompts, to filter by. Raises `RecordError` where the folder holds something else,
    `StorageError` where it cannot be written.
    """
    _refuse_other(folder)
    views = [View(run) for run in runs]
    media = Media(folder)
    data = gallery(views, media, attributes or {})
    tables = summary.built(runs)
    plots = [
        shown
        for number, run in enumerate(runs)
        for shown in summary.figures(run, f"{number}-" if len(runs) > 1 else "")
    ]
    beside = {plot.content.file: plot.content.drawn for plot in plots if plot.content}
    beside |= {f"tables/{name}": content for name, content in contents(tables.content or [], ["csv"]).items()}
    for name, content in beside.items():
        files.write_atomic(folder / name, content)
    page = _render(views, data, tables, plots)
    files.write_atomic(folder / INDEX, page)
    media.sweep()
    cells = [cell for section in data["sections"] for row in section["rows"] for cell in row["cells"].values()]
    return Page(folder / INDEX, sum("file" in cell for cell in cells), sum("file" not in cell for cell in cells))


def _refuse_other(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file", "name a folder with --out DIR")
    if folder.is_dir() and any(folder.iterdir()):
        index = folder / INDEX
        if not index.is_file() or MARKER not in index.read_bytes()[:2000]:
            raise RecordError(f"{folder} holds something else than a page", "name an empty folder with --out DIR")


def _render(
    views: Sequence[View], data: Mapping[str, Any], tables: summary.Shown, plots: Sequence[summary.Shown]
) -> str:
    from jinja2 import Environment, StrictUndefined

    here = resources(__package__)
    script, style = ((here / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    runs = [view.run for view in views]
    titles = dict.fromkeys(run.suite.title or run.suite.suite for run in runs)
    return template.render(
        arrows=ARROWS,
        data=data,
        digests={"script": _digest(script), "style": _digest(style)},
        marker=Markup(MARKER.decode()),
        marks=NOTES,
        matrices=[(run.folder.resolve().name, summary.matrix(run)) for run in runs],
        most_rows=MOST_ROWS,
        pieces=summary.pieces,
        plots=plots,
        provenance=[summary.provenance(view) for view in views],
        script=Markup(script),
        style=Markup(style),
        tables=tables,
        title=" · ".join(titles),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(bytes.fromhex(digest(text))).decode()}"

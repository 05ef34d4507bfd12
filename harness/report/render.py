"""Render a table as Markdown, CSV, LaTeX or HTML, or for a terminal. Every text is escaped; nothing is computed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from harness.contracts import Json
from harness.report.table import Cell, Heading, Row, Table
from harness.system.text import inert, plain

if TYPE_CHECKING:
    from rich.table import Table as RichTable

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0", "none": ""}


def markdown(table: Table) -> str:
    """GitHub Markdown. Characters that could open a tag, a link, code or a column are escaped."""

    headings = [
        _markdown_escape(heading) for heading in (table.corner, *(column_name(column) for column in table.columns))
    ]
    rows = [_entries(row, _markdown_escape, "**{}**", "*{}*") for row in table.rows]
    body = tabulate(rows, headings, tablefmt="github", disable_numparse=True)
    below = [_LINE_START.sub(r"\1\\\2", _markdown_escape(line)) for line in _below(table)]
    return "\n\n".join([f"### {_markdown_escape(table.title)}", body, *below]) + "\n"


_MARKDOWN = (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"), ("~", "\\~"))
"""What Markdown obeys, and how it is written instead; the backslash first, as it escapes the others."""
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""An underscore that may begin or end an emphasis: not one within a word."""
_LINE_START = re.compile(r"^(\d*)([#>+.)-])")
"""What would make a line a heading, a quotation or an item."""


def _markdown_escape(text: str) -> str:
    text = plain(text)
    for old, new in _MARKDOWN:
        text = text.replace(old, new)
    text = _EMPHASIS.sub(r"\\_", text.replace("](", "]\\("))
    # The one form of a dollar that GitHub never takes for the border of a formula.
    return " ".join(text.replace("$", "<span>$</span>").split())


def comma_separated(table: Table) -> str:
    """CSV: for each column its value, and interval ends, counts, and the reason of a missing value where there are any.

    A missing value is an empty cell. A column of texts, as the verdicts of a comparison, holds those.
    """
    has_published = any(row.published for row in table.rows)
    headings = [table.corner, *(["origin"] if has_published else []), "reference", "notes"]
    parts: list[list[Callable[[Cell], str]]] = []
    for index, column in enumerate(table.columns):
        cells = [row.cells[index] for row in table.rows]
        name = column_name(column, arrow=False)
        headings.append(name)
        readers: list[Callable[[Cell], str]] = [
            lambda cell: inert(plain(cell.text)) if cell.is_text else _number(cell.value)
        ]
        if any(_reason(cell) for cell in cells):
            headings.append(f"{name} reason")
            readers.append(lambda cell: inert(plain(_reason(cell))))
        if any(cell.spread for cell in cells):
            headings += [f"{name} low", f"{name} high"]
            readers += [lambda cell: _number(cell.low), lambda cell: _number(cell.high)]
        if any(cell.rounds is not None for cell in cells):
            headings.append(f"{name} rounds")
            readers.append(lambda cell: _count(cell.rounds))
        if any(cell.planned is not None for cell in cells):
            headings += [f"{name} scored", f"{name} planned"]
            readers += [lambda cell: _count(cell.scored), lambda cell: _count(cell.planned)]
        parts.append(readers)
    notes = dict(table.footnotes())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([inert(plain(heading)) for heading in headings])
    for row in table.rows:
        marks = dict.fromkeys([*row.marks, *(mark for cell in row.cells for mark in cell.marks)])
        note_texts = "; ".join(notes[mark] for mark in marks)
        origin = [inert(row.published) or "measured here"] if has_published else []
        line = [inert(plain(row.label)), *origin, "yes" if row.reference else "", note_texts]
        for cell, readers in zip(row.cells, parts, strict=True):
            line += [read(cell) for read in readers]
        writer.writerow(line)
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _reason(cell: Cell) -> str:
    """Why a cell has no number; empty where it has one, is a text, or stands for nothing."""
    return "" if cell.is_text or cell.value is not None or cell.text == "-" else cell.text


_TEXTS = "\\backslash ~asciitilde ^asciicircum <less >greater |bar †dagger ‡daggerdbl ‖bardbl"
_SYMBOLS = "↑uparrow ↓downarrow →rightarrow ≈approx ∞infty ≠neq ∘circ ◇diamond ·cdot \u00d7times"
_LATEX = {
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
    **{letter: f"{{{letter}}}" for letter in "[]"},
    **{name[0]: rf"\text{name[1:]}{{}}" for name in _TEXTS.split()},
    **{name[0]: rf"$\{name[1:]}$" for name in _SYMBOLS.split()},
}
"""What LaTeX obeys or lacks, and how it is written instead."""


def latex(table: Table) -> str:
    """A LaTeX table for `booktabs`: caption, tabular with a rule above published rows, and the notes below it."""

    def line(row: Row) -> str:
        return " & ".join(_entries(row, _latex_escape, r"\textbf{{{}}}", r"\textit{{{}}}")) + r" \\"

    measured = [row for row in table.rows if not row.published]
    published = [row for row in table.rows if row.published]
    headings = [
        _latex_escape(heading) for heading in (table.corner, *(column_name(column) for column in table.columns))
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_escape(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
        *map(line, measured),
        *([r"\midrule"] if measured and published else []),
        *map(line, published),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_latex_escape(line)}" for line in _below(table)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_escape(text: str) -> str:
    return " ".join("".join(_LATEX.get(letter, letter) for letter in plain(text)).split())


def html(table: Table) -> str:
    """One HTML page with no script and no outside file."""
    from jinja2 import Environment

    page = Path(__file__).with_name("table.html").read_text(encoding="utf-8")
    # Labels come from suites, which are untrusted: autoescape, and a policy in the page that forbids scripts.
    environment = Environment(autoescape=True, keep_trailing_newline=True, finalize=_shown_on_a_page)
    template = environment.from_string(page)
    return template.render(
        table=table,
        heading=column_name,
        label=_label,
        number=_number,
        joined=_joined,
        below=_below(table),
        published=any(row.published for row in table.rows),
    )


def _shown_on_a_page(value: object) -> object:
    """What a template shows: a text without what a page would obey; markup that the template itself made stays."""
    return plain(value) if type(value) is str else value


def terminal(table: Table) -> RichTable:
    """The same table for a terminal, through rich."""
    from rich.markup import escape as markup_escape
    from rich.table import Table as RichTable

    def escape(text: str) -> str:
        return markup_escape("\n".join(map(plain, text.split("\n"))))

    rich_table = RichTable(title=escape(table.title), title_justify="left", caption_justify="left")
    rich_table.add_column(escape(table.corner))
    for column in table.columns:
        rich_table.add_column(escape(column_name(column)), justify="right")
    for row in table.rows:
        cells = []
        for cell in row.cells:
            text = escape(cell.text + "".join(cell.marks))
            lines = [f"[bold green]{text}[/]" if cell.best else text, escape(_joined(cell.spread, cell.count))]
            cells.append("\n".join(line for line in lines if line))
        rich_table.add_row(escape(_label(row)), *cells, style="italic dim" if row.published else "")
    rich_table.caption = escape("\n".join(" ".join(line.split("\n")) for line in _below(table)))
    return rich_table


RENDERERS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "md": (".md", markdown),
    "csv": (".csv", comma_separated),
    "latex": (".tex", latex),
    "html": (".html", html),
}
"""File suffix and renderer by format."""


def column_name(column: Heading, arrow: bool = True) -> str:
    """What stands above a column: its label and unit, and which way is better."""
    unit = f"({column.unit})" if column.unit else ""
    return _joined(column.label, unit, ARROWS[column.direction] if arrow else "")


def _label(row: Row) -> str:
    origin = f"(published: {row.published})" if row.published else ""
    return _joined(row.label + "".join(row.marks), "(reference)" if row.reference else "", origin)


def _entries(row: Row, escape: Callable[[str], str], bold: str, italic: str) -> list[str]:
    """The label and cells of a row: the best in `bold`, published ones in `italic`, which are formats."""
    entries = [(italic if row.published else "{}").format(escape(_label(row)))]
    for cell in row.cells:
        look = bold if cell.best else italic if row.published and cell.text != "-" else "{}"
        text = look.format(escape(cell.text)) + escape("".join(cell.marks))
        entries.append(_joined(text, escape(cell.spread), escape(cell.count)))
    return entries


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _below(table: Table) -> list[str]:
    legend = table.legend()
    lines = [f"{legend[0].upper()}{legend[1:]}."] if legend else []
    return [*lines, *table.remarks, *(f"{mark} {text}." for mark, text in table.footnotes())]


def document(table: Table) -> dict[str, Json]:
    """The table as JSON: columns, and rows with a cell for each column, whose members say what is known of it.

    A cell has `value` and `text`, and where there are any `low`, `high`, `scored`, `planned`, `rounds`, `best` and
    `notes`. `value` is null where there is no number.
    """
    notes = dict(table.footnotes())
    return {
        "name": table.name,
        "title": table.title,
        "corner": table.corner,
        "columns": [{"label": c.label, "unit": c.unit, "direction": c.direction} for c in table.columns],
        "rows": [
            {
                "label": row.label,
                "reference": row.reference,
                "published": row.published,
                "notes": [notes[mark] for mark in row.marks],
                "cells": [_cell_document(cell, notes) for cell in row.cells],
            }
            for row in table.rows
        ],
        "remarks": list(table.remarks),
    }


def _cell_document(cell: Cell, notes: Mapping[str, str]) -> dict[str, Json]:
    said: dict[str, Json] = {"value": cell.value, "text": cell.text}
    numbers = {name: getattr(cell, name) for name in ("low", "high", "scored", "planned", "rounds")}
    said |= {name: number for name, number in numbers.items() if number is not None}
    if cell.best:
        said["best"] = True
    if cell.marks:
        said["notes"] = [notes[mark] for mark in cell.marks]
    return said

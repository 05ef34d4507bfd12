"""How every picture looks, and how it becomes bytes: equal data give equal files. Imports matplotlib only to draw."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind readers (Okabe and Ito, Color Universal Design, 2008)."""
MARKERS = "os^dvPX"
DASHES = ("-", "--", ":")
"""After all colours have been used once, lines are dashed, then dotted."""
GREY = "#666666"
FORMATS = (".svg", ".png")
DPI = 150
PLACES = 8
"""Decimals of the places of axes, as shares of a figure's sides."""

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "videomla-bench",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.dpi": DPI,
}


@contextmanager
def styled() -> Iterator[None]:
    """The style for as long as the context lasts, whatever the user's own settings are."""
    from matplotlib import rc_context, rcParamsDefault

    chosen: Any = {
        key: value for key, value in rcParamsDefault.items() if not key.startswith(("backend", "interactive"))
    }
    with rc_context(chosen | _STYLE):
        yield


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the `index`-th line."""
    turn, place = divmod(index, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[turn % len(DASHES)]}


def settle(figure: Figure) -> None:
    """Let the layout of `figure` place its axes once and for all.

    The solver of Matplotlib's layouts (kiwisolver) orders its sums by where objects lie in memory, so the last digits
    of places differ from process to process, and with them names within an SVG file. Places are rounded.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    for axes in figure.axes:
        left, bottom, width, height = (round(float(place), PLACES) for place in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def encoded(figure: Figure, suffix: str, dpi: int = DPI) -> bytes:
    """`figure` as a file of the kind `.svg` or `.png`, without dates or versions in it. Call inside `styled`.

    `dpi` are dots per inch.

    Raises `RecordError` for another suffix.
    """
    if suffix not in FORMATS:
        raise RecordError(f"pictures are {' or '.join(FORMATS)}, not {suffix or 'without a suffix'}")
    settle(figure)
    out = io.BytesIO()
    absent = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}[suffix]
    figure.savefig(out, format=suffix[1:], metadata=absent, dpi=dpi)
    return out.getvalue()

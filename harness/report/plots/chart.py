"""A picture as data, and the one program that draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from harness.report.plots import style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 3.3
"""Inches of a picture with one panel, without title, legend and remarks."""
MOST_ABREAST = 4
"""Panels side by side at most; more stand in two rows."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series.

    Attributes:
        label: in the legend; equal labels of several panels share an entry. look: number of its colour and marker.
        x, y: equally many numbers; a pair with NaN is left out. low, high: ends of y's interval, or empty.
        joined: whether its points are. marked: whether they have markers.
        under: whether a later line runs over it, so that it is drawn wide to show on both sides.
        band: whether its interval is a band and not a whisker a point.
    """

    label: str
    look: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    joined: bool = True
    marked: bool = True
    under: bool = False
    band: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight dashed line, level at `y` or upright at `x`, with its name beside it."""

    label: str
    y: float | None = None
    x: float | None = None
    look: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: bytes (`B`) and logarithmic ones are drawn with prefixes; `ticks` are (place, text) for numbers.

    Attributes:
        from_zero: whether the axis starts there. whole: whether only whole numbers are ticks.
    """

    label: str
    unit: str = ""
    log: bool = False
    from_zero: bool = False
    whole: bool = False
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over two axes. `crosses` are points (x, y, look) that mark what did not fit."""

    across: Axis
    up: Axis
    lines: tuple[Line, ...]
    rules: tuple[Rule, ...] = ()
    crosses: tuple[tuple[float, float, int], ...] = ()
    named: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels side by side under a title, in two rows where they are many, with one legend, and remarks below."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of a drawn picture, from its left and upper edge as shares of its sides, and what is said of it."""

    x: float
    y: float
    text: str


MOST_SPOTS = 400
"""Points of a picture that have a text; of more, every second, third or so on."""


def draw(picture: Picture, suffix: str) -> bytes:
    """The picture as a file of the kind `.svg` or `.png`. Equal pictures give equal bytes."""
    with style.styled():
        return style.encoded(_figure(picture)[0], suffix)


def draw_with_spots(picture: Picture) -> tuple[bytes, list[Spot], float]:
    """The picture as SVG, its points with their values, and its width over its height."""
    with style.styled():
        figure, spaces = _figure(picture)
        drawn = style.encoded(figure, ".svg")
        spots = []
        for panel, axes in zip(picture.panels, spaces, strict=False):
            place = axes.transData - figure.transFigure
            for line in panel.lines:
                for index, point in enumerate(zip(line.x, line.y, strict=True)):
                    if all(map(math.isfinite, point)):
                        x, y = place.transform(point)
                        spots.append(Spot(float(x), 1 - float(y), _said(panel, line, index)))
        width, height = figure.get_size_inches()
    return drawn, spots[:: 1 + len(spots) // MOST_SPOTS], width / height


def _said(panel: Panel, line: Line, index: int) -> str:
    x, y = line.x[index], line.y[index]
    near = min(panel.across.ticks, key=lambda tick: abs(tick[0] - x), default=None)
    # Lines of a panel with named places stand a little apart, so that their whiskers do not overlap.
    across = near[1] if near and abs(near[0] - x) < 0.5 else f"{x:.4g}"
    ends = f" [{line.low[index]:.4g}, {line.high[index]:.4g}]" if line.low else ""
    unit = f" {panel.up.unit}" if panel.up.unit else ""
    return f"{line.label}: {y:.4g}{unit}{ends} at {across}"


def _figure(picture: Picture) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    count = len(picture.panels)
    rows = 1 if count <= MOST_ABREAST else 2
    abreast = -(-count // rows)
    width = WIDTH if count == 1 else 3.6 * abreast
    title = wrap(picture.title, int(width * 12))
    remarks = wrap(" ".join(picture.remarks), int(width * 17))
    figure = Figure()
    spaces = figure.subplots(rows, abreast, squeeze=False).ravel()
    for panel, axes in zip(picture.panels, spaces, strict=False):
        _panel(panel, axes)
    for axes in spaces[count:]:
        axes.remove()
    shown = {} if all(panel.named for panel in picture.panels) else _legend(spaces)
    columns = max(1, min(len(shown), int(width * 12 / (7 + max(map(len, shown), default=1)))))
    # Inches of what stands above and below the panels, which the layout leaves free.
    top = 0.12 + 0.19 * len(title)
    above, below = top + 0.19 * -(-len(shown) // columns) + 0.1, 0.14 * len(remarks) + 0.08
    height = HEIGHT * rows + above + below
    figure.set_size_inches(width, height)
    free = (0.0, below / height, 1.0, 1 - (above + below) / height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=free))
    left = 0.08 / width
    figure.text(left, 1 - 0.1 / height, "\n".join(title), va="top", fontsize=10.5, fontweight="bold")
    figure.text(left, 0.06 / height, "\n".join(remarks), va="bottom", fontsize=7, color=style.GREY)
    if shown:
        place = (0.0, 1 - top / height)
        figure.legend(list(shown.values()), list(shown), loc="upper left", bbox_to_anchor=place, ncols=columns)
    return figure, list(spaces)


def _legend(spaces: Iterable[Axes]) -> dict[str, Artist]:
    """Handles by label, of all panels together; a point's whiskers stay out of it."""
    from matplotlib.container import ErrorbarContainer

    shown: dict[str, Artist] = {}
    for axes in spaces:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle)
    return shown


def _panel(panel: Panel, axes: Axes) -> None:
    drawn = False
    for line in panel.lines:
        drawn = _line(line, axes, panel.named) or drawn
    if not drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.GREY, fontsize=12)
        axes.set(xticks=[], yticks=[], xlabel=panel.across.label, ylabel=panel.up.label)
        return
    for x, y, number in panel.crosses:
        axes.plot([x], [y], marker="x", markersize=8, markeredgewidth=2, color=style.look(number)["color"], zorder=5)
    axes.margins(x=0.2 if panel.named else 0.05, y=0.1)
    for rule in panel.rules:
        _rule(rule, axes)
    for axis, up in ((panel.across, False), (panel.up, True)):
        _scaled(axis, axes, up)


def _scaled(axis: Axis, axes: Axes, up: bool) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    drawn = axes.yaxis if up else axes.xaxis
    if axis.log:
        (axes.set_yscale if up else axes.set_xscale)("log")
        low, high = axes.get_ylim() if up else axes.get_xlim()
        drawn.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        drawn.set_minor_formatter(NullFormatter())
    elif axis.from_zero and up:
        axes.set_ylim(0, 1.08 * axes.dataLim.ymax)
    if axis.whole:
        drawn.set_major_locator(MaxNLocator(integer=True))
    if axis.unit == "B" or axis.log:
        drawn.set_major_formatter(EngFormatter(unit=axis.unit))
    if axis.ticks:
        drawn.set_ticks([place for place, _ in axis.ticks], [text for _, text in axis.ticks])
        drawn.set_ticks([], minor=True)
    drawn.set_label_text(axis.label + (f" ({axis.unit})" if axis.unit and axis.unit != "B" and not axis.log else ""))


def _line(line: Line, axes: Axes, named: bool) -> bool:
    kept = [i for i, pair in enumerate(zip(line.x, line.y, strict=True)) if all(map(math.isfinite, pair))]
    if not kept:
        return False
    x, y = ([values[i] for i in kept] for values in (line.x, line.y))
    look = style.look(line.look)
    if not line.joined:
        look["linestyle"] = "none"
    if not line.marked:
        look["marker"] = "none"
    if line.under:
        look |= {"linewidth": 4.5, "markersize": 9, "alpha": 0.45}
    if line.low and all(math.isfinite(end) for i in kept for end in (line.low[i], line.high[i])):
        if line.band:
            low, high = ([ends[i] for i in kept] for ends in (line.low, line.high))
            axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
            axes.plot(x, y, label=line.label, **look)
            return True
        ends = [[y[k] - line.low[i] for k, i in enumerate(kept)], [line.high[i] - y[k] for k, i in enumerate(kept)]]
        axes.errorbar(x, y, yerr=ends, capsize=3, elinewidth=1.0, label=line.label, **look)
    else:
        axes.plot(x, y, label=line.label, **look)
    if named:
        axes.annotate(line.label, (x[-1], y[-1]), (7, 4), textcoords="offset points", color=look["color"], fontsize=8)
    return True


def _rule(rule: Rule, axes: Axes) -> None:
    colour = style.GREY if rule.look is None else style.look(rule.look)["color"]
    if rule.y is not None:
        axes.axhline(rule.y, color=colour, linestyle="--", linewidth=1.0)
        axes.text(
            0.01, rule.y, rule.label, transform=axes.get_yaxis_transform(), va="bottom", fontsize=7.5, color=colour
        )
    if rule.x is not None:
        axes.axvline(rule.x, color=colour, linestyle="--", linewidth=1.0)
        if rule.label:
            axes.text(rule.x, 1.0, rule.label, transform=axes.get_xaxis_transform(), fontsize=7.5, color=colour)


def spaced(values: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """Ticks at `values` themselves."""
    return tuple((value, f"{value:g}") for value in values)

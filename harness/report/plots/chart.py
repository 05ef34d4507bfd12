"""A picture as data, and the one program that draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING

from harness.report.plots import labels, style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

WIDTH, HEIGHT = 6.4, 3.3
"""Inches of a picture with one panel, without title, legend and remarks."""
TALL = 4.2
"""Inches of a tall panel."""
CAP = 3.0
"""Points of half a whisker's cap."""
MOST_ABREAST = 4
"""Panels side by side at most; more stand in two rows."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series.

    Attributes:
        label: in the legend; equal labels of several panels share an entry. look: number of its colour and marker.
        x, y: equally many numbers; a pair with NaN is left out. low, high: ends of y's interval, or empty.
        left, right: ends of x's interval, or empty.
        joined: whether its points are. marked: whether they have markers.
        under: whether a later line runs over it, so that it is drawn wide to show on both sides.
        band: whether its interval is a band and not a whisker a point.
        grey: whether it steps back behind the others. thin: whether it is a guide to the eye.
        small: whether its markers are.
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
    left: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    grey: bool = False
    thin: bool = False
    small: bool = False


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
    """Lines over two axes.

    Attributes:
        crosses: points (x, y, look) that mark what did not fit.
        named: whether lines have their names beside their last points, and not in a legend.
        apart: whether those names are moved until none covers another.
    """

    across: Axis
    up: Axis
    lines: tuple[Line, ...]
    rules: tuple[Rule, ...] = ()
    crosses: tuple[tuple[float, float, int], ...] = ()
    named: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels side by side under a title, in two rows where they are many, with one legend, and remarks below.

    `tall` panels stand below each other, each with the room that the names of many points take.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    remarks: tuple[str, ...] = ()
    tall: bool = False


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
            for line in filter(lambda line: line.label, panel.lines):
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
    rows = count if picture.tall else 1 if count <= MOST_ABREAST else 2
    abreast = -(-count // rows)
    width = WIDTH if abreast == 1 else 3.6 * abreast
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
    height = (TALL if picture.tall else HEIGHT) * rows + above + below
    figure.set_size_inches(width, height)
    free = (0.0, below / height, 1.0, 1 - (above + below) / height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=free))
    left = 0.08 / width
    figure.text(left, 1 - 0.1 / height, "\n".join(title), va="top", fontsize=10.5, fontweight="bold")
    figure.text(left, 0.06 / height, "\n".join(remarks), va="bottom", fontsize=7, color=style.GREY)
    if shown:
        place = (0.0, 1 - top / height)
        figure.legend(list(shown.values()), list(shown), loc="upper left", bbox_to_anchor=place, ncols=columns)
    style.settle(figure)  # only then is it known where points lie
    for panel, axes in zip(picture.panels, spaces, strict=False):
        if panel.apart:
            _names_apart(panel, axes)
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
        drawn = _line(line, axes, panel.named and not panel.apart) or drawn
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
    if line.grey:
        look |= {"color": style.GREY, "alpha": 0.55}
    if line.thin:
        look |= {"linewidth": 0.8, "alpha": 0.5}
    if line.small:
        look |= {"markersize": 2.5, "alpha": 0.6}
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
        axes.errorbar(x, y, yerr=ends, capsize=CAP, elinewidth=1.0, label=line.label, **look)
    else:
        axes.plot(x, y, label=line.label, **look)
    for k, i in enumerate(kept if line.left else ()):
        between = [line.left[i], line.right[i]]
        axes.plot(between, [y[k], y[k]], color=look["color"], alpha=look.get("alpha"), linewidth=1.0)
    if named:
        axes.annotate(line.label, (x[-1], y[-1]), (7, 4), textcoords="offset points", color=look["color"], fontsize=8)
    return True


def _names_apart(panel: Panel, axes: Axes) -> None:
    """Write the name of each line near its last point, so that no name covers another, with a line where it is far."""
    figure = axes.figure
    scale = 72 / figure.dpi

    def at(x: float, y: float) -> labels.XY:
        across, up = axes.transData.transform((x, y))
        return float(across) * scale, float(up) * scale

    lines = [each for each in panel.lines if each.label and all(map(math.isfinite, (each.x[-1], each.y[-1])))]
    anchors = [at(line.x[-1], line.y[-1]) for line in lines]
    texts = [_name(line, axes) for line in lines]
    extents = [text.get_window_extent() for text in texts]
    # A little wider than measured: at another resolution the same letters are not quite as wide.
    sizes = [(extent.width * scale * 1.02 + 2, extent.height * scale + 1) for extent in extents]
    edges = axes.get_window_extent()
    bounds = labels.Box(*(edge * scale for edge in (edges.x0, edges.y0, edges.x1, edges.y1)))
    upright = [
        box
        for line in lines
        if line.low
        for box in _whisker(at(line.x[-1], line.low[-1]), at(line.x[-1], line.high[-1]))
    ]
    level = [_between(at(line.left[-1], line.y[-1]), at(line.right[-1], line.y[-1])) for line in lines if line.left]
    guides = [
        _between(at(*a), at(*b))
        for line in panel.lines
        if line.thin
        for a, b in pairwise(zip(line.x, line.y, strict=True))
    ]
    names = labels.place(anchors, sizes, [*guides, *level], upright, bounds)
    for text, anchor, name in zip(texts, anchors, names, strict=True):
        text.set_position((name.box.left + 1 - anchor[0], name.box.bottom + 0.5 - anchor[1]))
        if name.leader:
            start, _ = name.leader
            axes.annotate(
                "",
                text.xy,
                (start[0] - anchor[0], start[1] - anchor[1]),
                textcoords="offset points",
                arrowprops={
                    "arrowstyle": "-",
                    "linewidth": 0.5,
                    "color": style.GREY,
                    "shrinkA": 0,
                    "shrinkB": labels.END,
                },
            ).set_in_layout(False)


def _name(line: Line, axes: Axes) -> Annotation:
    colour = style.GREY if line.grey else style.look(line.look)["color"]
    point = (line.x[-1], line.y[-1])
    text = axes.annotate(
        line.label, point, (0, 0), textcoords="offset points", color=colour, fontsize=7, ha="left", va="bottom"
    )
    text.set_in_layout(False)
    return text


def _between(start: labels.XY, end: labels.XY) -> labels.Box:
    """The box around a straight line, a little wider than that."""
    (left, right), (bottom, top) = (sorted(pair) for pair in zip(start, end, strict=True))
    return labels.Box(left - 1.2, bottom - 1.2, right + 1.2, top + 1.2)


def _whisker(low: labels.XY, high: labels.XY) -> list[labels.Box]:
    """The boxes around an upright interval and its caps."""
    caps = [_between((x - CAP, y), (x + CAP, y)) for x, y in (low, high)]
    return [_between(low, high), *caps]


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

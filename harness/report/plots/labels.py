"""Find places for the names of points, so that each is read as its own point's. Equal points get equal places.

Every name has many places to stand, in rings around its point; each costs something by itself (how far it is, what it
covers) and something together with the places of other names. A greedy choice is improved, one name or two at a time,
until no such step lowers the sum. Costs are whole numbers, so that sums are the same in any order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

GAP = 6.0
"""Points between a marker's middle and the nearest place of its name."""
STEP = 3.0
"""Points by which places lie farther off from ring to ring."""
FAR = 11.0
"""Points from a marker on from which a line leads to the name."""
SHOWN = 9.0
"""Points between marker and name that a leading line needs to be seen."""
CLEAR = 1.0
"""Points by which any other marker must be farther from a name without a leading line than its own is."""
MARKER = 3.5
"""Points from a marker's middle to its edge, and a little more."""
END = 3.0
"""Points from a marker's middle at which a leading line ends."""
TWINS = 0.5
"""Points within which two markers look like one."""

DIRECTIONS = 24
"""Places in a ring."""
MOST = (60, 240, 960)
"""Places of a name that are weighed: the cheapest; more where names still meet."""
NEIGHBOURS = 40.0
"""Points between markers up to which the places of two names are chosen together."""
PAIRED = 60
"""Places of each of the two that are then weighed against each other."""

# What faults cost, in hundredths of a point by which a name might be farther off instead.
MEETS, COVERS, CROSSES, INVERTED = 10_000_000, 2_000_000, 1_000_000, 1_000_000
UNCLEAR, STRUCK, CROSSED = 500_000, 300_000, 6000
FAULT = UNCLEAR
LED, ALONG, CROWDED = 1500, 150, 200
SIDES = (0, 100, 300)
"""What it costs to stand right of a point, left of it, and straight above or below."""

XY = tuple[float, float]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its sides along the axes."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def distance(self, point: XY) -> float:
        """From `point` to the nearest point of the box."""
        x, y = point
        return math.dist(point, (min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)))


@dataclass(frozen=True, slots=True)
class Name:
    """Where a name stands, and the line that leads from it to its marker's edge where it needs one."""

    box: Box
    leader: tuple[XY, XY] | None = None


@dataclass(frozen=True, slots=True)
class _Places:
    """Where one name may stand, the cheapest place first.

    Attributes:
        boxes: left, bottom, right, top. starts, ends: of the leading lines. led: whether there is one.
        costs: of each place by itself.
    """

    boxes: Floats
    starts: Floats
    ends: Floats
    led: Flags
    costs: Ints

    def __getitem__(self, which: slice | Sequence[int] | Ints) -> _Places:
        return _Places(self.boxes[which], self.starts[which], self.ends[which], self.led[which], self.costs[which])

    def name(self, index: int) -> Name:
        (a, b), (c, d) = self.starts[index].tolist(), self.ends[index].tolist()
        return Name(Box(*self.boxes[index].tolist()), ((a, b), (c, d)) if self.led[index] else None)


def place(
    anchors: Sequence[XY], sizes: Sequence[XY], level: Sequence[Box], upright: Sequence[Box], bounds: Box
) -> list[Name]:
    """A box of each of `sizes` (width, height) near its anchor. No two of them meet, whatever else they cover.

    A name without a leading line is nearer to its own marker than to any other. As far as there is room, names cover
    no marker and no line, leading lines pass through no other marker, name or leading line, and of markers above
    each other the higher one has the higher name. Where `bounds` have no room left, names stand above them.

    Args:
        level, upright: lines that names had better not cover. A level one strikes a name out; an upright one crosses
            a letter, which is better than a name that is far off.
    """
    points = np.round(np.array(anchors, dtype=np.float64).reshape(-1, 2), 2)
    lines = (_array(level), _array(upright))
    places = [_places(points, number, size, lines, bounds) for number, size in enumerate(sizes)]
    order = _order(points)
    for most in MOST:
        choice = _Choice([each[:most] for each in places], points, order)
        choice.improve()
        if not choice.faulty():
            break
    chosen = choice.chosen
    for number in _meeting(places, chosen):
        del chosen[number]
    names = {number: places[number].name(index) for number, index in chosen.items()}
    for number in range(len(points)):
        if number not in names:
            names[number] = Name(_above(sizes[number], [name.box for name in names.values()], bounds))
    return [names[number] for number in range(len(points))]


def _array(boxes: Sequence[Box]) -> Floats:
    """The boxes that lie somewhere: an end that is no number, or 0 on a logarithmic axis, is drawn nowhere."""
    rows = [(box.left, box.bottom, box.right, box.top) for box in boxes]
    return np.array([row for row in rows if all(map(math.isfinite, row))], dtype=np.float64).reshape(-1, 4)


def _order(points: Floats) -> Ints:
    """For each pair of points 1 where the first is above the second, -1 where it is below, else 0."""
    across, up = (points[:, None] - points[None])[..., 0], (points[:, None] - points[None])[..., 1]
    return np.where(np.abs(across) < MARKER, np.sign(up), 0).astype(np.int64)


# ----------------------------------------------------------------------------------------- places of one name


def _places(points: Floats, number: int, size: XY, lines: tuple[Floats, Floats], bounds: Box) -> _Places:
    """All places inside `bounds`, each with what it costs by itself."""
    anchor = points[number]
    boxes, sides = _around(anchor, size, bounds)
    starts = np.clip(anchor, boxes[:, :2], boxes[:, 2:])
    own = np.hypot(*(starts - anchor).T)
    ends = anchor + (starts - anchor) * (END / np.maximum(own, END))[:, None]
    others = points[np.hypot(*(points - anchor).T) >= TWINS]
    foreign = np.hypot(*np.moveaxis(np.clip(others, boxes[:, None, :2], boxes[:, None, 2:]) - others, -1, 0))
    unclear = (foreign < own[:, None] + CLEAR).any(1)
    led = unclear | (own > FAR)
    markers = np.concatenate([points - MARKER, points + MARKER], axis=1)
    beyond = others[np.hypot(*(others - anchor).T) >= MARKER]  # its line cannot keep clear of one that it overlaps
    through = _off(starts, ends, beyond) < MARKER
    astray = np.hypot(*np.moveaxis(ends[:, None] - others, -1, 0)) < END
    along = sum(_inside(starts, ends, kind).sum(1) for kind in lines)
    costs = (
        COVERS * _meet(boxes, markers).sum(1)
        + STRUCK * _meet(boxes, lines[0]).sum(1)
        + CROSSED * _meet(boxes, lines[1]).sum(1)
        + CROWDED * np.maximum(0, GAP + CLEAR - foreign).sum(1)
        + led * (LED + COVERS * through.sum(1) + UNCLEAR * astray.any(1) + UNCLEAR * (own < SHOWN) + ALONG * along)
        + 100 * own
        + sides
    )
    whole = np.round(costs).astype(np.int64)
    return _Places(boxes, starts, ends, led, whole)[np.argsort(whole, kind="stable")]


def _around(anchor: Floats, size: XY, bounds: Box) -> tuple[Floats, Floats]:
    """Boxes inside `bounds` whose nearest points lie on rings around the anchor, and what their sides cost."""
    farthest = math.dist((bounds.left, bounds.bottom), (bounds.right, bounds.top))
    turns = np.arange(DIRECTIONS) * 2 * math.pi / DIRECTIONS
    towards = np.round(np.stack([np.cos(turns), np.sin(turns)], axis=1), 6)
    rings = np.arange(GAP, farthest, STEP)
    nearest = anchor + (rings[:, None, None] * towards).reshape(-1, 2)
    away = np.tile(np.sign(towards), (len(rings), 1))
    middles = nearest + away * np.array(size) / 2
    boxes = np.concatenate([middles - np.array(size) / 2, middles + np.array(size) / 2], axis=1)
    sides = np.choose((1 - away[:, 0]).astype(np.int64), [SIDES[0], SIDES[2], SIDES[1]]).astype(np.float64)
    kept = (boxes[:, :2] >= (bounds.left, bounds.bottom)).all(1) & (boxes[:, 2:] <= (bounds.right, bounds.top)).all(1)
    return boxes[kept], sides[kept]


# ------------------------------------------------------------------------------------------- geometry of many


def _meet(boxes: Floats, others: Floats) -> Flags:
    """Whether each of `boxes` shares more than an edge with each of `others`."""
    first, second = boxes[:, None], others[None]
    shared = (first[..., :2] < second[..., 2:]) & (second[..., :2] < first[..., 2:])
    return shared[..., 0] & shared[..., 1]


def _inside(starts: Floats, ends: Floats, boxes: Floats) -> Floats:
    """How much of each line lies within each box (Liang and Barsky, ACM Transactions on Graphics 3(1), 1984)."""
    across = (ends - starts)[:, None]
    across = np.where(np.abs(across) < 1e-9, 1e-9, across)
    low, high = (boxes[None, :, :2] - starts[:, None]) / across, (boxes[None, :, 2:] - starts[:, None]) / across
    enter, leave = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
    share = np.minimum(leave, 1) - np.maximum(enter, 0)
    within: Floats = np.maximum(share, 0) * np.hypot(across[..., 0], across[..., 1])
    return within


def _off(starts: Floats, ends: Floats, points: Floats) -> Floats:
    """How far each point is from each line."""
    across = (ends - starts)[:, None]
    length = np.maximum((across**2).sum(-1), 1e-9)
    share = np.clip(((points[None] - starts[:, None]) * across).sum(-1) / length, 0, 1)
    gap = starts[:, None] + share[..., None] * across - points[None]
    far: Floats = np.hypot(gap[..., 0], gap[..., 1])
    return far


def _crossing(first: _Places, second: _Places) -> Flags:
    """Whether each leading line of the first crosses each of the second."""
    a, b, c, d = first.starts[:, None], first.ends[:, None], second.starts[None], second.ends[None]

    def side(p: Floats, q: Floats, r: Floats) -> Floats:
        return (q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0]

    apart = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return apart & first.led[:, None] & second.led[None]


# ----------------------------------------------------------------------------------------------- places of all


def _clash(first: _Places, second: _Places, order: Ints) -> Ints:
    """What each place of the first costs together with each of the second; `order` as of `_order`."""
    higher = (first.boxes[:, 1] + first.boxes[:, 3])[:, None] - (second.boxes[:, 1] + second.boxes[:, 3])[None]
    result: Ints = MEETS * _meet(first.boxes, second.boxes)
    result = result + INVERTED * ((order != 0) & (order * higher < 1))
    result = result + COVERS * (first.led[:, None] & (_inside(first.starts, first.ends, second.boxes) > 0))
    result = result + COVERS * (second.led[None] & (_inside(second.starts, second.ends, first.boxes) > 0).T)
    return result + CROSSES * _crossing(first, second)


class _Choice:
    """One place for each name that has any, and what each other place would cost beside those chosen now."""

    def __init__(self, places: Sequence[_Places], points: Floats, order: Ints) -> None:
        self.places, self.order = places, order
        self.able = [number for number in range(len(points)) if len(places[number].costs)]
        self.pairs = [
            (first, second)
            for first, second in combinations(self.able, 2)
            if math.dist(points[first].tolist(), points[second].tolist()) <= NEIGHBOURS
        ]
        self.chosen: dict[int, int] = {}
        self.costs = {number: places[number].costs.copy() for number in self.able}
        self.beside: dict[tuple[int, int], Ints] = {}
        for number in sorted(self.able, key=lambda number: (*points[number].tolist(), number)):
            self.take(number, int(self.costs[number].argmin()))

    def take(self, number: int, index: int) -> None:
        """Put a name there, and count that for the others."""
        self.chosen[number] = index
        for other in self.able:
            if other != number:
                now = _clash(self.places[other], self.places[number][[index]], self.order[other, [number]])[:, 0]
                self.costs[other] += now - self.beside.get((other, number), 0)
                self.beside[other, number] = now

    def improve(self) -> None:
        """Take better places, for one name or two neighbours at a time, until there are none."""
        changed = True
        while changed:
            changed = False
            for number in self.able:
                costs = self.costs[number]
                if costs.min() < costs[self.chosen[number]]:
                    self.take(number, int(costs.argmin()))
                    changed = True
            for first, second in self.pairs:
                changed = self._improve_both(first, second) or changed

    def _improve_both(self, first: int, second: int) -> bool:
        now = self.costs[first][self.chosen[first]] + self.costs[second][self.chosen[second]]
        now -= self.beside[first, second][self.chosen[first]]
        alone = [self.costs[a] - self.beside[a, b] for a, b in ((first, second), (second, first))]
        if alone[0].min() + alone[1].min() >= now:
            return False
        best = [costs.argsort(kind="stable")[:PAIRED] for costs in alone]
        both = alone[0][best[0]][:, None] + alone[1][best[1]][None]
        places = self.places[first][best[0]], self.places[second][best[1]]
        both = both + _clash(*places, self.order[[first], [second]])
        if both.min() >= now:
            return False
        index = np.unravel_index(both.argmin(), both.shape)
        self.take(first, int(best[0][index[0]]))
        self.take(second, int(best[1][index[1]]))
        return True

    def faulty(self) -> bool:
        """Whether a name is not where it should be."""
        return any(self.costs[number][self.chosen[number]] >= FAULT for number in self.able)


def _meeting(places: Sequence[_Places], chosen: Mapping[int, int]) -> list[int]:
    """Names that meet one before them which does not meet another itself."""
    kept: list[int] = []
    result: list[int] = []
    for number, index in chosen.items():
        box = places[number].boxes[[index]]
        meets = any(_meet(box, places[other].boxes[[chosen[other]]]).any() for other in kept)
        (result if meets else kept).append(number)
    return result


def _above(size: XY, taken: Sequence[Box], bounds: Box) -> Box:
    """A place over everything: there is always one."""
    bottom = max([bounds.top, *(box.top for box in taken)])
    return Box(bounds.left, bottom, bounds.left + size[0], bottom + size[1])

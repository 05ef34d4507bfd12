"""Find places for the names of points, none of which covers another. The same points always get the same places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = 6.0
"""Points between a marker's middle and the nearest place of its name."""
STEP = 3.0
"""Points by which names are moved farther off while they meet something."""
FAR = 11.0
"""Points from a marker on from which a line leads to the name."""

DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Where a name stands from its point, the first free one; right of it and above before others."""

XY = tuple[float, float]


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

    def inside(self, other: Box) -> bool:
        """Whether it reaches nowhere beyond `other`."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )

    def nearest(self, point: XY) -> XY:
        """The point of the box that is nearest to `point`."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top)

    def distance(self, point: XY) -> float:
        """From `point` to the nearest point of the box."""
        return math.dist(point, self.nearest(point))


def place(anchors: Sequence[XY], sizes: Sequence[XY], obstacles: Sequence[Sequence[Box]], bounds: Box) -> list[Box]:
    """A box of each of `sizes` (width, height) near its anchor. No two of them meet, whatever else they cover.

    Names are placed from left to right. Each takes the nearest place that meets no name, none of `obstacles` and not
    the edge of `bounds`; where there is none, the last kind of obstacles is given up, then the one before, and so on.

    Args:
        obstacles: of each kind, what the names had better not cover; the kind that matters most comes first.
    """
    boxes: dict[int, Box] = {}
    for number in sorted(range(len(anchors)), key=lambda number: (*anchors[number], number)):
        size = sizes[number]
        nearby = list(_around(anchors[number], size, bounds))
        for kinds in range(len(obstacles), -1, -1):
            taken = [*boxes.values(), *(box for kind in obstacles[:kinds] for box in kind)]
            free = next((box for box in nearby if not any(box.meets(other) for other in taken)), None)
            if free is not None:
                break
        boxes[number] = free or _above(size, list(boxes.values()), bounds)
    return [boxes[number] for number in range(len(anchors))]


def _around(anchor: XY, size: XY, bounds: Box) -> Iterator[Box]:
    """Places inside `bounds`, in rings around the anchor, the nearest first."""
    width, height = size
    distance = GAP
    while distance < math.dist((bounds.left, bounds.bottom), (bounds.right, bounds.top)):
        for across, up in DIRECTIONS:
            # On a ring from the anchor, whichever the direction, and not farther off in a corner.
            reach = distance / math.hypot(across, up)
            middle = anchor[0] + across * (reach + width / 2), anchor[1] + up * (reach + height / 2)
            box = Box(middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
            if box.inside(bounds):
                yield box
        distance += STEP


def _above(size: XY, taken: Sequence[Box], bounds: Box) -> Box:
    """A place over everything: there is always one."""
    bottom = max([bounds.top, *(box.top for box in taken)])
    return Box(bounds.left, bottom, bounds.left + size[0], bottom + size[1])

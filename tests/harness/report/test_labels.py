"""Names of points: where they stand, and that each is read as its own point's. Lengths are in points (1/72 inch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations

import pytest

from harness.report.plots.labels import FAR, Box, Name, place

HEIGHT = 8.45
MARKER = 2.5
"""From the middle of a drawn marker to its edge."""

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """Points (name, x, y, width of the name, ends of the interval) and level lines as boxes."""

    bounds: Bounds
    points: tuple[tuple[str, float, float, float, float, float], ...]
    level: tuple[Bounds, ...] = ()

    @property
    def anchors(self) -> list[tuple[float, float]]:
        return [(x, y) for _, x, y, *_ in self.points]

    @property
    def upright(self) -> list[Box]:
        return [Box(x - 1.2, low - 1.2, x + 1.2, high + 1.2) for _, x, _, _, low, high in self.points if low < high]


def placed(case: Case) -> list[Name]:
    sizes = [(width, HEIGHT) for _, _, _, width, _, _ in case.points]
    level = [Box(*line) for line in case.level]
    return place(case.anchors, sizes, level, case.upright, Box(*case.bounds))


# Pictures of results/small_world/kept and results/cache_lab.
REAL = {
    "marks": Case(
        bounds=(38.5, 70.2, 457.8, 335.4),
        points=(
            ("dense", 397.9, 293.6, 23.3, 271.8, 309.4),
            ("dense 8 bits", 303, 293.6, 45.3, 271.8, 309.4),
            ("dense 4 bits", 256.9, 293.6, 45.3, 271.8, 309.4),
            ("dense 2 bits", 222.6, 245.7, 45.3, 219.4, 269.1),
            ("dense, window 4", 369.3, 147.4, 61.5, 125.3, 173.1),
            ("dense 4 bits, window 4", 228.3, 148.9, 83.5, 126.6, 174.7),
            ("dense, no sink", 397.9, 287.3, 53.4, 264.6, 304.5),
            ("dense, absolute", 397.9, 297.7, 58.5, 275.1, 313.3),
            ("dense, averages", 397.9, 107.2, 60.8, 92.3, 128.2),
            ("dense, bank", 397.9, 257, 45.3, 231.3, 279.1),
            ("dense, chosen tokens", 397.9, 274.6, 79.6, 250.3, 294.2),
            ("videomla", 262.1, 183.9, 35.8, 156.1, 213.1),
            ("videomla 8 bits", 169.2, 181.2, 57.8, 153, 211.1),
            ("videomla 4 bits", 124.8, 182.1, 57.8, 153.8, 212.1),
            ("videomla 2 bits", 98.4, 151.8, 57.8, 129.1, 177.7),
            ("videomla, no sink", 262.1, 226.2, 65.9, 197.7, 252.9),
            ("videomla, bank", 262.1, 176.2, 57.8, 150.8, 203.4),
        ),
        level=(
            (97.2, 150.6, 126, 153), (123.6, 150.6, 126, 183.3), (123.6, 180.9, 223.8, 183.3),
            (221.4, 180.9, 223.8, 246.9), (221.4, 244.5, 258.1, 246.9), (255.7, 244.5, 258.1, 294.8),
            (255.7, 292.4, 399.1, 294.8), (396.7, 292.4, 399.1, 298.9),
        ),
    ),
    "after_the_lid": Case(
        bounds=(38.5, 70.2, 457.8, 335.4),
        points=(
            ("dense", 397.9, 267.6, 23.3, 226, 307.6),
            ("dense 8 bits", 303, 267, 45.3, 225.1, 307.3),
            ("dense 4 bits", 256.9, 273.2, 45.3, 230.7, 313.3),
            ("dense 2 bits", 222.6, 201.8, 45.3, 164.5, 244.1),
            ("dense, window 4", 369.3, 148.5, 61.5, 119.9, 189),
            ("dense 4 bits, window 4", 228.3, 143.1, 83.5, 118.7, 177),
            ("dense, no sink", 397.9, 120.2, 53.4, 101.9, 152.5),
            ("dense, absolute", 397.9, 246.5, 58.5, 208.7, 284.6),
            ("dense, averages", 397.9, 92.3, 60.8, 92.3, 137.2),
            ("dense, bank", 397.9, 92.3, 45.3, 92.3, 137.2),
            ("dense, chosen tokens", 397.9, 231.7, 79.6, 194.7, 270.2),
            ("videomla", 262.1, 144.7, 35.8, 119.4, 180),
            ("videomla 8 bits", 169.2, 144.3, 57.8, 119.2, 179.3),
            ("videomla 4 bits", 124.8, 148.6, 57.8, 120.6, 187.7),
            ("videomla 2 bits", 98.4, 138.4, 57.8, 115.6, 170.9),
            ("videomla, no sink", 262.1, 102.2, 65.9, 93, 132.4),
            ("videomla, bank", 262.1, 96.7, 57.8, 92.3, 134),
        ),
        level=(
            (97.2, 137.2, 126, 139.6), (123.6, 137.2, 126, 149.8), (123.6, 147.4, 223.8, 149.8),
            (221.4, 147.4, 223.8, 203), (221.4, 200.6, 258.1, 203), (255.7, 200.6, 258.1, 274.4),
        ),
    ),
    "front by bytes": Case(
        bounds=(38.5, 382.5, 457.8, 647.9),
        points=(
            ("dense", 344.7, 616.7, 23.3, 552.4, 625.8),
            ("dense, window 4", 321.2, 512.7, 61.5, 448, 577.8),
            ("dense, window 9", 368.3, 477, 61.5, 424, 548.3),
            ("dense, no sink", 344.7, 614.2, 53.4, 548.9, 625.7),
            ("dense, averages", 361.4, 576.2, 60.8, 504, 616.4),
            ("dense, first frames", 397.9, 471.7, 69.6, 421, 543.4),
            ("dense, chosen tokens", 368.3, 434.6, 79.6, 404.6, 505.3),
            ("dense, bank", 361.4, 553.1, 45.3, 481.5, 604.7),
            ("dense int8", 266.7, 616.6, 39.5, 552.2, 625.8),
            ("dense int4", 228.7, 613.8, 39.5, 548.3, 625.7),
            ("dense int2", 200.6, 547.9, 39.5, 476.9, 601.7),
            ("latent", 233, 617, 23.3, 552.9, 625.8),
            ("latent, window 12", 273.2, 445.8, 65.9, 408.5, 517.7),
            ("latent, bank", 249.7, 506.8, 45.3, 443.6, 573.3),
            ("latent int8", 156.6, 616.7, 39.5, 552.4, 625.8),
            ("latent int4", 120.1, 610.8, 39.5, 544.3, 625.6),
            ("latent int4, window 12", 160.3, 442.1, 82, 407.1, 513.7),
            ("latent int2", 98.4, 469, 39.5, 419.5, 540.9),
        ),
        level=(
            (97.2, 467.8, 121.3, 470.2), (118.9, 467.8, 121.3, 612), (118.9, 609.6, 157.8, 612),
            (155.4, 609.6, 157.8, 617.9), (155.4, 615.5, 234.2, 617.9), (231.8, 615.5, 234.2, 618.2),
        ),
    ),
    "front by seconds": Case(
        bounds=(38.5, 79.2, 457.8, 344.5),
        points=(
            ("dense", 187.5, 313.4, 23.3, 249.1, 322.4),
            ("dense, window 4", 192.2, 209.4, 61.5, 144.6, 274.5),
            ("dense, window 9", 260.9, 173.6, 61.5, 120.7, 244.9),
            ("dense, no sink", 210.8, 310.9, 53.4, 245.6, 322.4),
            ("dense, averages", 235.4, 272.8, 60.8, 200.7, 313.1),
            ("dense, first frames", 242.4, 168.3, 69.6, 117.6, 240.1),
            ("dense, chosen tokens", 160.8, 131.2, 79.6, 101.3, 202),
            ("dense, bank", 124.5, 249.8, 45.3, 178.2, 301.4),
            ("dense int8", 258.9, 313.2, 39.5, 248.9, 322.4),
            ("dense int4", 351.8, 310.4, 39.5, 244.9, 322.4),
            ("dense int2", 356.2, 244.6, 39.5, 173.5, 298.4),
            ("latent", 209.7, 313.7, 23.3, 249.5, 322.4),
            ("latent, window 12", 253, 142.5, 65.9, 105.1, 214.4),
            ("latent, bank", 230.2, 203.4, 45.3, 140.3, 269.9),
            ("latent int8", 292, 313.4, 39.5, 249.1, 322.4),
            ("latent int4", 363.2, 307.5, 39.5, 240.9, 322.3),
            ("latent int4, window 12", 391.8, 138.7, 82, 103.7, 210.4),
            ("latent int2", 370.6, 165.7, 39.5, 116.2, 237.6),
        ),
        level=(
            (123.3, 248.6, 188.7, 251), (186.3, 248.6, 188.7, 314.6), (186.3, 312.2, 210.9, 314.6),
            (208.5, 312.2, 210.9, 314.9), (97.2, 312.2, 277.9, 314.6), (97.6, 208.2, 286.8, 210.6),
            (144.5, 172.4, 377.4, 174.8), (123.6, 309.7, 297.9, 312.1), (108.9, 271.6, 361.9, 274),
            (157.5, 167.1, 327.3, 169.5), (141.3, 130, 180.2, 132.4), (113.5, 248.6, 135.4, 251),
            (224.5, 312, 293.4, 314.4), (329.3, 309.2, 374.3, 311.6), (349.4, 243.4, 363, 245.8),
            (198.6, 312.5, 220.7, 314.9), (233.1, 141.3, 272.9, 143.7), (216.8, 202.2, 243.7, 204.6),
            (287.7, 312.2, 296.3, 314.6), (327.4, 306.3, 399.1, 308.7), (389.6, 137.5, 394.1, 139.9),
            (367.5, 164.5, 373.7, 166.9),
        ),
    ),
}  # fmt: skip


def plain(*anchors: tuple[float, float], bounds: Bounds = (38, 70, 458, 335), width: float = 50) -> Case:
    """Points without intervals."""
    return Case(bounds, tuple((str(number), x, y, width, y, y) for number, (x, y) in enumerate(anchors)))


MADE = {
    "2 near each other": plain((200, 200), (204, 201)),
    "2 equal": plain((200, 200), (200, 200)),
    "12 equal": plain(*[(200, 200)] * 12, width=40),
    "12 above each other": plain(*[(397, 150 + 9 * n) for n in range(12)], width=40),
    "20 above each other": plain(*[(200, 90 + 11 * n) for n in range(20)]),
    "20 anywhere": plain(*[(50 + 137 * n % 400, 80 + 89 * n % 245) for n in range(20)]),
    "at the border": plain(
        (38, 70), (458, 335), (38, 335), (458, 70), (458, 200), (38, 200), (250, 335), (250, 70)
    ),
}  # fmt: skip


def along(line: tuple[tuple[float, float], tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of a line, close together."""
    (a, b), (c, d) = line
    return [(a + (c - a) * n / 400, b + (d - b) * n / 400) for n in range(401)]


def within(box: Box, point: tuple[float, float]) -> bool:
    return box.left < point[0] < box.right and box.bottom < point[1] < box.top


def crossing(names: tuple[Name, Name]) -> bool:
    """Whether the lines of two names do: where both ends of each lie on other sides of the other."""
    first, second = (name.leader for name in names)
    if first is None or second is None:
        return False

    def turn(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    (a, b), (c, d) = first, second
    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0


once = cache(placed)
ALL = pytest.mark.parametrize("case", [*REAL.values(), *MADE.values()], ids=[*REAL, *MADE])


@ALL
def test_a_name_is_nearest_to_its_own_marker_or_tied_to_it(case: Case) -> None:
    names = once(case)
    for (anchor, name), other in permutations(zip(case.anchors, names, strict=True), 2):
        if name.leader is None:
            assert name.box.distance(anchor) <= min(FAR, name.box.distance(other[0]))
        else:
            start, end = name.leader
            assert name.box.distance(start) < 0.02
            assert math.dist(end, anchor) <= math.dist(end, other[0]) + 0.02
            assert 2 < math.dist(end, anchor) < 4


@ALL
def test_lines_to_markers_pass_through_no_other_and_do_not_cross(case: Case) -> None:
    names = once(case)
    for (anchor, name), (other, theirs) in permutations(zip(case.anchors, names, strict=True), 2):
        for point in along(name.leader) if name.leader else ():
            assert not within(theirs.box, point)
            assert math.dist(anchor, other) < 2 * MARKER or math.dist(point, other) > MARKER
    assert not any(map(crossing, combinations(names, 2)))


@ALL
def test_points_above_each_other_have_names_in_their_order(case: Case) -> None:
    named = list(zip(case.anchors, once(case), strict=True))
    pairs = [(a, b) for a, b in permutations(named, 2) if a[0][0] == b[0][0] and a[0][1] > b[0][1]]
    assert all(a[1].box.top > b[1].box.top for a, b in pairs)


@ALL
def test_names_cover_no_name_marker_or_level_line_and_stay_inside(case: Case) -> None:
    boxes = [name.box for name in once(case)]
    assert not any(first.meets(second) for first, second in combinations(boxes, 2))
    markers = [Box(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in case.anchors]
    lines = [*markers, *(Box(*line) for line in case.level)]
    assert not any(box.meets(line) for box in boxes for line in lines)
    # An upright interval through a letter is better than a name far off; few need it.
    assert sum(any(box.meets(line) for line in case.upright) for box in boxes) <= 2
    left, bottom, right, top = case.bounds
    assert all(left <= box.left and box.right <= right for box in boxes)
    assert all(bottom <= box.bottom and box.top <= top for box in boxes)


def test_equal_points_get_equal_places_whatever_their_last_digits() -> None:
    case = REAL["marks"]
    moved = tuple((name, x + 1e-9, y - 1e-9, width, a, b) for name, x, y, width, a, b in case.points)
    assert placed(case) == placed(case) == placed(Case(case.bounds, moved, case.level))


def test_one_point_none_and_a_line_with_an_end_nowhere() -> None:
    bounds = Box(0, 0, 100, 100)
    assert place([], [], [], [], bounds) == []
    nowhere = [Box(math.nan, 0, math.nan, 100), Box(20, -math.inf, 24, 80)]
    (name,) = place([(50.0, 50.0)], [(20.0, 8.0)], nowhere, nowhere, bounds)
    assert name.leader is None
    assert name.box.distance((50, 50)) < FAR


def test_names_without_room_never_meet() -> None:
    names = place([(50.0, 50.0)] * 30, [(40.0, 10.0)] * 30, [], [], Box(0, 0, 100, 100))
    assert not any(first.box.meets(second.box) for first, second in combinations(names, 2))
    assert any(name.box.distance((50, 50)) < 12 for name in names)

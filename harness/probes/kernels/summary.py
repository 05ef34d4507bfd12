"""Headline values of the kernels probe: speed-ups, shares of the ceiling, crossings and dispatch loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from harness.contracts.kernels import Crossing, Shape
from harness.probes.kernels.rows import Ceilings, Row

NAN = float("nan")

SHORT, LONG = 256, 1560
"""Queries up to which the absorbed kernel is meant for use, and from which on its share of the ceiling is judged."""

KERNEL = "absorbed:"
"""Before the name of a kernel, in the form of a row that times it alone, without the maps around it."""


def summary(rows: Sequence[Row], ceilings: Ceilings, picked: Mapping[Shape, str]) -> dict[str, float]:
    """The headline values, each the worst over its shapes; NaN where a shape lacks its row."""
    by_form = {(row.shape, row.form): row for row in rows}
    shapes = list(dict.fromkeys(row.shape for row in rows))
    fewest, most = min(s.queries for s in shapes), max(s.queries for s in shapes)

    def time(shape: Shape, form: str) -> float:
        row = by_form.get((shape, form))
        return row.seconds if row else NAN

    def over_dense(shape: Shape) -> float:
        expanded = by_form.get((shape, "expanded"))
        backend = expanded.detail.get("backend") if expanded else None
        return time(shape, "expanded") / time(shape, f"dense:{backend}")

    def share(shape: Shape, default: bool = False) -> float:
        reached = [
            row.rate(ceilings)[1]
            for row in rows
            if row.shape == shape and row.form.startswith(KERNEL) and (row.detail.get("default") or not default)
        ]
        return max((s for s in reached if math.isfinite(s)), default=NAN)

    long, short = [s for s in shapes if s.queries >= LONG], [s for s in shapes if s.queries <= SHORT]
    return {
        "worst_error": max((row.error for row in rows if not row.fault and not row.missing), default=NAN),
        "expanded_over_dense": _worst(max, [over_dense(s) for s in shapes if s.queries == most]),
        "absorbed_long_share": _worst(min, [share(s) for s in long]),
        "absorbed_short_share": _worst(min, [share(s) for s in short]),
        "default_long_share": _worst(min, [share(s, default=True) for s in long]),
        "default_short_share": _worst(min, [share(s, default=True) for s in short]),
        "absorbed_over_expanded": _worst(
            max, [time(s, "absorbed") / time(s, "expanded") for s in shapes if s.queries == fewest]
        ),
        "dispatch_loss": dispatch_loss(rows, picked),
    }


def dispatch_loss(rows: Sequence[Row], picked: Mapping[Shape, str]) -> float:
    """By how much the form picked for a shape is slower than the better one, less one; NaN where a time is missing."""
    seconds = {(row.shape, row.form): row.seconds for row in rows}

    def loss(shape: Shape) -> float:
        absorbed, expanded = (seconds.get((shape, form), NAN) for form in ("absorbed", "expanded"))
        # NaN spreads through a sum but not through min.
        return seconds.get((shape, picked[shape]), NAN) / (min(absorbed, expanded) + 0 * (absorbed + expanded)) - 1

    return _worst(max, [loss(shape) for shape in picked])


def counts(rows: Sequence[Row]) -> dict[str, float]:
    """How many rows there are, failed, and do not run here."""
    faults, missing = sum(bool(row.fault) for row in rows), sum(bool(row.missing) for row in rows)
    return {"rows": float(len(rows)), "failed_rows": float(faults), "missing_rows": float(missing)}


def chunk_shares(rows: Sequence[Row], ceilings: Ceilings) -> dict[str, float]:
    """Share of the large product that a whole chunk reaches, by form; NaN without its row or its times."""
    reached = {row.form: row.rate(ceilings)[1] for row in rows}
    forms = ("dense", "expanded", "absorbed")
    return {f"chunk_{form}_share": reached.get(f"chunk:{form}", NAN) for form in forms}


def crossings_of(rows: Sequence[Row]) -> list[Crossing]:
    """For each number of keys, up to how many queries absorbing was no slower, at the smallest batch measured.

    Between two measured numbers of queries the logarithm of the ratio of times is interpolated linearly in that of the
    queries. Keys where a time is missing are left out.
    """
    batch = min((row.shape.batch for row in rows), default=0)
    crossings = []
    for keys in sorted({row.shape.keys for row in rows}):
        of_keys = [row for row in rows if row.shape.batch == batch and row.shape.keys == keys]
        ratio = _ratios(of_keys)
        if ratio:
            crossings.append(Crossing(keys, _crossing(ratio), _fastest_kernel(of_keys)))
    return crossings


def _ratios(rows: Sequence[Row]) -> dict[int, float]:
    """Logarithm of absorbed over expanded by number of queries; empty where any is missing."""
    seconds = {(row.form, row.shape.queries): row.seconds for row in rows}
    queries = sorted({row.shape.queries for row in rows})
    both = {q: (seconds.get(("absorbed", q), NAN), seconds.get(("expanded", q), NAN)) for q in queries}
    if not all(math.isfinite(t) and t > 0 for pair in both.values() for t in pair):
        return {}
    return {q: math.log(absorbed / expanded) for q, (absorbed, expanded) in both.items()}


def _crossing(ratio: Mapping[int, float]) -> int:
    slower = [q for q, r in ratio.items() if r > 0]
    if not slower:
        return max(ratio)
    above = min(slower)
    below = max((q for q in ratio if q < above), default=None)
    if below is None:
        return 0
    # Where the line through both logarithms crosses 0, at which the two forms take equally long.
    part = ratio[below] / (ratio[below] - ratio[above])
    return int(below * (above / below) ** part)


def _fastest_kernel(rows: Sequence[Row]) -> str:
    """The kernel with the least time in all over the shapes with few queries; empty where none has all of them."""
    shapes = {row.shape for row in rows if row.shape.queries <= SHORT}
    total: dict[str, float] = {}
    for row in rows:
        if row.form.startswith(KERNEL) and row.shape in shapes:
            total[row.form] = total.get(row.form, 0.0) + row.seconds
    complete = {form: t for form, t in total.items() if math.isfinite(t) and shapes}
    return min(complete, key=complete.__getitem__).removeprefix(KERNEL) if len(complete) > 1 else ""


def _worst(pick: Callable[[Sequence[float]], float], numbers: Sequence[float]) -> float:
    """The largest or smallest; NaN where there is none or any is NaN."""
    return pick(numbers) if numbers and all(map(math.isfinite, numbers)) else NAN

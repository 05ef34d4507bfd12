"""The row of the kernels probe: one form of one shape. A table shows such rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from harness.contracts import Direction, Json, ProbeTable
from harness.contracts.kernels import Shape

NAN = float("nan")

COLUMNS: tuple[tuple[str, str, Direction], ...] = (
    ("relative error", "", "lower"), ("cold", "s", "lower"), ("IQR", "s", "lower"), ("warm", "s", "lower"),
    ("IQR", "s", "lower"), ("in a graph", "s", "lower"), ("FLOP/s", "", "higher"), ("of the matmul", "", "higher"),
    ("bytes/s", "", "higher"), ("of the copy", "", "higher"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The device's own rates: FLOP/s of a large bfloat16 product, bytes/s of a large copy."""

    flops: float = NAN
    bytes: float = NAN


@dataclass(slots=True)
class Row:
    """One form of one shape: its error, and seconds a call where the check passed."""

    shape: Shape
    form: str
    flops: float
    bytes: float
    detail: Mapping[str, Json]
    error: float = NAN
    worst_row: float = NAN
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    graph: list[float] = field(default_factory=list)
    fault: str = ""
    missing: str = ""
    account: Mapping[str, Json] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The headline: median with a cold cache, as in a model whose layers evict each other; NaN without it."""
        return median(self.cold) if self.cold else NAN

    def rate(self, ceilings: Ceilings) -> tuple[float, float, float, float]:
        """FLOP/s and its share of the product, of the fastest times; bytes/s and its share of the copy, of cold."""
        if not self.cold:
            return NAN, NAN, NAN, NAN
        fastest = min(median(times) for times in (self.cold, self.warm, self.graph) if times)
        flops, moved = self.flops / fastest, self.bytes / self.seconds
        return flops, flops / ceilings.flops, moved, moved / ceilings.bytes

    def judge(self, ceilings: Ceilings) -> None:
        """Withdraw the times of a row that is faster than the device can be."""
        _, product, _, copy = self.rate(ceilings)
        for share, what in ((product, "matmul"), (copy, "copy")):
            if share > 1:
                self.fault = f"{share:.0%} of the device's {what} ceiling"
        if self.fault:
            self.withdraw()

    def withdraw(self) -> None:
        """Drop all times."""
        self.cold, self.warm, self.graph, self.account = [], [], [], {}

    def to_json(self) -> dict[str, Json]:
        """For a record's notes."""
        shape = {"batch": self.shape.batch, "queries": self.shape.queries, "keys": self.shape.keys}
        facts: dict[str, Json] = {**shape, "form": self.form, "flops": self.flops, "bytes": self.bytes, **self.detail}
        for name in ("error", "worst_row"):
            number = getattr(self, name)
            facts[name] = number if math.isfinite(number) else None
        for name in ("cold", "warm", "graph"):
            times = getattr(self, name)
            facts[name] = {"median_s": median(times), "iqr_s": _iqr(times), "samples": len(times)} if times else None
        facts |= {"account": dict(self.account)} if self.account else {}
        return facts | {name: text for name in ("fault", "missing") if (text := getattr(self, name))}

    def cells(self, ceilings: Ceilings) -> list[float]:
        """In the order of `COLUMNS`; NaN where there is no number."""
        medians_and_iqrs = [
            each(times) if times else NAN for times in (self.cold, self.warm) for each in (median, _iqr)
        ]
        graph = median(self.graph) if self.graph else NAN
        return [self.error, *medians_and_iqrs, graph, *self.rate(ceilings)]


def table(rows: Sequence[Row], ceilings: Ceilings) -> ProbeTable:
    """Every row as a table. Remarks name rows that failed or could not be measured here."""
    remarks = [f"{row.shape}, {row.form}: failed, {row.fault}." for row in rows if row.fault]
    remarks += dict.fromkeys(f"{row.form}: not measured here, {row.missing}." for row in rows if row.missing)
    remarks.append(
        "Shares are of the device's own large product and large copy, measured before. Bytes/s is with a cold cache, "
        "FLOP/s at the fastest."
    )
    return ProbeTable(
        "Attention by shape and form",
        "shape, form",
        COLUMNS,
        [(f"{row.shape}, {row.form}", row.cells(ceilings)) for row in rows],
        [text[:500] for text in remarks],
    )


def samples(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Every raw time, by shape, form and state of the cache."""
    return {
        f"{row.shape}, {row.form}: {name}_s": times
        for row in rows
        for name, times in (("cold", row.cold), ("warm", row.warm), ("graph", row.graph))
        if times
    }


def _iqr(times: Sequence[float]) -> float:
    return float(np.subtract(*np.percentile(times, [75, 25])))

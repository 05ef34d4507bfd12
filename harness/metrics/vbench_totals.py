"""VBench's aggregate scores from raw means of dimensions: Quality, Semantic, Total, and two other means in use. Pure.

Ranges and weights are those of the official leaderboard script (Vchitect/VBench, scripts/constant.py and
scripts/cal_final_score.py). Raw values are on the scale of VBench's own result files: 0 to 1, imaging quality included.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from harness.errors import HarnessError, Incomplete, nearest

with Path(__file__).with_name("vbench.csv").open(encoding="utf-8", newline="") as _file:
    _ROWS = list(csv.DictReader(_file))

QUALITY = tuple(row["dimension"] for row in _ROWS if row["group"] == "quality")
"""The seven dimensions of the Quality score."""

SEMANTIC = tuple(row["dimension"] for row in _ROWS if row["group"] == "semantic")
"""The nine dimensions of the Semantic score."""

DIMENSIONS = QUALITY + SEMANTIC

SIX = tuple(sorted(row["dimension"] for row in _ROWS if row["long"]))
"""The six dimensions that long-video papers report, and whose plain mean some of them print as "Overall"."""

RANGES: Mapping[str, tuple[float, float]] = {row["dimension"]: (float(row["low"]), float(row["high"])) for row in _ROWS}
"""Lowest and highest raw value of each dimension, the ends of its normalised scale."""

WEIGHTS: Mapping[str, float] = {name: 0.5 if name == "dynamic_degree" else 1.0 for name in DIMENSIONS}
"""Weight of each dimension within its group."""

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0
"""Weights of the two groups in the Total."""


def _require(raw: Mapping[str, float], names: Iterable[str], score: str) -> None:
    for name in raw:
        if name not in RANGES:
            raise HarnessError(f"VBench has no dimension {name!r}", nearest(name, DIMENSIONS))
    absent = [name for name in names if name not in raw or not math.isfinite(raw[name])]
    if absent:
        raise Incomplete(
            f"VBench {score} needs {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not measured",
            "measure every dimension of the score, or report the dimensions alone",
        )


def normalised(dimension: str, raw: float) -> float:
    """`raw` on the scale from the dimension's lowest (0) to its highest (1) value; not clipped, as upstream."""
    if dimension not in RANGES:
        raise HarnessError(f"VBench has no dimension {dimension!r}", nearest(dimension, DIMENSIONS))
    low, high = RANGES[dimension]
    return (raw - low) / (high - low)


def _weighted_mean(raw: Mapping[str, float], names: tuple[str, ...]) -> float:
    total = math.fsum(WEIGHTS[name] * normalised(name, raw[name]) for name in names)
    return total / math.fsum(WEIGHTS[name] for name in names)


def quality(raw: Mapping[str, float]) -> float:
    """Quality score: weighted mean of the seven normalised quality dimensions. `Incomplete` when one is missing."""
    _require(raw, QUALITY, "Quality")
    return _weighted_mean(raw, QUALITY)


def semantic(raw: Mapping[str, float]) -> float:
    """Semantic score: mean of the nine normalised semantic dimensions. `Incomplete` when one is missing."""
    _require(raw, SEMANTIC, "Semantic")
    return _weighted_mean(raw, SEMANTIC)


def total(raw: Mapping[str, float]) -> float:
    """Total score, (4 Quality + Semantic) / 5. `Incomplete` when one of the sixteen dimensions is missing."""
    _require(raw, DIMENSIONS, "Total")
    parts = QUALITY_WEIGHT * quality(raw) + SEMANTIC_WEIGHT * semantic(raw)
    return parts / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)


def mean_of_six(raw: Mapping[str, float]) -> float:
    """Plain mean of the six raw long-video dimensions: what some tables call "Overall". Not VBench's Total."""
    _require(raw, SIX, "mean of six")
    return math.fsum(raw[name] for name in SIX) / len(SIX)


def mean_of_quality_and_semantic(raw: Mapping[str, float]) -> float:
    """Plain mean of Quality and Semantic: what some ablation tables call "Total". Not VBench's Total."""
    _require(raw, DIMENSIONS, "mean of Quality and Semantic")
    return (quality(raw) + semantic(raw)) / 2


FORMULAS: Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, float]], float]]] = {
    "quality": (QUALITY, quality),
    "semantic": (SEMANTIC, semantic),
    "total": (DIMENSIONS, total),
    "mean_of_six": (SIX, mean_of_six),
    "mean_of_quality_and_semantic": (DIMENSIONS, mean_of_quality_and_semantic),
}
"""Every aggregate by name: the dimensions it needs, and the formula."""

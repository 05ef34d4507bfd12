"""Show the spectra of a `rank` measurement as a table with a row a layer, and as a plot. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecordError
from harness.report.plots import style
from harness.report.table import Cell, Heading, Row, Table
from harness.system.files import write_atomic

PER_LAYER = {
    "energy": "energy kept at {width}",
    "r90": "r(90 %)",
    "r95": "r(95 %)",
    "r99": "r(99 %)",
}
_SINGULAR = "singular["


def tables(
    samples: Mapping[str, Sequence[float]], notes: Mapping[str, Any], values: Mapping[str, float] | None = None
) -> list[Table]:
    """Energy and effective ranks of every layer, from a record; a table for each activation.

    A last row holds those of random maps where the record's `values` do.
    """
    return [_layer_table(part, notes, name, values or {}) for name, part in parts(samples).items()]


def parts(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """The samples of each activation by its name, as in `latent:r99`; those of weights have none.

    Raises `RecordError` where they hold no spectra.
    """
    series_by_kind: dict[str, dict[str, Sequence[float]]] = {}
    for name, series in samples.items():
        kind, _, inner = name.rpartition(":")
        series_by_kind.setdefault(kind, {})[inner] = series
    for part in series_by_kind.values() or [{}]:
        _require_spectra(part)
    return series_by_kind


def _layer_table(
    samples: Mapping[str, Sequence[float]], notes: Mapping[str, Any], kind: str, values: Mapping[str, float]
) -> Table:
    columns = tuple(Heading(label.format(width=notes["width"])) for label in PER_LAYER.values())
    lines = {layer: [samples[name][i] for name in PER_LAYER] for i, layer in enumerate(_layers(samples))}
    remarks = []
    if "null_r99" in values and not kind:
        lines["random maps"] = [values[f"null_{name}"] for name in PER_LAYER]
        remarks.append(
            "Random maps: independent normal entries, what an operator of that shape has before any training."
        )
    rows = []
    for label, numbers in lines.items():
        texts = [f"{numbers[0]:.3f}" if numbers[0] == numbers[0] else "all", *(f"{n:.0f}" for n in numbers[1:])]
        rows.append(Row(label, tuple(Cell(text, number) for text, number in zip(texts, numbers, strict=True))))
    directions = max(len(series) for name, series in samples.items() if name.startswith(_SINGULAR))
    if notes["width"] >= directions:
        width = notes["width"]
        remarks.append(
            f"There are {directions} directions, so a width of {width} keeps all energy, whatever they hold."
        )
    if kind:
        subject = f"activations {kind}, {'centred' if notes.get('centred') else 'not centred'}"
    else:
        subject = f"weights {notes.get('operator', '')}".strip()
    return Table("rank", f"Spectrum per layer: {subject}", columns, tuple(rows), remarks=tuple(remarks), corner="layer")


def plot_spectra(samples: Mapping[str, Sequence[float]], notes: Mapping[str, Any], path: Path) -> None:
    """Draw energy against width for every layer, and effective ranks against layers, into an .svg or .png file.

    The samples are of one part (`parts`). The same samples give the same bytes.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    _require_spectra(samples)
    layers = _layers(samples)
    with style.styled():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        energy_axes, rank_axes = figure.subplots(1, 2)
        for index, layer in enumerate(layers):
            squares = np.square(np.asarray(samples[f"{_SINGULAR}{layer}]"], dtype=float))
            energy = np.cumsum(squares) / max(squares.sum(), np.finfo(float).tiny)
            shade = colormaps["viridis"](index / max(len(layers) - 1, 1))
            energy_axes.plot(np.arange(1, len(energy) + 1), energy, color=shade, linewidth=0.9)
        energy_axes.axvline(notes["width"], color="0.4", linewidth=0.8, linestyle="--")
        energy_axes.set(xlabel=f"directions (dashed: {notes['width']})", ylabel="energy kept", ylim=(0, 1.02))
        energy_axes.set_title("dark: first layer, light: last", fontsize=8, fontweight="normal")
        for name, marker in (("r90", "o"), ("r95", "s"), ("r99", "^")):
            rank_axes.plot(range(len(layers)), samples[name], marker=marker, markersize=3, label=f"{name[1:]} %")
        rank_axes.set(xlabel="layer", ylabel="effective rank", ylim=(0, None))
        rank_axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, style.encoded(figure, path.suffix))


def _layers(samples: Mapping[str, Sequence[float]]) -> list[str]:
    return [name.removeprefix(_SINGULAR).removesuffix("]") for name in samples if name.startswith(_SINGULAR)]


def _require_spectra(samples: Mapping[str, Sequence[float]]) -> None:
    layers = _layers(samples)
    if not layers or any(len(samples.get(name, ())) != len(layers) for name in PER_LAYER):
        raise RecordError("the record holds no spectra", "give a record of `rank` or `activation-rank`")

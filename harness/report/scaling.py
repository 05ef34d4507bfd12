"""Log-log curves of a `complexity` measurement: FLOPs, bytes and time against window and clip length. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import RecordError

PANELS = (
    ("window_frames", "window_attention_flops", "window (latent frames)", "attention FLOPs of the last chunk"),
    ("window_frames", "window_bytes", "window (latent frames)", "cache bytes"),
    ("window_frames", "window_s", "window (latent frames)", "seconds of the last chunk"),
    ("clip_frames", "clip_s", "clip (latent frames)", "seconds of the clip"),
)
"""Samples on either axis of each panel, and the axes' names."""
MARKERS = "os^dv"


def plot_complexity(samples: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw every form in every panel that was measured, log-log, as what `path` ends in. Equal samples, equal bytes.

    Raises `RecordError` when the samples are not those of a `complexity` record.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    forms = [name.partition(":")[0] for name in samples if name.endswith(":window_flops")]
    if not forms:
        raise RecordError("the record holds no sweep over attention forms", "give a record of `complexity`")
    panels = [panel for panel in PANELS if any(map(_measured, (samples[f"{form}:{panel[1]}"] for form in forms)))]
    with rc_context({"svg.hashsalt": "complexity", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
        for axes, (across, up, across_label, up_label) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for form, marker in zip(forms, MARKERS, strict=False):
                axes.loglog(
                    samples[across],
                    samples[f"{form}:{up}"],
                    marker=marker,
                    markersize=4,
                    linewidth=1,
                    label=form.replace("_", " "),
                )
            axes.set(xlabel=across_label, ylabel=up_label)
            axes.set_xticks(list(samples[across]), [f"{length:g}" for length in samples[across]])
            axes.minorticks_off()
        figure.axes[0].legend(frameon=False, fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _measured(numbers: Sequence[float]) -> bool:
    return any(number > 0 and math.isfinite(number) for number in numbers)

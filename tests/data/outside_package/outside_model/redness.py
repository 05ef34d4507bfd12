"""How red a clip is."""

from __future__ import annotations

from collections.abc import Mapping

from harness.contracts import Clip, Metric, Value


class Redness(Metric):
    """The mean of the red channel, 0 to 255."""

    values = (Value("redness", "grey levels", "none", "mean red"),)

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The mean of the red channel."""
        return {"redness": float(clip.read()[..., 0].mean())}

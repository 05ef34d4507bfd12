"""VBench long: the six dimensions of a clip in pieces; or, to compare with published rows, upstream's own run of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .loading import Networks
from .long_range import TABLES, mapped
from .pieces import IN_CLIP_LINKS, LONG_LINKS, score_pieces, summary
from .upstream_long import run_upstream


@dataclass
class Plan:
    """What to score.

    Attributes:
        networks: loaded as needed.
        dimensions: those wanted.
        seconds: length of a piece.
        upstream: run upstream's own code.
        weights: of the in-clip and of the long-range half of the consistency dimensions. Without a weight on the
            second, pieces are compared by the in-clip features and their similarity stands beside the score.
    """

    networks: Networks
    dimensions: Sequence[str]
    seconds: float
    upstream: bool
    weights: tuple[float, float]

    def score(self, clip: Any) -> dict[str, Any]:
        """Each dimension of one clip, and the numbers of its pieces."""
        if self.upstream:
            return run_upstream(self.networks, Path(clip.path), self.dimensions, self.weights, clip.frames)
        in_clip, long_range = self.weights
        links, least = (LONG_LINKS, 2) if long_range else (IN_CLIP_LINKS, 1)
        known = clip.frames, clip.frame_rate
        pieces = score_pieces(
            self.networks, clip.path, self.dimensions, self.seconds, clip.prompt, links, least, *known
        )
        out = summary(pieces)
        for name in LONG_LINKS if long_range else ():
            table = self.networks.path(TABLES[name])
            out[f"{name}_long_range"] = mapped(table, out[f"{name}_clip_to_clip"])
            out[name] = in_clip * out[f"{name}_in_clip"] + long_range * out[f"{name}_long_range"]
        return out

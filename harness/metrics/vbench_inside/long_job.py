"""VBench long: the six dimensions of a clip in pieces; or, to compare with published rows, upstream's own run of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .loading import Networks
from .pieces import score_pieces, summary
from .upstream_long import run_upstream


@dataclass
class Plan:
    """What to score.

    Attributes:
        networks: loaded as needed; a run of upstream loads its own.
        dimensions: those wanted.
        seconds: length of a piece.
        compat: `none` for this project's definition, `upstream` for upstream's own numbers.
    """

    networks: Networks
    dimensions: Sequence[str]
    seconds: float
    compat: str

    def score(self, clip: Any) -> dict[str, Any]:
        """Each dimension of one clip, and the numbers of its pieces."""
        if self.compat == "upstream":
            return run_upstream(self.networks, Path(clip.path), self.dimensions)
        return summary(score_pieces(self.networks, clip.path, self.dimensions, self.seconds, clip.prompt))

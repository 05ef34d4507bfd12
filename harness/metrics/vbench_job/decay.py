"""How alike frames are that lie so far apart: mean cosine of their features by distance, in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

DISTANCES = (2, 5, 10, 20, 50)
"""Frames between the two of a pair, as issue 206 of Vchitect/VBench proposes."""


class Decay:
    """Mean cosine similarity over all pairs of frames at each distance. Keeps as many features as the largest one."""

    def __init__(self, distances: Sequence[int] = DISTANCES) -> None:
        self.totals = dict.fromkeys(distances, 0.0)
        self.pairs = dict.fromkeys(distances, 0)
        self._latest: deque[torch.Tensor] = deque(maxlen=max(distances))

    def push(self, features: torch.Tensor) -> None:
        """Take the next frames' features [n, d], of any length."""
        for feature in torch.nn.functional.normalize(features.float(), dim=-1):
            for distance in self.totals:
                if distance <= len(self._latest):
                    self.totals[distance] += float(feature @ self._latest[-distance])
                    self.pairs[distance] += 1
            self._latest.append(feature)

    def means(self) -> dict[int, float]:
        """The mean by distance, of those that the clip has pairs for."""
        return {distance: self.totals[distance] / count for distance, count in self.pairs.items() if count}

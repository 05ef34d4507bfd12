"""Types that all contracts share: JSON values, pixels, options, availability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

Frames = NDArray[np.uint8]
"""Pixels, uint8 [batch, frames, height, width, 3], or [frames, height, width, 3] for a single clip."""

Direction = Literal["higher", "lower", "zero", "none"]
"""Which way a value is better; `zero` is the nearer to 0 the better, as for a drift or a change over a clip."""


class Options(BaseModel):
    """Base of every plug-in's options: unknown keys are refused, values are checked and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a plug-in can run here; when not, why, and the command that mends it."""

    ready: bool
    reason: str = ""
    fix: str = ""

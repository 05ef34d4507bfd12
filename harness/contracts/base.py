"""Types that all contracts share: JSON values, pixels, options, availability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, WithJsonSchema

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

Frames = NDArray[np.uint8]
"""Pixels, uint8 [batch, frames, height, width, 3], or [frames, height, width, 3] for a single clip."""

Direction = Literal["higher", "lower", "zero", "none"]
"""Which way a value is better; `zero` is the nearer to 0 the better, as for a drift or a change over a clip."""


class Options(BaseModel):
    """Base of every plug-in's options: unknown keys are refused, values are checked and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class PathRule:
    """Marks an option that names a file or folder."""


FilePath = Annotated[str, PathRule(), WithJsonSchema({"type": "string", "format": "path"})]
"""The path of a file or folder as an option: relative to the suite file that says it, with `--set` to the current
folder. Empty where there is none."""


def path_options(schema: type[Options]) -> list[str]:
    """The options of `schema` that are a `FilePath`."""
    return [
        name
        for name, option in schema.model_fields.items()
        if any(isinstance(mark, PathRule) for mark in option.metadata)
    ]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a plug-in can run here; when not, why, and the command that mends it."""

    ready: bool
    reason: str = ""
    fix: str = ""

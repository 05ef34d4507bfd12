"""Types that all contracts share: JSON values, pixels, options, availability."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

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


def _never(text: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class PathRule:
    """Marks an option that names a file or folder, or the entries of one that names several.

    Attributes:
        is_name: says of a text that it is no path, as a word for weights that ship. Such texts stay as they are.
        may_be_name: says of a text that it is no path unless something is there, as `org/name` on a hub.
        inside: the option that names the folder which the paths lie in; without that they are as any others.
        keyed: the text is part of keys, so that an absolute path stays as it is written.
    """

    is_name: Callable[[str], bool] = _never
    may_be_name: Callable[[str], bool] = _never
    inside: str = ""
    keyed: bool = False


PATH_SCHEMA = WithJsonSchema({"type": "string", "format": "path"})
"""How the reference names the type of such an option."""
FilePath = Annotated[str, PathRule(), PATH_SCHEMA]
"""The path of a file or folder as an option: relative to the suite file that says it, with `--set` to the current
folder. Empty where there is none."""


def path_options(schema: type[Options]) -> dict[str, PathRule]:
    """The options of `schema` that name files or folders, and the rule of each."""
    rules = {name: _rule([*option.metadata, option.annotation]) for name, option in schema.model_fields.items()}
    return {name: rule for name, rule in rules.items() if rule is not None}


def _rule(parts: Iterable[Any]) -> PathRule | None:
    """The first rule among annotations and what stands in them."""
    for part in parts:
        if isinstance(part, PathRule):
            return part
        if rule := _rule([*getattr(part, "__metadata__", ()), *get_args(part)]):
            return rule
    return None


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a plug-in can run here; when not, why, and the command that mends it."""

    ready: bool
    reason: str = ""
    fix: str = ""

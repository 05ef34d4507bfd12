"""Types that all contracts share: JSON values, pixels, options, availability."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

Frames = NDArray[np.uint8]
"""Pixels, uint8 [batch, frames, height, width, 3], or [frames, height, width, 3] for a single clip."""

Direction = Literal["higher", "lower", "zero", "none"]
"""Which way a value is better; `zero` is the nearer to 0 the better, as for a drift or a change over a clip."""


NO_TRUTH = "must be a number, not true or false"


def truth_as_number(value: object, checked: object) -> bool:
    """Whether pydantic read a true or false, of `value` or of its lists and mappings, as a number of `checked`."""
    if isinstance(value, bool):
        return isinstance(checked, int | float) and not isinstance(checked, bool)
    if isinstance(value, Mapping) and isinstance(checked, Mapping):
        value, checked = list(value.values()), list(checked.values())
    if isinstance(value, list | tuple) and isinstance(checked, list | tuple):
        return any(map(truth_as_number, value, checked))
    return False


class Options(BaseModel):
    """Base of every plug-in's options: unknown keys are refused, values are checked and frozen.

    Numbers may be written as texts, and are finite; true and false are none.
    """

    # Not finite numbers besides: JSON, and so a key, would have null for each of them.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _no_truth_for_a_number(cls, values: object, check: ModelWrapValidatorHandler[Self]) -> Self:
        checked = check(values)
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if truth_as_number(value, getattr(checked, name, None)):
                fault = InitErrorDetails(type=PydanticCustomError("truth", NO_TRUTH), loc=(name,), input=value)
                raise ValidationError.from_exception_data(cls.__name__, [fault])
        return checked


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

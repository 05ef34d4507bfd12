"""The base of every mapping in a file that users write, and the texts that may name things. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,79}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
LABEL = r"[^\x00-\x1f\x7f:]{0,120}"
Label = Annotated[str, Field(pattern=f"^{LABEL}$")]


class Part(BaseModel):
    """Base of every mapping in a suite: unknown keys are refused, values are strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

"""What the adapters of programs share: whose interpreter, which files decide the clips, what the clips are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.contracts import PATH_SCHEMA, FilePath, Options, PathRule
from harness.errors import NotAvailable
from harness.system.digests import file_sha256

InFolder = Annotated[str, PathRule(inside="folder"), PATH_SCHEMA]
"""A path inside the option `folder`."""


class ProgramOptions(Options):
    """A program in an environment of its own.

    Attributes:
        python: interpreter of the program's own environment.
        files: scripts and weights whose content decides the clips; their digests are part of every key. They lie
            in `folder`; without that their paths are as any others.
        revision: change it when the program changes in a way that `files` does not show.
        environment: variables to add. PYTHONPATH and the like are not inherited.
        folder: working directory of the program, the current one where empty.
        height, width, frame_rate, chunk: of the clips. family: what makes them, for the card.
    """

    python: str = "python3"
    files: tuple[InFolder, ...] = ()
    revision: str = ""
    environment: Mapping[str, str] = Field(default_factory=dict)
    folder: FilePath = ""
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    frame_rate: float = Field(default=16.0, gt=0)
    chunk: int = Field(default=16, ge=1)
    family: str = "program"


def digests(folder: str, files: Sequence[str]) -> dict[str, str]:
    """SHA-256 of `files` in `folder`, by file name, by the whole one where two are alike. Raises `NotAvailable`."""
    by_name: dict[str, str] = {}
    for name in files:
        path = Path(folder) / name
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise NotAvailable(f"file {path} cannot be read: {error.strerror}", "correct `files`") from error
        by_name[path.name if path.name not in by_name else name] = digest
    return by_name

"""The manifest of weights: every file that can be fetched, with its host, licence, digest and place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.errors import HarnessError, nearest
from harness.system.files import weights_folder

MANIFEST = Path(__file__).with_name("manifest.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(gt=0, le=1)]


Colour = tuple[Share, Share, Share]
Spread = tuple[Size, Size, Size]


class Preparation(BaseModel):
    """How frames become the input of an image network, and its activation.

    Attributes:
        mean, std: of red, green and blue between 0 and 1, which each frame is normalised by.
        interpolation, resize: how it is brought to the network's square. quick_gelu: x sigmoid(1.702 x) for GELU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: Colour
    std: Spread
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["shortest", "squash", "longest"] = "shortest"
    quick_gelu: bool = False


class File(BaseModel):
    """One file of a set.

    Attributes:
        path: where it belongs, below the set's folder. links: other places below it that must hold the same file.
        url: where it is published; `member` is the file wanted when that is a zip archive.
        text: its content, for a small file that no host gives.
        bytes: its exact size where that is known. about: approximate megabytes to download, for people.
        sha256: its digest where one is published; `sha256_prefix` its first digits.
        licence: of the file. ask: the name by which it must be asked for; empty when it comes by itself.
        groups: what needs it, as in a dimension of VBench; none means everything in the set.
        preparation: of weights of an image network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    licence: str
    url: str = ""
    member: str = ""
    text: str = ""
    bytes: int | None = None
    about: float = 0.0
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    sha256_prefix: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""
    ask: str = ""
    groups: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    preparation: Preparation | None = None

    @field_validator("path", "links")
    @classmethod
    def _inside(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for path in [value] if isinstance(value, str) else value:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"{path} leads out of the weights folder")
        return value

    @property
    def host(self) -> str:
        """The host that publishes it; empty for a written file."""
        return self.url.split("/")[2] if self.url else ""


class WeightSet(BaseModel):
    """The files of one `harness fetch NAME`.

    Attributes:
        repository: Hub id `org/name` under which a model's option names these files; empty for those of a metric.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = ""
    title: str
    repository: Annotated[str, Field(pattern=r"^([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)?$")] = ""
    files: tuple[File, ...]

    @property
    def groups(self) -> list[str]:
        """Every group of its files, sorted."""
        return sorted({group for file in self.files for group in file.groups})

    @property
    def folder(self) -> Path:
        """Where its files belong: below `$VIDEOMLA_WEIGHTS`, or the user's cache folder."""
        return weights_folder() / (self.repository or self.name)

    def choose(self, only: Sequence[str] = (), asked: Sequence[str] = ()) -> tuple[list[File], list[File]]:
        """The files to fetch, and those left out because they must be asked for by name.

        Args:
            only: groups to take; all of them when empty.
            asked: names given by the user for files with `ask`.
        """
        for group in only:
            if group not in self.groups:
                raise HarnessError(f"weights {self.name} have no part {group!r}", nearest(group, self.groups))
        names = {file.ask for file in self.files if file.ask}
        for name in asked:
            if name not in names:
                raise HarnessError(f"weights {self.name} have nothing called {name!r}", nearest(name, names))
        needed = self.needed(only)
        to_fetch = [file for file in needed if not file.ask or file.ask in asked]
        return to_fetch, [file for file in needed if file not in to_fetch]

    def needed(self, groups: Sequence[str] = ()) -> list[File]:
        """Every file that `groups` need (all of the set when empty), asked for or not."""
        return [file for file in self.files if not groups or not file.groups or set(file.groups) & set(groups)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every set by name."""

    sets: dict[str, WeightSet]

    def get(self, name: str) -> WeightSet:
        """The set `name`. Raises `HarnessError` with the nearest names."""
        if name not in self.sets:
            raise HarnessError(f"unknown weights {name!r}", nearest(name, self.sets))
        return self.sets[name]


def read_manifest(path: Path = MANIFEST) -> Manifest:
    """The manifest at `path`, by default the project's own."""
    sets = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Manifest({name: WeightSet(name=name, **body) for name, body in sets.items()})

"""The schema of prompts in a suite: sets of them, scripts, and the points at which they switch. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from harness.suite.part import Part


class PrefixFile(Part):
    """An image or a video that the clips of a prompt continue; `sha256`, `frames` and size are filled in on load.

    Attributes:
        file: relative to the file that names it; in a loaded suite, as the process finds it.
        sha256, frames, height, width: of the file; filled in on load.
        turned: whether the file has a display matrix that turns its frames; filled in on load.
    """

    file: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    frames: Annotated[int, Field(ge=0)] = 0
    height: Annotated[int, Field(ge=0)] = 0
    width: Annotated[int, Field(ge=0)] = 0
    turned: bool = False


def nothing(value: object) -> bool:
    """What plans leave out, so that those of suites without it are as they were before there was any."""
    return not value


def _absent(value: object) -> bool:
    return value is None


REPEATED, BLANK, COMMENT = "repeated", "blank", "comment"
"""Why a line of prompts makes no clip of its own."""
Dropped = Annotated[dict[str, list[int]], Field(exclude_if=nothing)]
"""Numbers of lines by the reason for which they were dropped."""


def _several(value: object) -> list[object]:
    """One text or number as a list of texts."""
    several = value if isinstance(value, list) else [value]
    return [str(each) if isinstance(each, bool | int | float) else each for each in several]


Categories = Annotated[list[str], BeforeValidator(_several)]
"""The values of one attribute that a prompt has."""


class PromptSet(Part):
    """A named list of prompts. In a loaded suite `texts` holds each once, in order of first appearance, up to `limit`.

    Attributes:
        texts: the prompts themselves, when they are written in the suite. One that continues an image or a video is
            written `{text: …, prefix: FILE}`; then all of the set do.
        scripts: scripts that are written in the suite, each a list of prompts: the first, and those that `switches`
            bring one by one. An empty one stands for no new prompt. In a loaded suite they are the sections'.
        prefixes: the files of `texts`, one a text, or none. Filled in on load.
        file: a text file with one prompt a line, or `.csv` or `.jsonl` with `column`; relative to the suite.
        comments: whether a line of a text file that begins with `#` is a prompt (`keep`) or none (`drop`).
        folder: a folder of clips, whose names `<prompt>-<i>.mp4` hold the prompts where there are no texts and no file;
            relative to the suite.
        column: the column (CSV) or key (JSONL) that holds the prompt, or in JSONL a script, as a list of prompts.
        prefix_column: the one that holds the file of its prefix, relative to the prompt file; none unless given.
        identity: the one that holds what clips of the prompt are known by, as the short prompt of VBench where longer
            or translated ones make the clips; the prompt itself unless given.
        identities: what clips of each text are known by, where it is not the text. Filled in on load.
        sha256: digest of the file's bytes; the file is refused when it differs. Filled in on load.
        limit: take the first so many.
        attributes: by name, the values of each text, as concept or motion level; one, or a list. Of a CSV or JSONL file
            they are its other columns, filled in on load; those of long texts are left out.
        longest_script: prompts of the longest script; 0 without scripts. Filled in on load.
        dropped: numbers of the lines that are `repeated`, `blank` or a `comment`. Filled in on load.
    """

    texts: list[str] = []
    scripts: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(exclude_if=nothing)] = []
    prefixes: list[PrefixFile] = []
    file: str = ""
    comments: Annotated[Literal["drop", "keep"], Field(exclude_if=lambda choice: choice == "drop")] = "drop"
    folder: Annotated[str, Field(exclude_if=nothing)] = ""
    column: str = "prompt"
    prefix_column: str = ""
    identity: Annotated[str, Field(exclude_if=nothing)] = ""
    identities: Annotated[list[str], Field(exclude_if=nothing)] = []
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    limit: Annotated[int, Field(ge=1)] | None = None
    attributes: Annotated[dict[str, list[Categories]], Field(exclude_if=nothing)] = {}
    longest_script: Annotated[int, Field(exclude_if=nothing)] = 0
    dropped: Dropped = {}

    @model_validator(mode="before")
    @classmethod
    def _with_prefixes(cls, value: object) -> object:
        """Texts that are written with their prefix, as two lists."""
        if not isinstance(value, dict):
            return value
        texts = value.get("texts")
        if not isinstance(texts, list) or not any(isinstance(text, dict) for text in texts):
            return value
        if any(not isinstance(text, dict) or set(text) != {"text", "prefix"} for text in texts):
            raise ValueError("where one prompt is written {text: …, prefix: FILE}, all of the set must be")
        files = [{"file": text["prefix"]} for text in texts]
        return {**value, "texts": [text["text"] for text in texts], "prefixes": files}

    @model_validator(mode="after")
    def _one_each(self) -> PromptSet:
        if self.identities and len(self.identities) != len(self.texts):
            raise ValueError(f"{len(self.identities)} identities for {len(self.texts)} texts")
        if self.prefixes and len(self.prefixes) != len(self.texts):
            raise ValueError(f"{len(self.prefixes)} prefixes for {len(self.texts)} texts")
        for name, values in self.attributes.items():
            if len(values) != (count := len(self.texts or self.scripts)):
                raise ValueError(f"attribute {name!r} has {len(values)} entries for {count} texts")
        return self


class SwitchEntry(Part):
    """From a point of a clip on, its prompt gives way to another.

    The point is one of `frame`, `latent` and `second`. Prompt i of the section gives way to prompt i of the set
    `prompts`, by lines before blank and repeated ones are dropped; a blank line stands for no new prompt. A set of one
    prompt serves all. Without `prompts` it gives way to the next one of its own script. A model switches at the first
    frame of its first chunk that starts there or later; records hold that frame, and metrics judge from it.

    Attributes:
        frame: first pixel frame of the new prompt. latent: first latent frame of it, as LongLive and MemFlow count;
            frame 40 of Wan's VAE is pixel frame 157. second: seconds after which it comes, at the model's frame rate.
        prompts: name of a prompt set; that of the section unless given, which then holds scripts.
    """

    frame: Annotated[int | None, Field(ge=1, exclude_if=_absent)] = None
    latent: Annotated[int | None, Field(ge=1, exclude_if=_absent)] = None
    second: Annotated[float | None, Field(gt=0, le=1e6, exclude_if=_absent)] = None
    prompts: Annotated[str, Field(exclude_if=nothing)] = ""

    @model_validator(mode="after")
    def _one_point(self) -> SwitchEntry:
        if sum(point is not None for point in (self.frame, self.latent, self.second)) != 1:
            raise ValueError("a switch is at one of `frame`, `latent` and `second`")
        return self


def points(value: object) -> object:
    """`{latent: [40, 80]}` as a switch at each of the points; a list as it is."""
    if not isinstance(value, dict):
        return value
    return [
        {unit: point} for unit, points in value.items() for point in (points if isinstance(points, list) else [points])
    ]


class ScriptEntry(Part):
    """The prompts of one clip, of a section whose prompts switch.

    Attributes:
        prompt: number of the first one in the section's set. later: what each switch brings; empty for no new prompt.
    """

    prompt: Annotated[int, Field(ge=0)]
    later: list[str]

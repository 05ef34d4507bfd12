"""Clips that exist already, as a model: named as VBench names them, or listed in a CSV file."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.contracts import Frames, Json, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.errors import ClipError, NotAvailable, OptionError
from harness.system import video
from harness.system.digests import file_sha256
from harness.system.text import without_quote

ENDINGS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")


class FolderOptions(Options):
    """Where the clips are.

    Attributes:
        path: the folder; relative to the working directory.
        index: a CSV file in it with the columns `prompt`, `file` (or `path`), and `seed` or `index`; without one,
            clips are found by VBench's names, `<prompt>-<i>.mp4`, and i is the seed.
        chunk: frames handed on at a time.
        family: what made the clips, for the card.
    """

    path: str
    index: str = ""
    chunk: int = Field(default=16, ge=1)
    family: str = "folder"


class FolderModel(VideoModel):
    """Plays back the clip of a prompt and seed. Its card takes size and rate from the first clip it finds."""

    version = "2"
    schema = FolderOptions
    unkeyed: ClassVar[tuple[str, ...]] = ("path", "index")

    def describe(self) -> ModelCard:
        """The card. Raises `NotAvailable` for a folder without clips, `ClipError` for one that cannot be read."""
        first = next(iter(self._clips.values()), None)
        if first is None:
            raise NotAvailable(
                f"no clips in {self.options.path}", "name them <prompt>-<i>.mp4, or list them in a CSV file (`index`)"
            )
        first_head = video.head(first)
        return ModelCard(
            family=self.options.family,
            height=first_head.height,
            width=first_head.width,
            frame_rate=first_head.frame_rate or 16.0,
            frames_per_chunk=self.options.chunk,
        )

    def request_identity(self, prompt: str, seed: int) -> Mapping[str, Json]:
        """The digest of the clip's file; null where there is none, whose unit then fails."""
        path = self._path(prompt, seed)
        try:
            return {"file": file_sha256(path) if path and path.is_file() else None}
        except OSError as error:
            raise ClipError(f"{path} cannot be read: {error.strerror}") from error

    def file(self, request: Request) -> Path | None:
        """The clip's own file where it is what was asked for, so that metrics see the pixels that its maker wrote.

        One that is longer, no mp4 or no H.264 is played by `stream` and encoded anew.
        """
        path = self._path(request.prompts[0], request.seeds[0])
        if request.switches or request.prefixes or path is None or path.suffix.lower() != ".mp4":
            return None
        try:
            head, card = video.head(path), self.describe()
            asked = (request.frames, card.height, card.width)
            same = (head.frames, head.height, head.width) == asked and video.codec(path) == "h264"
        except ClipError:
            return None  # `stream` says what is wrong with it
        return path if same else None

    def batch_may_change_pixels(self, device: str) -> bool:
        """Each clip is a file of its own."""
        return False

    def check_request(self, request: Request) -> None:
        """Clips that exist have one prompt, and nobody says what they continued."""
        super().check_request(request)
        if request.switches:
            raise OptionError("existing clips cannot switch their prompt", "leave it out of the section (`models:`)")

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """The first `request.frames` frames of each clip, `chunk` at a time."""
        self.check_request(request)
        clips = [self._frames(*pair, request.frames) for pair in zip(request.prompts, request.seeds, strict=True)]
        for chunks in zip(*clips, strict=True):
            yield np.stack(chunks)

    def _frames(self, prompt: str, seed: int, frames: int) -> Iterator[Frames]:
        path = self._path(prompt, seed)
        if path is None:
            raise ClipError(f"no clip of seed {seed} for the prompt {prompt[:80]!r} in {self.options.path}")
        for chunk in video.stream(path, self.options.chunk):
            yield chunk[:frames]
            frames -= len(chunk)
            if frames <= 0:
                return

    def _path(self, prompt: str, seed: int) -> Path | None:
        return self._clips.get((prompt, seed)) or self._named(prompt, seed)

    def _named(self, prompt: str, seed: int) -> Path | None:
        """A clip by VBench's name. A prompt with a separator names none, so that no other folder is reached."""
        if self.options.index or "/" in prompt or "\\" in prompt or "\0" in prompt:
            return None
        names = (Path(self.options.path) / f"{prompt}-{seed}{ending}" for ending in ENDINGS)
        try:
            return next((path for path in names if path.is_file()), None)
        except OSError:
            return None

    @functools.cached_property
    def _clips(self) -> Mapping[tuple[str, int], Path]:
        """Clips by prompt and seed: all that the index lists, or all that are named as VBench names them."""
        folder = Path(self.options.path)
        if not folder.is_dir():
            raise NotAvailable(f"folder {self.options.path} does not exist", "give the folder of the clips as `path`")
        if self.options.index:
            return _read_index(folder / self.options.index, folder)
        paths: dict[tuple[str, int], Path] = {}
        for path in sorted(folder.iterdir()):
            prompt, dash, number = path.stem.rpartition("-")
            if dash and prompt and path.suffix.lower() in ENDINGS and number.isascii() and number.isdigit():
                paths.setdefault((prompt, int(number)), path)
        return paths


def _read_index(path: Path, folder: Path) -> Mapping[tuple[str, int], Path]:
    """Clips as a CSV file lists them. Raises `ClipError` with the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"{path} cannot be read: {error}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    names = rows.fieldnames or []
    where = next((name for name in ("file", "path") if name in names), None)
    number = next((name for name in ("seed", "index") if name in names), None)
    if "prompt" not in names or where is None or number is None:
        has = ", ".join(names)
        raise ClipError(f"{path}:1: needs the columns prompt, file (or path), and seed (or index); it has {has}")
    paths: dict[tuple[str, int], Path] = {}
    for row in rows:
        try:
            key = (without_quote(row["prompt"] or ""), int(row[number]))
        except (ValueError, TypeError) as error:
            raise ClipError(f"{path}:{rows.line_num}: {number} is no whole number: {row[number]!r}") from error
        if key in paths:
            raise ClipError(f"{path}:{rows.line_num}: prompt {key[0][:60]!r} with {number} {key[1]} is listed twice")
        if not row[where]:
            raise ClipError(f"{path}:{rows.line_num}: {where} is empty")
        paths[key] = folder / without_quote(row[where])
    return paths

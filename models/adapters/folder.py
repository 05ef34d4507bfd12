"""Clips that exist already, as a model: named as VBench names them, or listed in a CSV file."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.contracts import (
    ClipFile,
    ClipState,
    FilePath,
    Frames,
    Json,
    ModelCard,
    Options,
    Request,
    Spans,
    VideoModel,
    no_spans,
)
from harness.errors import ClipError, NotAvailable, OptionError, nearest
from harness.system import clip_names, source_clips, video
from harness.system.digests import file_sha256
from harness.system.files import read_limited, reason
from harness.system.text import without_quote

LARGEST_INDEX = 64 << 20
"""Bytes of a list of clips."""


class FolderOptions(Options):
    """Where the clips are.

    Attributes:
        path: the folder.
        index: a CSV file in it with the columns `prompt`, `file` (or `path`), and `seed` or `index`; without one,
            clips are found by VBench's names, `<prompt>-<i>.mp4` (any container and codec that FFmpeg decodes), and i
            is the seed.
        where: rows of the index to take, by column, as in `{arm: dense}`.
        frame_rate: frames per second that every clip is resampled to, by the rule of FFmpeg's filter `fps`; None keeps
            each clip's own, and refuses one whose rate varies.
        chunk: frames handed on at a time.
        family: what made the clips, for the card.
    """

    path: FilePath
    index: str = ""
    where: Mapping[str, str] = Field(default_factory=dict)
    frame_rate: float | None = Field(default=None, gt=0, le=1000)
    chunk: int = Field(default=16, ge=1)
    family: str = "folder"


class FolderModel(VideoModel):
    """The clip of a prompt and seed. Its card takes size and rate from the first clip that can be read."""

    version = "3"
    schema = FolderOptions
    unkeyed: ClassVar[tuple[str, ...]] = ("path", "index", "where", "chunk")
    existing: ClassVar[bool] = True

    def describe(self) -> ModelCard:
        """The card. Raises `NotAvailable` where no clip can be read, `ClipError` for a wrong index."""
        return ModelCard(
            family=self.options.family,
            height=self._first.height,
            width=self._first.width,
            frame_rate=self.options.frame_rate or self._first.frame_rate or 16.0,
            frames_per_chunk=self.options.chunk,
        )

    @functools.cached_property
    def _first(self) -> video.ClipInfo:
        fault: ClipError | None = None
        for path in self._clips.values():
            try:
                return source_clips.survey(path, 2).info
            except ClipError as error:
                fault = fault or error
        why = f"; the first of {len(self._clips)}: {fault.message}" if fault else ""
        raise NotAvailable(
            f"no clips in {self.options.path}{why}", "name them <prompt>-<i>.mp4, or list them in a CSV file (`index`)"
        )

    def request_identity(self, prompt: str, seed: int) -> Mapping[str, Json]:
        """The digest of the clip's file; null where there is none that can be read, whose unit then fails."""
        path = self._clips.get((prompt, seed))
        try:
            return {"file": file_sha256(path) if path and path.is_file() else None}
        except OSError:
            return {"file": None}

    def file(self, request: Request) -> ClipFile:
        """The clip's own file, so that metrics see the pixels that its maker wrote."""
        self.check_request(request)
        return ClipFile(self._path(request.prompts[0], request.seeds[0]), frame_rate=self.options.frame_rate)

    def inventory(self, clips: Sequence[tuple[str, int]] | None, frames: int, decode: bool) -> Sequence[ClipState]:
        """As in `VideoModel`. Raises `NotAvailable` for a folder that cannot be read, `ClipError` for a wrong index."""
        groups = self._groups
        here = [clip for clip, files in groups.items() if not clip_names.is_text(files[0])]
        asked = here if clips is None else clips
        states = [self._state(*clip, frames, decode) for clip in dict.fromkeys(asked)]
        surplus = sorted(set(here) - set(asked))
        states += [ClipState(*clip, groups[clip][0].name, "surplus", "nothing asks for it") for clip in surplus]
        return [*states, *self._unlisted()]

    def _unlisted(self) -> Iterator[ClipState]:
        """Files of the folder that its index does not list; nobody knows where only some of its rows are taken."""
        folder = Path(self.options.path)
        if not self.options.index or self.options.where:
            return
        listed = {path.resolve() for files in self._groups.values() for path in files}
        for path in sorted(folder.iterdir()):
            passed = path.name.startswith(".") or not path.is_file() or path.resolve() in listed
            if not passed and not clip_names.is_text(path):
                yield ClipState("", 0, path.name, "surplus", "the index does not list it")

    def _state(self, prompt: str, seed: int, frames: int, decode: bool) -> ClipState:
        files = self._groups.get((prompt, seed), [])
        name = ", ".join(path.name for path in files)
        if not files:
            return ClipState(prompt, seed, "", "missing", self._hint(prompt))
        if not files[0].is_file():
            return ClipState(prompt, seed, name, "missing", "there is no such file")
        if len(files) > 1:
            return ClipState(
                prompt, seed, name, "twice", "leave one of them, or list the clips in a CSV file (`index`)"
            )
        try:
            count, detail = self._length(files[0], decode)
        except ClipError as error:
            return ClipState(prompt, seed, name, "unreadable", error.message.removeprefix(f"{files[0]} "))
        if count < frames:
            return ClipState(prompt, seed, name, "too short", f"{detail}; {frames} are asked for")
        return ClipState(prompt, seed, name, "ok", detail)

    def _length(self, path: Path, decode: bool) -> tuple[int, str]:
        """Frames of a clip, and what else is to be said of it. Raises `ClipError` for one that would be refused."""
        rate = self.options.frame_rate
        if not decode:
            count, varies = source_clips.counted(path)
            if varies and not rate:
                raise ClipError("a frame rate that varies; give `frame_rate`")
            return count, f"{count} frames"
        clip = source_clips.survey(path)
        info = clip.info
        if clip.varies and not rate:
            raise ClipError(f"a frame rate that varies, {info.frame_rate:.3f} in the mean; give `frame_rate`")
        count = len(source_clips.resampled(clip.times, rate)) if rate and clip.times else info.frames
        facts = f"{count} frames of {info.height}x{info.width} at {rate or info.frame_rate:g}"
        return count, "; ".join([facts, *clip.notes])

    def batch_may_change_pixels(self, device: str) -> bool:
        """Each clip is a file of its own."""
        return False

    def check_request(self, request: Request) -> None:
        """Clips that exist have one prompt, and nobody says what they continued."""
        super().check_request(request)
        if request.switches:
            raise OptionError("existing clips cannot switch their prompt", "leave it out of the section (`models:`)")

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """The first `request.frames` frames of each clip, `chunk` at a time, at its own rate."""
        self.check_request(request)
        clips = [self._frames(*pair, request.frames) for pair in zip(request.prompts, request.seeds, strict=True)]
        for chunks in zip(*clips, strict=True):
            yield np.stack(chunks)

    def _frames(self, prompt: str, seed: int, frames: int) -> Iterator[Frames]:
        for chunk in video.stream(self._path(prompt, seed), self.options.chunk):
            yield chunk[:frames]
            frames -= len(chunk)
            if frames <= 0:
                return

    def _path(self, prompt: str, seed: int) -> Path:
        path = self._clips.get((prompt, seed))
        if path is None:
            where = self.options.path
            raise ClipError(f"no clip of seed {seed} for the prompt {prompt[:80]!r} in {where}", self._hint(prompt))
        return path

    def _hint(self, prompt: str) -> str:
        """What is there in place of a clip of `prompt`."""
        seeds = sorted(number for text, number in self._groups if text == prompt)
        prompts = {text for text, _ in self._groups}
        return (f"its seeds are {seeds}" if seeds else nearest(prompt[:200], prompts))[:400]

    @functools.cached_property
    def _clips(self) -> Mapping[tuple[str, int], Path]:
        """Clips by prompt and seed: all that the index lists, or all that are named as VBench names them."""
        folder = Path(self.options.path)
        for (prompt, seed), files in self._groups.items():
            if len(files) > 1:
                names = ", ".join(path.name for path in files)
                raise ClipError(
                    f"{folder}: {len(files)} files are the clip of {prompt[:60]!r} with seed {seed}: {names[:300]}",
                    "leave one of them there, or list the clips in a CSV file (`index`)",
                )
        return {key: files[0] for key, files in self._groups.items()}

    @functools.cached_property
    def _groups(self) -> Mapping[tuple[str, int], list[Path]]:
        """The files of each prompt and seed, several where names do not tell them apart."""
        folder = Path(self.options.path)
        if self.options.index and folder.is_dir():
            listed = _read_index(folder / self.options.index, folder, self.options.where)
            return {key: [path] for key, path in listed.items()}
        return clip_names.by_name(folder)


def _read_index(path: Path, folder: Path, where: Mapping[str, str]) -> Mapping[tuple[str, int], Path]:
    """Clips as a CSV file lists them. Raises `ClipError` with the line."""
    try:
        text = read_limited(path, LARGEST_INDEX).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names, listed = rows.fieldnames or [], [(rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClipError(f"{path} cannot be read: {reason(error)}") from error
    file = next((name for name in ("file", "path") if name in names), None)
    number = next((name for name in ("seed", "index") if name in names), None)
    if "prompt" not in names or file is None or number is None:
        has = ", ".join(names)
        raise ClipError(f"{path}:1: needs the columns prompt, file (or path), and seed (or index); it has {has}")
    if absent := [name for name in where if name not in names]:
        raise ClipError(f"{path}:1: has no column {absent[0]!r}, which `where` names; it has {', '.join(names)}")
    paths: dict[tuple[str, int], Path] = {}
    for line, row in listed:
        if any(without_quote(row[name] or "") != value for name, value in where.items()):
            continue
        try:
            key = (without_quote(row["prompt"] or ""), int(row[number]))
        except (ValueError, TypeError) as error:
            raise ClipError(f"{path}:{line}: {number} is no whole number: {row[number]!r}") from error
        if key in paths:
            others = [name for name in names if name not in ("prompt", "seed", "index", "file", "path")]
            fix = f"take the rows of one of them: `where: {{{others[0]}: {row[others[0]]}}}`" if others else ""
            raise ClipError(f"{path}:{line}: prompt {key[0][:60]!r} with {number} {key[1]} is listed twice", fix)
        if not row[file]:
            raise ClipError(f"{path}:{line}: {file} is empty")
        paths[key] = folder / without_quote(row[file])
    return paths

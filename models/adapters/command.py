"""Any program that writes a clip, run in its own environment: one process a clip, with a time limit."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.contracts import ClipFile, Frames, Json, ModelCard, Request, Spans, VideoModel, no_spans
from harness.errors import ClipError, ModelFault, NotAvailable, OptionError
from harness.system import video
from harness.system.guarded import Guarded
from harness.system.stream_process import environment
from videomla_models.adapters.program import ProgramOptions, digests

LOG_LINES = 50
"""Last lines of the program's output that its error shows."""
_FIELD = re.compile(r"\{(python|prompt_file|prompt|seed|frames|out|device|switches_file|prefix_file)\}")


class CommandOptions(ProgramOptions):
    """The program, and what its clips are like.

    Attributes:
        argv: program and arguments, given to the system as they are, without a shell. These words are replaced in
            each: {prompt_file} (UTF-8, the prompt alone), {prompt}, {seed}, {frames}, {out} (where to write the clip,
            ending in .mp4; it is kept as it was written, at its own frame rate), {device}, {switches_file} (JSON list
            of [frame, prompt]), {prefix_file} (what the clip continues, at its size: a PNG for one frame, a lossless
            mp4 for more; no part of the clip), {python}.
        timeout: seconds until the program and its children are killed.
    """

    argv: tuple[str, ...] = Field(min_length=1)
    timeout: float = Field(default=3600, gt=0)
    family: str = "command"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # an argument may be too long for a name, or hold a NUL
        return False


class CommandModel(VideoModel):
    """A program as a model: each clip is one run of it, so speed includes its start.

    Whatever it starts ends with it, also what it leaves in the background. A prompt is someone's text: give `{prompt}`
    as an argument of its own, and never inside the text of a shell, as in `sh -c "make {prompt}"`, which would run it.
    A program in a shell takes it as "$1": `[sh, -c, 'make "$1"', sh, "{prompt}"]`.

    It is told the frame that a prompt switch is asked for; where it then switches, it cannot say.
    """

    version = "2"
    schema = CommandOptions
    unkeyed: ClassVar[tuple[str, ...]] = ("python", "folder", "files", "timeout")

    def describe(self) -> ModelCard:
        """The card, as the options give it."""
        options: CommandOptions = self.options
        return ModelCard(
            family=options.family,
            height=options.height,
            width=options.width,
            frame_rate=options.frame_rate,
            frames_per_chunk=options.chunk,
            weight_digests=self._digests,
        )

    @functools.cached_property
    def _digests(self) -> Mapping[str, str]:
        return digests(self.options.folder, self.options.files)

    def unkeyed_files(self) -> list[Path]:
        """What `argv` names, alone or after `=`, and `files` does not."""
        folder = Path(self.options.folder)
        keyed = {(folder / name).resolve() for name in self.options.files}
        words = [word for part in self.options.argv for word in (part, part.partition("=")[2]) if word]
        paths = [(folder / word).resolve() for word in words]
        return [path for path in dict.fromkeys(paths) if _is_file(path) and path not in keyed]

    def batch_may_change_pixels(self, device: str) -> bool:
        """Each clip is a run of the program by itself."""
        return False

    def check_request(self, request: Request) -> None:
        """A program takes the switches and the prefix that its arguments name."""
        parts = {"{switches_file}": request.switches, "{prefix_file}": request.prefixes}
        for word, part_of_request in parts.items():
            if part_of_request and not any(word in part for part in self.options.argv):
                what = "switch of the prompt" if part_of_request is request.switches else "image or video prefix"
                raise OptionError(f"the program takes no {what}", f"put {word} into `argv`")

    def load(self, device: str) -> None:
        """Find the program. Raises `NotAvailable`."""
        self._device = device
        program = self._fill(self.options.argv[0], {"python": self.options.python})
        if (
            shutil.which(program, path=environment(self.options.environment).get("PATH")) is None
            and not (Path(self.options.folder) / program).is_file()
        ):
            raise NotAvailable(f"program {program!r} is not here", "correct `argv` or `python`")

    def file(self, request: Request) -> ClipFile:
        """Run the program for the one clip of the request; its file."""
        self.check_request(request)
        scratch = tempfile.TemporaryDirectory(prefix="videomla-bench-")
        try:
            clip = self._make(request, 0, Path(scratch.name))
        except BaseException:
            scratch.cleanup()
            raise
        size = self.options.height, self.options.width
        return ClipFile(clip, size, cut=False, release=scratch.cleanup)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Run the program for every clip of the batch, then play them back."""
        self.check_request(request)
        with tempfile.TemporaryDirectory(prefix="videomla-bench-") as scratch:
            clips = []
            for number in range(request.batch):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                clips.append(video.stream(self._make(request, number, folder), self.options.chunk))
            for chunks in zip(*clips, strict=True):
                yield np.stack(chunks)

    def _make(self, request: Request, number: int, folder: Path) -> Path:
        """Run the program for one clip of the batch; the clip's file."""
        out = folder / "clip.mp4"
        prompt = request.prompts[number]
        switches: Json = [[switch.frame, switch.prompts[number]] for switch in request.switches]
        (folder / "prompt.txt").write_text(prompt, encoding="utf-8", newline="")
        (folder / "switches.json").write_text(json.dumps(switches), encoding="utf-8")
        fields = {
            "python": self.options.python,
            "prompt_file": str(folder / "prompt.txt"),
            "prompt": prompt,
            "seed": str(request.seeds[number]),
            "frames": str(request.frames),
            "out": str(out),
            "device": getattr(self, "_device", "cpu"),
            "switches_file": str(folder / "switches.json"),
        }
        if request.prefixes:
            pixels = request.prefixes[number].read()
            prefix = folder / ("prefix.png" if len(pixels) == 1 else "prefix.mp4")
            video.write_lossless(prefix, pixels, self.options.frame_rate)
            fields["prefix_file"] = str(prefix)
        log = folder / "log.txt"
        status = self._run([self._fill(part, fields) for part in self.options.argv], log)
        if status is None:
            raise ModelFault(f"the program did not end in {self.options.timeout:g} s{_tail(log)}")
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
            raise ModelFault(f"the program {how}{_tail(log)}")
        if not out.is_file():
            raise ClipError(f"the program wrote no clip to {{out}}{_tail(log)}")
        return out

    @staticmethod
    def _fill(part: str, fields: Mapping[str, str]) -> str:
        """Replace the words in one pass, so that a prompt with braces in it stays as it is."""
        return _FIELD.sub(lambda match: fields.get(match[1], match[0]), part)

    def _run(self, argv: list[str], log: Path) -> int | None:
        """The program's exit status, negative for a signal; None when it was killed for taking too long."""
        folder, variables = self.options.folder, environment(self.options.environment)
        with log.open("wb") as output:
            try:
                program = Guarded(argv, folder=folder, variables=variables, stdout=output, stderr=subprocess.STDOUT)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ModelFault(f"the program cannot be started: {reason}") from error
            with program, suppress(subprocess.TimeoutExpired):
                return program.wait(self.options.timeout)
            return None


def _tail(log: Path) -> str:
    """The last lines of the program's output, after a line of their own."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 16384))
        lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    return "; its last output:\n" + "\n".join(lines) if lines else "; it printed nothing"

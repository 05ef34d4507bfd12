"""The ffmpeg program: it makes clips of every kind, and decodes them independently of PyAV."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Frames

PROGRAM: str = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
CONVERT = "bicubic+accurate_rnd+bitexact+full_chroma_inp+full_chroma_int"
"""How this project converts planes to RGB; FFmpeg's own default rounds down, by about 1 in the mean."""
MOVING = "testsrc2=size=96x64:rate=16:duration=1"
"""A picture that moves: 16 frames of 64x96."""
SMOOTH = f"{MOVING},gblur=sigma=4,format=yuv420p"
"""The same without sharp edges, which every filter of chroma shows alike."""


def ffmpeg(*arguments: object) -> bytes:
    """Run the program; what it writes to standard output."""
    command = [PROGRAM, "-hide_banner", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def make(path: Path, *arguments: object, source: str = SMOOTH) -> Path:
    """A clip of a generated picture."""
    ffmpeg("-f", "lavfi", "-i", source, *arguments, path)
    return path


def again(path: Path, source: Path, *arguments: object, before: tuple[object, ...] = ()) -> Path:
    """The same packets in another file; `before` are options of the input."""
    ffmpeg(*before, "-i", source, "-c", "copy", *arguments, path)
    return path


def decode(path: Path, height: int, width: int, *filters: str) -> Frames:
    """The upright frames, uint8 [frames, height, width, 3], as ffmpeg decodes them."""
    chain = ("-vf", ",".join(filters)) if filters else ()
    raw = ("-sws_flags", CONVERT, "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-")
    pixels = ffmpeg("-i", path, "-map", "0:v:0", *chain, *raw)
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)

"""Open a clip that anyone may have made and give its frames upright; damage is an error, never a picture.

What every clip's frames are:

- The stream is the first that is no cover picture. Frames come in the order in which they are shown.
- The display matrix is applied, as FFmpeg does by default: quarter turns and flips. Any other one is refused.
- Interlaced frames stay woven, pixels that are not square stay as stored, and HDR (PQ, HLG) is converted by its matrix
  and range without tone mapping: FFmpeg's defaults too.
- Alpha is dropped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from harness.contracts import Frames
from harness.errors import ClipError, HarnessError
from harness.system.files import open_regular

MAX_SIDE = 16384
"""Pixels of a side, beyond which a file is refused unread."""
_SMALL = 256 * 256
"""Pixels of a frame, below which one thread decodes it faster than several."""
_LARGE = 7680 * 4320
"""Pixels of a frame, beyond which one thread decodes it."""
_SIZE = re.compile(r"videomla-bench size=(\d+)x(\d+)")

FORMATS = (
    "mov,mp4,matroska,webm,avi,gif,apng,webp_pipe,mpegts,mpeg,mpegvideo,ogg,flv,asf,yuv4mpegpipe,ivf,nut,mxf,dv,"
    "h264,hevc,m4v,obu"
)
"""Containers that are read: self-contained ones. A playlist could make the reader open other files or addresses."""
IMAGES = "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
"""The same for images: each holds one picture, and names no other file."""


@cache
def scaling() -> Any:
    """How pixels are converted, the same on every machine."""
    return (
        Interpolation.BICUBIC
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.FULL_CHR_H_INT
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """What brings a stored frame upright: first its axes are swapped, then it is flipped."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def __call__(self, pixels: Frames) -> Frames:
        """`pixels`, [height, width, 3], upright."""
        if self.swap:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


UPRIGHT = Turn()
ORIENTATIONS = {
    1: UPRIGHT,
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
"""By EXIF's tag 0x0112 (CIPA DC-008, orientation)."""
_EXIF = re.compile(rb"(?:Exif\0\0|EXIF....|eXIf)(II\*\0|MM\0\*)", re.DOTALL)
HEAD = 1 << 16
"""Bytes of an image in which its EXIF data is looked for."""


def exif_turn(head: bytes) -> Turn:
    """The turn that EXIF data in the first bytes of an image asks for; none where there is no such data."""
    match = _EXIF.search(head)
    if match is None:
        return UPRIGHT
    start, order = match.start(1), "<" if match[1][:2] == b"II" else ">"
    try:
        (offset,) = struct.unpack_from(f"{order}I", head, start + 4)
        (count,) = struct.unpack_from(f"{order}H", head, start + offset)
        for place in range(start + offset + 2, start + offset + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", head, place)
            if tag == 0x0112:
                return ORIENTATIONS.get(value, UPRIGHT)
    except struct.error:  # cut short, or not what it says
        pass
    return UPRIGHT


def turn_of(frame: Any, file: IO[bytes]) -> Turn | None:
    """The turn that a decoded frame's display matrix asks for; None for one by other than quarter turns and flips."""
    try:
        entry = frame.side_data.get(SideData.DISPLAYMATRIX)
    except ValueError:
        # PyAV lists no side data at all where one kind is younger than it, as EXIF's, of which the matrix is made.
        place = file.tell()
        file.seek(0)
        head = file.read(HEAD)
        file.seek(place)
        return exif_turn(head)
    if entry is None:
        return UPRIGHT
    # Rows (a b u), (c d v), (x y w): the stored point (p, q) is shown at (a p + c q + x, b p + d q + y).
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(entry), np.int32).reshape(3, 3).astype(np.int64)
    if not (b or c) and a and d:
        return Turn(False, bool(a < 0), bool(d < 0))
    if not (a or d) and b and c:
        return Turn(True, bool(c < 0), bool(b < 0))
    return None


@contextmanager
def open_clip(source: Path | IO[bytes], formats: str = FORMATS, name: str = "the clip") -> Iterator[Reader]:
    """An open clip; FFmpeg's errors, on opening and while it is read, become `ClipError`."""
    name = str(source) if isinstance(source, Path) else name
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open_regular(source)) if isinstance(source, Path) else source
            file.seek(0)
            # Clips are untrusted. FFmpeg would open a playlist, or an address in it, as readily as a video.
            limits = {"format_whitelist": formats, "protocol_whitelist": "file"}
            with _decoding(name):
                container = stack.enter_context(av.open(file, "r", options=limits, metadata_errors="replace"))
                reader = Reader(name, container, file)
            yield reader
    except av.error.FFmpegError as error:
        raise ClipError(f"{name} cannot be decoded: {error.strerror}") from error
    except OSError as error:
        raise ClipError(f"{name} cannot be read: {error.strerror or error}") from error


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Inside, PyAV works on what anyone may have made; what it raises besides FFmpeg's errors is damage, too."""
    try:
        yield
    except (av.error.FFmpegError, HarnessError):
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ClipError(f"{name} cannot be decoded: {type(error).__name__}: {error}", "bring it here again") from error


class Reader:
    """The frames of an open container.

    Attributes:
        stream: the video stream that is read. streams: how many there are, cover pictures not counted.
        height, width: pixels of a frame; upright as soon as the first one is decoded, as stored before.
        frame_rate: frames per second as the header has it, 0 where it has none.
        turn: what brings frames upright, from the first decoded one on.
    """

    def __init__(self, name: str, container: Any, file: IO[bytes]) -> None:
        self.name = name
        self._file = file
        self.container = container
        videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not videos:
            raise ClipError(f"{name} has no picture")
        stream = self.stream = videos[0]
        if stream.codec_context is None:
            raise ClipError(f"{name} holds pictures of a kind that FFmpeg does not decode")
        self.streams = len(videos)
        self.height, self.width = int(stream.height), int(stream.width)
        # Decoded frames are the same however many threads decode them. Small ones are not worth starting any; of large
        # ones each thread holds several, on a machine of many cores more than its memory.
        stream.thread_count = 0 if _SMALL <= self.height * self.width <= _LARGE else 1
        # Without it a decoder covers damage up with pixels of its own making. Those of images do not, and some refuse
        # whole files with it.
        if not container.format.name.endswith("_pipe"):
            stream.codec_context.options = {"err_detect": "explode"}
        self._check_size()
        # A comment may say anything, so it only counts where it differs by the padding alone.
        true_size = _SIZE.search(container.metadata.get("comment", ""))
        if true_size and 0 <= self.height - int(true_size[1]) <= 1 and 0 <= self.width - int(true_size[2]) <= 1:
            self.height, self.width = int(true_size[1]), int(true_size[2])
        self.frame_rate = float(stream.average_rate or 0)
        self.turn = UPRIGHT
        # One for all frames: setting up a conversion costs more than converting a small frame.
        self._converter = VideoReformatter()
        self._stored: tuple[int, int] | None = None

    def _check_size(self) -> None:
        if not min(self.height, self.width):
            codec = self.stream.codec_context.name
            raise ClipError(f"{self.name} has no size that can be read ({codec}, {self.container.format.name})")
        if max(self.height, self.width) > MAX_SIDE:
            raise ClipError(f"{self.name} has a size of {self.height}x{self.width} (at most {MAX_SIDE} a side)")

    def frames(self) -> Iterator[Any]:
        """Decoded frames, in order. Raises `ClipError` for damage, and for a size that changes."""
        for number, frame in enumerate(self._decoded()):
            if self._stored is None:
                with _decoding(self.name):
                    self._begin(frame)
            elif (frame.height, frame.width) != self._stored:
                raise ClipError(f"{self.name} changes its size at frame {number}")
            yield frame

    def _decoded(self) -> Iterator[Any]:
        with _decoding(self.name):
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    raise ClipError(f"{self.name} cannot be decoded: its data is damaged", "bring it here again")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise ClipError(f"{self.name} cannot be decoded: a frame is damaged", "bring it here again")
                    yield frame

    def _begin(self, frame: Any) -> None:
        self._stored = frame.height, frame.width
        turn = turn_of(frame, self._file)
        if turn is None:
            raise ClipError(f"{self.name} is to be shown turned by no quarter turn", "turn its frames yourself")
        self.turn = turn
        if turn.swap:
            self.height, self.width = self.width, self.height

    def pixels(self, frame: Any) -> Frames:
        """A decoded frame upright, as uint8 [height, width, 3]."""
        with _decoding(self.name):
            picture = self._converter.reformat(frame, format="rgb24", interpolation=scaling(), threads=1)
            stored = np.asarray(picture.to_ndarray(), dtype=np.uint8)
        if self.turn == UPRIGHT:
            return stored[: self.height, : self.width]
        height, width = (self.width, self.height) if self.turn.swap else (self.height, self.width)
        return self.turn(stored[:height, :width])

"""Check that the frames in an MP4 are those the model made.

Each H.264 packet is decoded and hashed as it is written. The packets are then looked up in the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av

from harness.errors import ClipError

PLANAR = ("yuv420p", "yuvj420p", "yuv444p", "yuvj444p", "gray", "rgb24")
"""Formats whose planes are digested as decoded; any other is brought to rgb24 first."""

_START = re.compile(rb"\x00*\x00\x00\x01")
_PARAMETER_SETS = (7, 8)
"""Unit types of sequence and picture parameter sets (H.264, table 7-1)."""


class FrameDigest:
    """The digest of decoded frames, in order: of each its format, size and planes."""

    def __init__(self) -> None:
        self.count = 0
        self._sha = hashlib.sha256()

    def add(self, frame: Any) -> None:
        """Take in the next frame, in a format of `PLANAR`."""
        self._sha.update(f"{frame.format.name} {frame.height}x{frame.width}\n".encode())
        self._sha.update(frame.to_ndarray().tobytes())
        self.count += 1

    def digest(self) -> str:
        """SHA-256 of all so far."""
        return self._sha.hexdigest()


class Encoded:
    """The units that an encoder made, and the frames that a reader will decode from them."""

    def __init__(self) -> None:
        self.frames = FrameDigest()
        self._units = hashlib.sha256()
        self._parameters: list[bytes] = []
        self._decoder: Any = None

    def observe(self, packets: Sequence[Any], encoder: Any) -> Sequence[Any]:
        """Decode and hash the next packets of `encoder`; returns them unchanged."""
        for packet in packets:
            if self._decoder is None:
                self._start(bytes(encoder.extradata or b""))
            for unit in by_start_codes(bytes(packet)):
                _add_unit(self._units, unit)
            self._decode(packet)
        return packets

    def finish(self) -> None:
        """Decode what the decoder still holds back."""
        if self._decoder is not None:
            self._decode(None)

    def matches(self, packets: Iterable[bytes], header: bytes | None) -> bool:
        """Whether an mp4 file's packets hold these units and no others, and the header of its stream their sets."""
        file_units = hashlib.sha256()
        for packet in packets:
            for unit in by_lengths(packet):
                _add_unit(file_units, unit)
        same = file_units.digest() == self._units.digest()
        return same and all(unit in (header or b"") for unit in self._parameters)

    def _start(self, header: bytes) -> None:
        self._decoder = av.CodecContext.create("h264", "r")
        self._decoder.extradata, self._decoder.thread_count = header, 1
        # The low five bits of a unit's first byte are its type (H.264, section 7.3.1).
        self._parameters = [unit for unit in by_start_codes(header) if unit[0] & 31 in _PARAMETER_SETS]

    def _decode(self, packet: Any) -> None:
        for frame in self._decoder.decode(packet):
            self.frames.add(frame)


def by_start_codes(data: bytes) -> list[bytes]:
    """The units of a byte stream, as an encoder gives them (H.264, annex B)."""
    return [unit for unit in _START.split(data) if unit]


def by_lengths(data: bytes) -> Iterator[bytes]:
    """The units of a packet in an mp4 file, each after its length in four bytes. Raises `ClipError` for less."""
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise ClipError("a packet of the clip is cut short")
        yield data[at + 4 : end]
        at = end


def _add_unit(sha: hashlib._Hash, unit: bytes) -> None:
    # Its length first: the same bytes cut into other units must have another digest.
    sha.update(len(unit).to_bytes(8, "big"))
    sha.update(unit)

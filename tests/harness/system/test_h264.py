"""Units of H.264: the digest taken while encoding is the reader's, and a file that holds anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from harness.errors import ClipError
from harness.system import h264, video

Made = tuple[h264.Encoded, list[bytes], bytes]


def footage(frames: int, height: int, width: int) -> np.ndarray:
    """Noise that drifts, so that there is motion to code."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width + frames, 3)).astype(np.uint8)
    return np.stack([picture[:, n : n + width] for n in range(frames)])


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast", "medium"])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (2, 31, 17), (9, 64, 48), (300, 16, 32)])
def test_the_digest_is_that_of_the_file(tmp_path: Path, frames: int, height: int, width: int, preset: str) -> None:
    found = video.write(tmp_path / "a.mp4", [footage(frames, height, width)], 8.0, 20, preset)
    read = video.inspect(tmp_path / "a.mp4")
    assert read.digest == found["digest"]
    assert (read.frames, read.height, read.width) == (frames, height, width)
    assert (found["frames"], found["height"], found["width"], found["frame_rate"]) == (frames, height, width, 8.0)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """What an encoder made, and the packets and the header of the file that holds it."""
    encoded = h264.Encoded()
    container = av.open(str(tmp_path / "a.mp4"), "w")
    stream = container.add_stream("libx264", rate=8)
    stream.height = stream.width = 32
    stream.pix_fmt = "yuv420p"
    for pixels in footage(12, 32, 32):
        packets = stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        container.mux(list(encoded.observe(packets, stream.codec_context)))
    container.mux(list(encoded.observe(stream.encode(), stream.codec_context)))
    encoded.finish()
    container.close()
    with av.open(str(tmp_path / "a.mp4")) as reader:
        header = bytes(reader.streams.video[0].codec_context.extradata or b"")
        return encoded, [bytes(packet) for packet in reader.demux(video=0) if packet.size], header


def flipped(data: bytes) -> bytes:
    """`data` with its last bit turned."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda packets, header: (packets, header), True),
        (lambda packets, header: ([flipped(packets[0]), *packets[1:]], header), False),
        (lambda packets, header: ([*packets[:-1], flipped(packets[-1])], header), False),
        (lambda packets, header: (packets[:-1], header), False),
        (lambda packets, header: (packets + packets[-1:], header), False),
        (lambda packets, header: (packets[::-1], header), False),
        (lambda packets, header: (packets, header[:12]), False),
        (lambda packets, header: (packets, None), False),
    ],
    ids=["as made", "first", "last", "one less", "one more", "order", "cut header", "no header"],
)
def test_a_file_holds_what_was_encoded_or_not(
    made: tuple[h264.Encoded, list[bytes], bytes],
    change: Callable[[list[bytes], bytes], tuple[list[bytes], bytes]],
    same: bool,
) -> None:
    encoded, packets, header = made
    assert encoded.frames.count == len(packets) == 12
    assert encoded.matches(*change(packets, header)) is same


def test_units_by_start_code_and_by_length() -> None:
    assert h264.by_start_codes(b"\0\0\0\1ab\0\0\1c\0\0\0\1\0\0\1d") == [b"ab", b"c", b"d"]
    assert list(h264.by_lengths(b"\0\0\0\2ab\0\0\0\1c")) == [b"ab", b"c"]
    assert list(h264.by_lengths(b"")) == []


def test_a_packet_cut_short_is_a_clip_error() -> None:
    with pytest.raises(ClipError, match="cut short"):
        list(h264.by_lengths(b"\0\0\0\3ab"))

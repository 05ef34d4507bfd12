"""Write and read clips (H.264, yuv420p, mp4, through PyAV), and hash their decoded frames.

Colours are converted as FFmpeg does for a file without colour tags (BT.601, limited range). The field's readers assume
the same. The digest is of the decoded planes, not of pixels in RGB: H.264 decodes to the same planes on every machine,
while the conversion to RGB may round differently. Equal frames give equal files: the encoder has one thread, and x264's
macroblock tree is off (it reads memory that it never wrote, core 165). yuv420p needs even sizes. An odd side is padded
by repeating its last row or column. The file's comment holds the true size, to which `read` crops.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from harness.contracts import Frames, Json
from harness.errors import ClipError
from harness.system import files, h264
from harness.system.reader import FORMATS, IMAGES, UPRIGHT, open_clip, scaling

MAX_WHOLE = 2**32
"""Pixels of a clip that is read as a whole: 12.9 GB, as of 10,700 frames of 832x480."""
LARGEST_CHUNK = 2**28
"""Bytes of decoded frames that are handed on at once."""

_ENCODER = re.compile(rb"x264 - core (\d+)")


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What a clip file holds: its frames, size in pixels, frames per second, and the digest of its decoded frames."""

    frames: int
    height: int
    width: int
    frame_rate: float
    digest: str


def write(path: Path, chunks: Iterable[Frames], frame_rate: float, crf: int, preset: str) -> Mapping[str, Json]:
    """Write `chunks` (uint8 [frames, height, width, 3], equal sizes) to `path`, whole or not at all.

    Returns the record's `clip`: bytes, sha256, digest, frames, height, width, frame_rate and encoder settings. The
    encoder's packets are decoded as they come. The file is read again, and takes its place only if it holds just those
    packets. Raises `StorageError`, `ClipError`, and whatever `chunks` raises (an `OSError` of theirs would be taken for
    the disk's).
    """
    facts: dict[str, Json] = {}

    def fill(file: IO[bytes]) -> None:
        encoded = h264.Encoded()
        count = _encode(file, chunks, Fraction(frame_rate).limit_denominator(1001), crf, preset, encoded)
        file.flush()
        info = _read_back(file, encoded)
        if info.frames != count:
            raise ClipError(f"{path.name}: wrote {count} frames, but {info.frames} can be read")
        size, sha256, core = _file_facts(file)
        facts.update(asdict(info), bytes=size, sha256=sha256)
        facts["encoder"] = {
            "codec": "libx264",
            "core": core,
            "pix_fmt": "yuv420p",
            "crf": crf,
            "preset": preset,
            "mbtree": False,
            "pyav": av.__version__,
        }

    files.write_atomic(path, fill)
    return facts


def _read_back(file: IO[bytes], encoded: h264.Encoded) -> ClipInfo:
    """What `inspect` would return of a file that holds just what was encoded. Raises `ClipError` if it does not."""
    # Equal packets decode equally, and comparing them is far cheaper than decoding the file again.
    with open_clip(file) as clip:
        stream = clip.stream
        packets = (bytes(packet) for packet in clip.container.demux(stream) if packet.size)
        if not encoded.matches(packets, stream.codec_context.extradata):
            raise ClipError(f"{clip.name} does not hold what was encoded")
        return ClipInfo(encoded.frames.count, clip.height, clip.width, clip.frame_rate, encoded.frames.digest())


def _encode(
    file: IO[bytes], chunks: Iterable[Frames], rate: Fraction, crf: int, preset: str, encoded: h264.Encoded
) -> int:
    """Encode into `file`, show each packet to `encoded`, and return the number of frames."""
    count = 0
    stream: Any = None
    converter, method, tick = VideoReformatter(), scaling(), 1 / rate
    container = av.open(file, "w", format="mp4")
    try:
        for chunk in chunks:
            for pixels in chunk:
                if stream is None:
                    stream = _add_stream(container, pixels, rate, crf, preset)
                picture = av.VideoFrame.from_ndarray(_even(pixels), format="rgb24")
                picture = converter.reformat(picture, format="yuv420p", interpolation=method, threads=1)
                picture.pts = count
                picture.time_base = tick
                container.mux(encoded.observe(stream.encode(picture), stream.codec_context))
                count += 1
        if stream is None:
            raise ClipError("a clip without frames cannot be written")
        container.mux(encoded.observe(stream.encode(), stream.codec_context))
        encoded.finish()
    except BaseException:
        # Closing writes the index of a file that is given up; its own failure must not hide the first one.
        with suppress(OSError, ValueError):
            container.close()
        raise
    container.close()
    return count


def _add_stream(container: Any, pixels: Frames, rate: Fraction, crf: int, preset: str) -> Any:
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        container.metadata["comment"] = f"videomla-bench size={height}x{width}"
    # Equal frames must give equal files (see the module): no threads, no macroblock tree.
    options = {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = height + height % 2, width + width % 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    return stream


def _even(pixels: Frames) -> Frames:
    height, width = pixels.shape[:2]
    # By the edge's own colours: in yuv420p they share a chroma sample, which any other colour would tint.
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(pixels)


def _file_facts(file: IO[bytes]) -> tuple[int, str, str]:
    """Bytes, SHA-256 and x264's core number, which the encoder writes into its first packet."""
    file.seek(0)
    sha, size, core = hashlib.sha256(), 0, ""
    while block := file.read(1 << 20):
        sha.update(block)
        size += len(block)
        if not core and (match := _ENCODER.search(block)):
            core = match.group(1).decode()
    return size, sha.hexdigest(), core


def inspect(source: Path | IO[bytes]) -> ClipInfo:
    """Decode the whole clip a frame at a time, for its size and digest. Raises `ClipError`."""
    digest = h264.FrameDigest()
    with open_clip(source) as clip:
        for frame in clip.frames():
            add_to(digest, frame)
        if not digest.count:
            raise ClipError(f"{clip.name} has no frames")
        return ClipInfo(digest.count, clip.height, clip.width, clip.frame_rate, digest.digest())


def head(path: Path) -> ClipInfo:
    """Size and rate as the file states them. Nothing is decoded: `digest` is empty, and `frames` 0 where not stated.

    Raises `ClipError`.
    """
    with open_clip(path) as clip:
        return ClipInfo(int(clip.stream.frames), clip.height, clip.width, clip.frame_rate, "")


def add_to(digest: h264.FrameDigest, frame: Any) -> None:
    """Take a decoded frame into a digest, by its planes where they are among `h264.PLANAR`, else by its pixels."""
    plain = frame.format.name in h264.PLANAR
    digest.add(frame if plain else frame.reformat(format="rgb24", interpolation=scaling()))


def plays_anywhere(path: Path) -> bool:
    """Whether every current browser plays a clip under the name of an mp4. Raises `ClipError`.

    That is H.264, VP9 or AV1 in 8-bit 4:2:0, in mp4; nobody plays H.264's lossless profile.
    """
    with open_clip(path) as clip:
        coded = clip.stream.codec_context
        known = coded.name in ("h264", "vp9", "av1", "libdav1d") and coded.profile != "High 4:4:4 Predictive"
        return known and clip.container.format.name.startswith("mov") and coded.pix_fmt in ("yuv420p", "yuvj420p")


def frames_at(path: Path, numbers: Collection[int]) -> Iterator[tuple[int, Frames]]:
    """Each of `numbers` in rising order and its frame, uint8 [height, width, 3], one at a time. Raises `ClipError`."""
    last = max(numbers)
    with open_clip(path) as clip:
        number = -1
        for number, frame in zip(range(last + 1), clip.frames(), strict=False):
            if number in numbers:
                yield number, clip.pixels(frame)
    if number < last:
        raise ClipError(f"{path} has no frame {last}")


def jpeg(pixels: Frames) -> bytes:
    """uint8 [height, width, 3] as a JPEG; an odd side loses its last row or column."""
    height, width = (side - side % 2 for side in pixels.shape[:2])
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = height, width, "yuvj420p", Fraction(1, 25)
    encoder.options = {"qmin": "3", "qmax": "5"}
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
    return b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None)))


def stream(path: Path, chunk: int) -> Iterator[Frames]:
    """Decoded pixels, uint8 [at most `chunk` frames, height, width, 3] at a time. Raises `ClipError`."""
    with open_clip(path) as clip:
        batch: list[Frames] = []
        for frame in clip.frames():
            batch.append(clip.pixels(frame))
            if len(batch) == chunk or sum(pixels.size for pixels in batch) > LARGEST_CHUNK:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


def read(path: Path) -> Frames:
    """The whole clip, uint8 [frames, height, width, 3]. Raises `ClipError`, also for more than `MAX_WHOLE` pixels."""
    chunks, pixels = [], 0
    for chunk in stream(path, 64):
        chunks.append(chunk)
        pixels += chunk.size // 3
        if pixels > MAX_WHOLE:
            most, size = MAX_WHOLE // chunk[0, ..., 0].size, f"{chunk.shape[1]}x{chunk.shape[2]}"
            raise ClipError(
                f"{path} is longer than {most:,} frames of {size}, the most that are read", "cut it shorter"
            )
    if not chunks:
        raise ClipError(f"{path} has no frames")
    return np.concatenate(chunks)


def pictures(file: IO[bytes], name: str, most: int, pixels: int) -> Iterator[Frames]:
    """The frames of an image or a video, uint8 [height, width, 3] each, one at a time, all of one size.

    Raises `ClipError` that starts with `name`, also for more than `most` frames, or more than `pixels` pixels in them.
    """
    with open_clip(file, f"{IMAGES},{FORMATS}", name) as clip:
        # Counted while decoding: a header may promise any number of frames.
        room = min(most, pixels // (clip.height * clip.width))
        empty = True
        for number, frame in enumerate(clip.frames()):
            if number >= room:
                of = f"{clip.height}x{clip.width}"
                raise ClipError(
                    f"{name} has more than {room} frames of {of}, the most that are taken", "cut it shorter"
                )
            yield clip.pixels(frame)
            empty = False
        if empty:
            raise ClipError(f"{name} has no frames")


def is_turned(file: IO[bytes], name: str) -> bool:
    """Whether a display matrix turns the frames of an image or a video. Raises `ClipError` that starts with `name`."""
    with open_clip(file, f"{IMAGES},{FORMATS}", name) as clip:
        return next(clip.frames(), None) is not None and clip.turn != UPRIGHT


def write_lossless(path: Path, pixels: Frames, frame_rate: float) -> None:
    """Write uint8 [frames, height, width, 3] without loss: a PNG of one frame, or an mp4 of H.264 in RGB."""
    rate = Fraction(frame_rate).limit_denominator(1001)
    if path.suffix == ".png":
        encoder = av.CodecContext.create("png", "w")
        encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = *pixels.shape[1:3], "rgb24", 1 / rate
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[0]), format="rgb24")
        path.write_bytes(b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None))))
        return
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264rgb", rate=rate, options={"crf": "0", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "rgb24"
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def scaled(pixels: Frames, height: int, width: int) -> Frames:
    """One frame, uint8 [height, width, 3], at another size, by FFmpeg's bicubic filter."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    picture = picture.reformat(width=width, height=height, format="rgb24", interpolation=scaling(), threads=1)
    return np.asarray(picture.to_ndarray(), dtype=np.uint8)

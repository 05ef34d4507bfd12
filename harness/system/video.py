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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from harness.contracts import Frames, Json
from harness.errors import ClipError
from harness.system import files, h264

MAX_SIDE = 16384
"""Pixels of a side, beyond which a file is refused unread."""
_SMALL = 256 * 256
"""Pixels of a frame, below which one thread decodes it faster than several."""
_SIZE = re.compile(r"videomla-bench size=(\d+)x(\d+)")
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


def keep(path: Path, source: Path, frames: int, height: int, width: int) -> Mapping[str, Json]:
    """Copy the clip `source` to `path` byte for byte, whole or not at all; it must have these frames and this size.

    Returns as `write`, without settings of an encoder. Raises `StorageError`, and `ClipError` for another clip.
    """
    facts: dict[str, Json] = {}

    def fill(file: IO[bytes]) -> None:
        try:
            file.write(source.read_bytes())
            file.flush()
        except FileNotFoundError as error:
            raise ClipError(f"{source} does not exist") from error
        info = inspect(file)
        if (info.frames, info.height, info.width) != (frames, height, width):
            has = f"{info.frames} frames of {info.height}x{info.width}"
            raise ClipError(f"{source} has {has}, not {frames} of {height}x{width}")
        size, sha256, _ = _file_facts(file)
        facts.update(asdict(info), bytes=size, sha256=sha256, encoder={"kept": "as it was"})

    files.write_atomic(path, fill)
    return facts


def _read_back(file: IO[bytes], encoded: h264.Encoded) -> ClipInfo:
    """What `inspect` would return of a file that holds just what was encoded. Raises `ClipError` if it does not."""
    # Equal packets decode equally, and comparing them is far cheaper than decoding the file again.
    with _open(file) as clip:
        stream = clip.container.streams.video[0]
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
    converter, flags = VideoReformatter(), _flags()
    container = av.open(file, "w", format="mp4")
    try:
        for chunk in chunks:
            for pixels in chunk:
                if stream is None:
                    stream = _add_stream(container, pixels, rate, crf, preset)
                picture = av.VideoFrame.from_ndarray(_even(pixels), format="rgb24")
                picture = converter.reformat(picture, format="yuv420p", interpolation=flags, threads=1)
                picture.pts = count
                picture.time_base = 1 / rate
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


@cache
def _flags() -> Any:
    return (
        Interpolation.BICUBIC
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.FULL_CHR_H_INT
    )


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
    with _open(source) as clip:
        for frame in clip.frames():
            plain = frame.format.name in h264.PLANAR
            digest.add(frame if plain else frame.reformat(format="rgb24", interpolation=_flags()))
        if not digest.count:
            raise ClipError(f"{clip.name} has no frames")
        return ClipInfo(digest.count, clip.height, clip.width, clip.frame_rate, digest.digest())


def head(path: Path) -> ClipInfo:
    """Size and rate as the file states them. Nothing is decoded: `digest` is empty, and `frames` 0 where not stated.

    Raises `ClipError`.
    """
    with _open(path) as clip:
        return ClipInfo(int(clip.container.streams.video[0].frames), clip.height, clip.width, clip.frame_rate, "")


def codec(path: Path) -> str:
    """FFmpeg's name of the codec of a clip, as in `h264`. Raises `ClipError`."""
    with _open(path) as clip:
        return str(clip.container.streams.video[0].codec_context.name)


def plays_anywhere(path: Path) -> bool:
    """Whether every current browser plays a clip: H.264, VP8, VP9 or AV1 in 8-bit 4:2:0. Raises `ClipError`."""
    with _open(path) as clip:
        coded = clip.container.streams.video[0].codec_context
        known = coded.name in ("h264", "vp8", "vp9", "av1", "libdav1d")
        return known and coded.pix_fmt in ("yuv420p", "yuvj420p")


def frames_at(path: Path, numbers: Collection[int]) -> Iterator[tuple[int, Frames]]:
    """Each of `numbers` in rising order and its frame, uint8 [height, width, 3], one at a time. Raises `ClipError`."""
    last = max(numbers)
    with _open(path) as clip:
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
    with _open(path) as clip:
        batch: list[Frames] = []
        for frame in clip.frames():
            batch.append(clip.pixels(frame))
            if len(batch) == chunk:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


def read(path: Path) -> Frames:
    """The whole clip, uint8 [frames, height, width, 3]. Raises `ClipError`."""
    chunks = list(stream(path, 64))
    if not chunks:
        raise ClipError(f"{path} has no frames")
    return np.concatenate(chunks)


def pictures(file: IO[bytes], name: str, most: int, pixels: int) -> Iterator[Frames]:
    """The frames of an image or a video, uint8 [height, width, 3] each, one at a time, all of one size.

    Raises `ClipError` that starts with `name`, also for more than `most` frames, or more than `pixels` pixels in them.
    """
    with _open(file, f"{_IMAGES},{_FORMATS}", name) as clip:
        # Counted while decoding: a header may promise any number of frames.
        room = min(most, pixels // (clip.height * clip.width))
        size = None
        for number, frame in enumerate(clip.frames()):
            if number >= room:
                of = f"{clip.height}x{clip.width}"
                raise ClipError(
                    f"{name} has more than {room} frames of {of}, the most that are taken", "cut it shorter"
                )
            if size not in (None, (frame.height, frame.width)):
                raise ClipError(f"{name} changes its size at frame {number}")
            size = frame.height, frame.width
            yield clip.pixels(frame)
        if size is None:
            raise ClipError(f"{name} has no frames")


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
    picture = picture.reformat(width=width, height=height, format="rgb24", interpolation=_flags(), threads=1)
    return np.asarray(picture.to_ndarray(), dtype=np.uint8)


_FORMATS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,ogg,flv"
"""Containers that are read: self-contained ones. A playlist could make the reader open other files or addresses."""
_IMAGES = "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
"""The same for images: each holds one picture, and names no other file."""


@contextmanager
def _open(source: Path | IO[bytes], formats: str = _FORMATS, name: str = "the clip") -> Iterator[_Reader]:
    """An open clip; FFmpeg's errors, on opening and while it is read, become `ClipError`."""
    name = str(source) if isinstance(source, Path) else name
    try:
        with ExitStack() as stack:
            file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            file.seek(0)
            # Clips are untrusted. FFmpeg would open a playlist, or an address in it, as readily as a video.
            limits = {"format_whitelist": formats, "protocol_whitelist": "file"}
            container = stack.enter_context(av.open(file, "r", options=limits))
            if not container.streams.video:
                raise ClipError(f"{name} has no picture")
            yield _Reader(name, container)
    except av.error.FFmpegError as error:
        raise ClipError(f"{name} cannot be decoded: {error.strerror}") from error
    except OSError as error:
        raise ClipError(f"{name} cannot be read: {error.strerror or error}") from error


class _Reader:
    """The frames of an open container, at their true size."""

    def __init__(self, name: str, container: Any) -> None:
        self.name = name
        self.container = container
        stream = container.streams.video[0]
        self.height, self.width = int(stream.height), int(stream.width)
        # Decoded frames are the same however many threads decode them; small ones are not worth starting any.
        stream.thread_count = 1 if self.height * self.width < _SMALL else 0
        if not 0 < max(self.height, self.width) <= MAX_SIDE:
            raise ClipError(f"{name} has a size of {self.height}x{self.width} (at most {MAX_SIDE} a side)")
        # A comment may say anything, so it only counts where it differs by the padding alone.
        true_size = _SIZE.search(container.metadata.get("comment", ""))
        if true_size and 0 <= self.height - int(true_size[1]) <= 1 and 0 <= self.width - int(true_size[2]) <= 1:
            self.height, self.width = int(true_size[1]), int(true_size[2])
        self.frame_rate = float(stream.average_rate or 0)
        # One for all frames: setting up a conversion costs more than converting a small frame.
        self._converter = VideoReformatter()

    def frames(self) -> Iterator[Any]:
        """Decoded frames, in order."""
        yield from self.container.decode(video=0)

    def pixels(self, frame: Any) -> Frames:
        """A decoded frame as uint8 [height, width, 3]."""
        picture = self._converter.reformat(frame, format="rgb24", interpolation=_flags(), threads=1)
        return np.asarray(picture.to_ndarray(), dtype=np.uint8)[: self.height, : self.width]

"""Take a clip that exists: its file as it is where every reader reads it alike, or else a copy without loss.

A clip keeps its own size, length and rate. It is copied (H.264 in mp4, in its own planes or in RGB) where frames are
cut off, resampled or turned, and where a package that scores clips cannot read its container or codec, or would take
another stream. The record says which, and why.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np

from harness.contracts import Json
from harness.errors import ClipError
from harness.system import files
from harness.system.digests import content_sha256
from harness.system.h264 import FrameDigest
from harness.system.reader import UPRIGHT, Reader, open_clip
from harness.system.video import ClipInfo, add_to, inspect

CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf", "yuv4mpegpipe"})
"""Containers, and below codecs, by FFmpeg's names, which PyAV, OpenCV 4.11 and decord 0.6 all read."""
CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg4", "ffv1", "mjpeg", "prores", "wmv2", "rawvideo"})
PLANES = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Formats of H.264 that a copy keeps; any other is copied in RGB."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (ITU-T H.273, table 3)."""
_LASTS = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)")
MOST_FRAMES = 1_000_000
"""Frames that a clip may have after it is resampled."""
JITTER = 0.02
"""Part of a frame's time by which a frame may come early or late in a clip of constant rate."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What decoding a clip showed.

    Attributes:
        info: of the frames that were decoded, upright. longer: there are more of them.
        container, codec, pix_fmt: by FFmpeg's names.
        times: when each frame is shown, in seconds, and when the last one ends; empty where the file has no times.
        varies: whether the frame rate does.
        notes: what a reader of scores should know, as that the frames are interlaced.
        reasons: why the file cannot be kept as it is.
        planar: whether a copy may keep the planes.
    """

    info: ClipInfo
    longer: bool
    container: str
    codec: str
    pix_fmt: str
    times: tuple[Fraction, ...]
    varies: bool
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    planar: bool = False

    def facts(self) -> dict[str, Json]:
        """The record's `source`."""
        info = self.info
        return {
            "container": self.container,
            "codec": self.codec,
            "pix_fmt": self.pix_fmt,
            "height": info.height,
            "width": info.width,
            "frame_rate": info.frame_rate,
            "notes": list(self.notes),
        }


def survey(source: Path | IO[bytes], most: int | None = None, until: float = math.inf) -> Survey:
    """Decode a clip: its first `most` frames, and none shown after `until` seconds. Raises `ClipError`."""
    with open_clip(source) as clip:
        frames = _Frames(clip)
        longer = any(frames.full(frame, most, until) for frame in clip.frames())
        if frames.first is None:
            raise ClipError(f"{clip.name} has no frames")
        times = frames.times()
        if not longer:
            _check_end(clip, times)
        rate, varies = frame_rate(times, _stated_rates(clip), frames.tick)
        info = ClipInfo(frames.digest.count, clip.height, clip.width, rate, frames.digest.digest())
        container, codec = clip.container.format.name, clip.stream.codec_context.name
        pix_fmt = frames.first.format.name
        odd = pix_fmt[-3:] != "44p" and (clip.height % 2 or clip.width % 2)
        planar = codec == "h264" and pix_fmt in PLANES and clip.turn == UPRIGHT and not odd
        notes, reasons = frames.notes(), _reasons(clip, frames.first)
        return Survey(info, longer, container, codec, pix_fmt, times, varies, notes, reasons, planar)


def _check_end(clip: Reader, times: Sequence[Fraction]) -> None:
    """Refuse a Matroska file that ends more than two frames before its end by its own tag: a transfer was cut."""
    match = _LASTS.fullmatch(str(clip.stream.metadata.get("DURATION", "")))
    if match is None or len(times) < 2:
        return
    hours, minutes, seconds = (Fraction(part) for part in match.groups())
    stated = hours * 3600 + minutes * 60 + seconds
    if stated > times[-1] + 2 * (times[-1] - times[0]) / (len(times) - 1):
        why = f"ends after {float(times[-1]):.2f} of the {float(stated):.2f} s that it states"
        raise ClipError(f"{clip.name} cannot be decoded: it {why}", "bring it here again")


def counted(source: Path) -> tuple[int, bool]:
    """Packets of a clip, which are its frames in nearly every file, and whether their rate varies; nothing is decoded.

    Raises `ClipError`.
    """
    with open_clip(source) as clip:
        count, shown = 0, []
        for packet in clip.container.demux(clip.stream):
            if packet.is_corrupt:
                raise ClipError(f"{source} cannot be decoded: its data is damaged", "bring it here again")
            if packet.size and not packet.is_discard:
                count += 1
                shown += [packet.pts] if packet.pts is not None else []
        if not count or len(shown) < count:
            return count, False
        tick = Fraction(clip.stream.time_base or 0)
        times = [pts * tick for pts in (*sorted(shown), max(shown))]
        return count, frame_rate(times, _stated_rates(clip), tick)[1]


@dataclass
class _Frames:
    """What the frames of an open clip have shown so far."""

    clip: Reader
    first: Any = None
    digest: FrameDigest = field(default_factory=FrameDigest)
    shown: list[int | None] = field(default_factory=list)
    end: int | None = None
    woven: bool = False

    @property
    def tick(self) -> Fraction:
        """Seconds between two times that the file can state."""
        return Fraction(self.first.time_base or self.clip.stream.time_base or 0)

    def full(self, frame: Any, most: int | None, until: float) -> bool:
        """Whether enough was seen before `frame`; takes it in where not."""
        self.first = self.first or frame
        start = self.shown[0] if self.shown else frame.pts
        if self.shown and start is not None and frame.pts is not None and (frame.pts - start) * self.tick > until:
            return True
        if len(self.shown) == most:
            return True
        add_to(self.digest, frame)
        self.shown.append(frame.pts)
        self.end = None if frame.pts is None or not frame.duration else frame.pts + frame.duration
        self.woven = self.woven or frame.interlaced_frame
        return False

    def times(self) -> tuple[Fraction, ...]:
        """As in `Survey`. Sorted: AVI states the times of frames in the order in which they are coded."""
        shown = sorted(pts for pts in self.shown if pts is not None)
        if len(shown) < len(self.shown):
            return ()
        last = shown[-1]
        step = (last - shown[0]) / (len(shown) - 1) if len(shown) > 1 else 0
        end = self.end if self.end is not None and self.end > last else last + step
        return tuple(Fraction(pts) * self.tick for pts in (*shown, end))

    def notes(self) -> tuple[str, ...]:
        """As in `Survey`."""
        clip, notes = self.clip, []
        aspect = Fraction(clip.stream.sample_aspect_ratio or 1)
        if clip.turn != UPRIGHT:
            notes.append("turned as its display matrix says")
        if aspect not in (0, 1):
            notes.append(f"pixels of {aspect.numerator}:{aspect.denominator}, taken as stored")
        if self.woven:
            notes.append("interlaced, frames taken woven")
        if int(self.first.color_trc) in HDR:
            notes.append(f"HDR ({HDR[int(self.first.color_trc)]}), not tone-mapped")
        if clip.streams > 1:
            notes.append(f"the first of {clip.streams} video streams")
        return tuple(notes)


def _stated_rates(clip: Reader) -> list[Fraction]:
    stream = clip.stream
    return [Fraction(rate) for rate in (stream.guessed_rate, stream.average_rate, stream.base_rate) if rate]


def _reasons(clip: Reader, first: Any) -> tuple[str, ...]:
    reasons = []
    if clip.turn != UPRIGHT:
        reasons.append("turned")
    if len(clip.container.streams.video) > 1:
        reasons.append("several video streams")
    if any(component.is_alpha for component in first.format.components):
        reasons.append("alpha dropped")
    if clip.container.format.name not in CONTAINERS:
        reasons.append(f"container {clip.container.format.name}")
    if clip.stream.codec_context.name not in CODECS:
        reasons.append(f"codec {clip.stream.codec_context.name}")
    return tuple(reasons)


def frame_rate(times: Sequence[Fraction], stated: Iterable[Fraction], tick: Fraction) -> tuple[float, bool]:
    """Frames per second of frames shown at `times` (the last is the end of the last one), and whether the rate varies.

    It is the first of the `stated` rates that foretells every frame's time to within the file's `tick` or `JITTER` of a
    frame, else the measured one. Where there are no times to hold it to, the first stated rate, or 0.
    """
    rates = list(stated)
    count = len(times) - 1
    if count < 2 or times[-2] <= times[0]:
        return float(rates[0] if rates else 0), False
    measured = (count - 1) / (times[-2] - times[0])
    # Frames hours apart have no rate of so small a denominator.
    for rate in filter(None, (*rates, measured.limit_denominator(1001), measured)):
        slack = max(tick, Fraction(JITTER) / rate)
        if all(abs(time - times[0] - number / rate) <= slack for number, time in enumerate(times[:-1])):
            return float(rate), False
    return float(measured), True


def resampled(times: Sequence[Fraction], rate: float) -> list[int]:
    """Which frame is shown in each frame of `rate` a second, by the rule of FFmpeg's filter `fps`.

    A frame's time is rounded to the nearest new one (half up). Each new frame is the last one that has begun. Raises
    `ClipError` for more than `MOST_FRAMES`: a file may state any time.
    """
    exact = Fraction(rate).limit_denominator(1001)
    slots = [math.floor(time * exact + Fraction(1, 2)) for time in times]
    if slots[-1] - slots[0] > MOST_FRAMES:
        raise ClipError(f"a clip of {float(times[-1] - times[0]):.0f} s would have more than {MOST_FRAMES} frames")
    chosen, number = [], 0
    for slot in range(slots[0], slots[-1]):
        while number + 1 < len(slots) - 1 and slots[number + 1] <= slot:
            number += 1
        chosen.append(number)
    return chosen


def take(
    path: Path,
    source: Path,
    frames: int | None = None,
    rate: float | None = None,
    cut: bool = True,
    size: tuple[int, int] | None = None,
    sha256: str = "",
) -> Mapping[str, Json]:
    """Bring the clip `source` to `path`, whole or not at all; its first `frames`, or all of them.

    Args:
        rate: frames per second that a clip of another rate, or of one that varies, is resampled to. None keeps its
            own, and refuses one that varies.
        cut: whether a longer clip is cut; otherwise it is refused.
        size: height and width that it must have; None for any.
        sha256: of the file, where it must be the one that was planned.

    Returns the record's `clip`: bytes, sha256, digest, frames, height, width, frame_rate, `encoder` (as it was, or how
    it was copied and why) and `source`. Raises `StorageError` and `ClipError`.
    """
    if not source.is_file():
        raise ClipError(f"{source} does not exist")
    clip = survey(source, None if rate and frames else frames, frames / rate + 1 if rate and frames else math.inf)
    if size not in (None, (clip.info.height, clip.info.width)):
        raise ClipError(f"{source} has frames of {clip.info.height}x{clip.info.width}, not {size[0]}x{size[1]}")
    chosen, reasons = _taken(source, clip, frames, rate, cut)
    facts: dict[str, Json] = {}

    def fill(file: IO[bytes]) -> None:
        if reasons:
            with source.open("rb") as whole:
                _check_same(source, _sha256(whole), sha256)
            facts.update(_copy(file, source, clip, chosen, rate or clip.info.frame_rate))
            facts["encoder"] = {**facts["encoder"], "because": reasons}  # type: ignore[dict-item]
        else:
            with source.open("rb") as bytes_of_source:
                shutil.copyfileobj(bytes_of_source, file, 1 << 20)
            facts.update(asdict(clip.info), encoder={"kept": "as it was"})
        file.flush()
        file.seek(0)
        facts.update(bytes=file.seek(0, 2), sha256=_sha256(file), source=clip.facts())
        if not reasons:
            _check_same(source, str(facts["sha256"]), sha256)

    files.write_atomic(path, fill)
    return facts


def _taken(
    source: Path, clip: Survey, frames: int | None, rate: float | None, cut: bool
) -> tuple[Sequence[int], list[str]]:
    """The numbers of the frames that are taken, and why the file is not kept as it is."""
    chosen: Sequence[int] = range(clip.info.frames)
    reasons = list(clip.reasons)
    if rate and (clip.varies or not math.isclose(rate, clip.info.frame_rate, rel_tol=1e-5)):
        if not clip.times:
            raise ClipError(f"{source} does not say when its frames are shown, so that it cannot be resampled")
        chosen = resampled(clip.times, rate)
        reasons.append(f"resampled to {rate:g} frames per second")
    elif clip.varies:
        raise ClipError(
            f"{source} has a frame rate that varies, {clip.info.frame_rate:.3f} in the mean",
            "state the rate that it is resampled to: `options: {frame_rate: 16}`",
        )
    if frames is not None and (len(chosen) < frames or (not cut and (len(chosen) > frames or clip.longer))):
        has = "more" if len(chosen) >= frames else f"{len(chosen)} frames"
        raise ClipError(
            f"{source} has {has}; {frames} were asked for", "ask for as many as there are, or `frames: all`"
        )
    if frames is not None and (clip.longer or len(chosen) > frames):
        chosen = chosen[:frames]
        reasons.append(f"cut to {frames} frames")
    return chosen, reasons


def _check_same(source: Path, sha256: str, planned: str) -> None:
    if planned and sha256 != planned:
        raise ClipError(f"{source} has changed since it was planned", "run again, or bring the file back")


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    return content_sha256(file)


def _copy(file: IO[bytes], source: Path, clip: Survey, chosen: Sequence[int], rate: float) -> dict[str, Json]:
    """Encode the `chosen` frames without loss into `file`, and read them again. Returns what the record says."""
    step = Fraction(rate or 1).limit_denominator(1001)
    expected = FrameDigest()
    codec = "libx264" if clip.planar else "libx264rgb"
    pix_fmt = clip.pix_fmt if clip.planar else "rgb24"
    container = av.open(file, "w", format="mp4")
    stream: Any = container.add_stream(codec, rate=step, options={"qp": "0", "preset": "veryfast", "threads": "1"})
    with open_clip(source) as reader:
        for number, picture in enumerate(_chosen(reader, chosen, clip.planar)):
            if not number:
                stream.height, stream.width, stream.pix_fmt = picture.height, picture.width, pix_fmt
                for name in ("colorspace", "color_range", "color_primaries", "color_trc") if clip.planar else ():
                    setattr(stream.codec_context, name, int(getattr(picture, name)))
            add_to(expected, picture)
            picture.pts, picture.time_base, picture.pict_type = number, 1 / step, 0
            container.mux(stream.encode(picture))
    container.mux(stream.encode())
    container.close()
    file.flush()
    info = inspect(file)
    if info.digest != expected.digest():
        raise ClipError(f"{source} could not be copied without loss")
    how = {"copied": "without loss", "codec": codec, "pix_fmt": pix_fmt, "pyav": av.__version__}
    return {**asdict(info), "encoder": how}


def _chosen(reader: Reader, chosen: Sequence[int], planar: bool) -> Iterator[Any]:
    """The frames of these numbers, which rise but may repeat: as decoded, or upright in RGB."""
    wanted = iter(itertools.groupby(chosen))
    number, repeats = next(wanted, (-1, iter(())))
    for place, frame in enumerate(reader.frames()):
        if place != number:
            continue
        for _ in repeats:
            if planar:
                yield frame
            else:
                pixels = np.ascontiguousarray(reader.pixels(frame))
                yield av.VideoFrame.from_ndarray(pixels, format="rgb24")
        number, repeats = next(wanted, (-1, iter(())))
        if number < 0:
            return

"""Clips made elsewhere, held to ffmpeg's own upright decode, to arithmetic by hand, or to a refusal by name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ffmpeg import MOVING, SMOOTH, again, decode, ffmpeg, make

from harness.contracts import Frames
from harness.errors import ClipError
from harness.system import source_clips, video
from harness.system.reader import MAX_SIDE

X264 = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", 4)
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none")
PQ = "scale=out_color_matrix=bt2020nc,setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 frames of 64x96 at 16 frames per second, H.264 in mp4."""
    return make(tmp_path_factory.mktemp("clip") / "clip.mp4", *X264)


def taken(source: Path, **options: Any) -> tuple[Any, Frames]:
    """The record's `clip` and the pixels that metrics read."""
    target = source.parent / "taken" / f"{source.name}.mp4"
    return source_clips.take(target, source, **options), video.read(target)


def agree(pixels: Frames, other: Frames) -> None:
    """Frame by frame: means within 0.5, and nothing mirrored, moved or of another colour."""
    assert pixels.shape == other.shape
    assert np.abs(pixels.mean((1, 2, 3)) - other.mean((1, 2, 3))).max() < 0.5
    assert np.abs(pixels.astype(int) - other).mean() < 3


@pytest.mark.parametrize(
    "turn",
    [
        ("-display_rotation", 90),
        ("-display_rotation", 180),
        ("-display_rotation", 270),
        ("-display_hflip",),
        ("-display_vflip",),
        ("-display_rotation", 90, "-display_hflip"),
        ("-display_rotation", 90, "-display_vflip"),
        ("-display_rotation", 180, "-display_hflip"),
    ],
    ids=str,
)
def test_a_display_matrix_is_applied_and_the_copy_is_upright(clip: Path, tmp_path: Path, turn: Any) -> None:
    source = again(tmp_path / "turned.mp4", clip, before=turn)
    sides = (96, 64) if turn[-1] in (90, 270) or (len(turn) == 3 and turn[1] == 90) else (64, 96)
    facts, pixels = taken(source)
    agree(pixels, decode(source, *sides))
    assert (facts["height"], facts["width"]) == sides
    assert facts["encoder"]["because"] == ["turned"]
    assert np.array_equal(pixels, video.read(source))
    assert video.inspect(source).height == sides[0]


def test_a_turn_that_is_no_quarter_is_refused(clip: Path, tmp_path: Path) -> None:
    source = again(tmp_path / "turned.mp4", clip, before=("-display_rotation", 45))
    with pytest.raises(ClipError, match="turned by no quarter turn"):
        taken(source)


KEPT = {
    "mov": X264,
    "mkv": X264,
    "flv": X264,
    "m4v": X264,
    "mp4": (*X265, "-pix_fmt", "yuv420p"),
    "ten.mp4": (*X265, "-pix_fmt", "yuv420p10le"),
    "webm": ("-c:v", "libvpx-vp9", "-b:v", "2M"),
    "vp8.webm": ("-c:v", "libvpx", "-b:v", "2M"),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "prores.mov": ("-c:v", "prores_ks"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", 2),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", 2),
    "wmv": ("-c:v", "wmv2", "-q:v", 2),
    "y4m": ("-pix_fmt", "yuv420p"),
}
COPIED = {
    "ts": (X264, "container mpegts"),
    "h264": (X264, "container h264"),
    "mpg": (("-c:v", "mpeg2video", "-q:v", 2), "container mpeg"),
    "ogv": (("-c:v", "libtheora", "-q:v", 9), "container ogg"),
    "av1.mkv": (("-c:v", "libaom-av1", "-cpu-used", 8), "codec libdav1d"),
    "gif": ((), "container gif"),
    "apng": (("-f", "apng"), "container apng"),
}


@pytest.mark.parametrize("ending", KEPT)
def test_a_file_that_every_reader_reads_alike_is_kept_byte_for_byte(tmp_path: Path, ending: str) -> None:
    source = make(tmp_path / f"a.{ending}", *KEPT[ending])
    facts, pixels = taken(source, frames=16)
    assert facts["encoder"] == {"kept": "as it was"}
    assert (tmp_path / "taken" / f"{source.name}.mp4").read_bytes() == source.read_bytes()
    assert (facts["frames"], facts["frame_rate"]) == (16, 16)
    agree(pixels, decode(source, 64, 96))


@pytest.mark.parametrize("ending", COPIED)
def test_a_file_that_a_package_cannot_read_is_copied_without_loss(tmp_path: Path, ending: str) -> None:
    arguments, reason = COPIED[ending]
    source = make(tmp_path / f"a.{ending}", *arguments)
    facts, pixels = taken(source)
    assert reason in facts["encoder"]["because"]
    assert (facts["frames"], facts["frame_rate"]) == (16, 16)
    assert np.array_equal(pixels, video.read(source))
    agree(pixels, decode(source, 64, 96))


def test_a_longer_clip_is_cut_without_loss(clip: Path) -> None:
    facts, pixels = taken(clip, frames=7)
    assert np.array_equal(pixels, video.read(clip)[:7])
    assert facts["encoder"]["because"] == ["cut to 7 frames"]
    assert (facts["frames"], facts["encoder"]["pix_fmt"]) == (7, "yuv420p")
    with pytest.raises(ClipError, match="has 16 frames; 17 were asked for"):
        taken(clip, frames=17)
    with pytest.raises(ClipError, match="has more; 7 were asked for"):
        taken(clip, frames=7, cut=False)


@pytest.mark.parametrize("flags", ["+frag_keyframe+empty_moov", "+faststart"])
def test_the_decoder_counts_the_frames_and_not_the_header(clip: Path, tmp_path: Path, flags: str) -> None:
    source = again(tmp_path / "a.mp4", clip, "-movflags", flags)
    facts, _ = taken(source, frames=16)
    assert facts["encoder"] == {"kept": "as it was"}


def test_a_cut_by_an_edit_list_is_kept_at_its_true_length(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.mp4", *X264, "-bf", 0, "-g", 4)
    source = again(tmp_path / "a.mp4", whole, before=("-ss", 0.3))
    count = len(decode(source, 64, 96))
    assert count < 16
    facts, pixels = taken(source, frames=count)
    assert facts["encoder"] == {"kept": "as it was"}
    agree(pixels, decode(source, 64, 96))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_damage_is_refused_where_a_decoder_would_cover_it_up(tmp_path: Path, ending: str) -> None:
    source = make(tmp_path / f"a.{ending}", *X264, source=MOVING)
    data = bytearray(source.read_bytes())
    for place in range(len(data) // 4, len(data) * 3 // 5, len(data) // 40):
        data[place] ^= 0x5A
    source.write_bytes(data)
    with pytest.raises(ClipError, match="cannot be decoded"):
        taken(source)


def test_a_matroska_file_that_was_cut_on_its_way_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", *X264, "-bf", 0, source=MOVING)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(ClipError, match=r"ends after 0\.\d\d of the 1\.00 s that it states"):
        taken(source)


@pytest.mark.parametrize(
    ("kind", "arguments", "plays"),
    [
        ("mp4", X264, True),
        ("mkv", X264, False),
        ("webm", ("-c:v", "libvpx-vp9"), False),
        ("mp4", ("-c:v", "libvpx-vp9"), True),
        ("mp4", ("-c:v", "libx264", "-qp", 0), False),
        ("mp4", X265, False),
    ],
)
def test_only_what_a_browser_plays_as_an_mp4_is_shown_as_it_is(
    tmp_path: Path, kind: str, arguments: Any, plays: bool
) -> None:
    assert video.plays_anywhere(make(tmp_path / f"a.{kind}", *arguments)) == plays


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"this is no video\n" * 100, "cannot be decoded"),
        (b"", "cannot be (read|decoded)"),
        (b"ffconcat version 1.0\nfile clip.mp4\n", "cannot be decoded"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n", "cannot be decoded"),
    ],
)
def test_nonsense_is_refused_by_its_content_whatever_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    for name in ("a.mp4", "a.webp", "a.ts"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match=says):
            taken(tmp_path / name)


def test_a_clip_is_known_by_its_content_whatever_its_name(clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_bytes(clip.read_bytes())
    assert taken(source)[0]["frames"] == 16


def varying(path: Path) -> Path:
    """Eight frames at 16 a second, then eight at 8: 0, 1/16 ... 7/16, 8/16, 10/16 ... 22/16 s."""
    return make(path, "-vf", "setpts='if(lt(N,8),N,N*2-8)/16/TB'", "-fps_mode", "vfr", *X264)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_varying_rate_is_refused_or_resampled_as_ffmpegs_filter_does(tmp_path: Path, ending: str) -> None:
    source = varying(tmp_path / f"a.{ending}")
    with pytest.raises(ClipError, match=r"rate that varies, 10\.9"):
        taken(source)
    for rate in (16, 8, 5, 24):
        facts, pixels = taken(source, rate=rate)
        expected = decode(source, 64, 96, f"fps={rate}")
        assert abs(len(pixels) - len(expected)) <= (ending == "mkv")  # mkv does not say how long its last frame is
        agree(pixels[: len(expected)], expected[: len(pixels)])
        assert facts["frame_rate"] == rate
        assert facts["encoder"]["because"] == [f"resampled to {rate} frames per second"]
    facts, pixels = taken(source, rate=16, frames=20)
    assert facts["frames"] == 20
    agree(pixels, decode(source, 64, 96, "fps=16")[:20])


def test_resampling_by_hand() -> None:
    times = [0, 0.1, 0.2, 0.9, 1.0]  # four frames; the last one ends at 1.0
    exact = [Fraction(time).limit_denominator(10) for time in times]
    # At 5 a second the new frames start at 0, 0.2 ... 0.8; times in fifths: 0, 0.5, 1, 4.5, 5, rounded 0, 1, 1, 5, 5.
    assert source_clips.resampled(exact, 5) == [0, 2, 2, 2, 2]
    # At 10: 0, 1, 2, 9, 10.
    assert source_clips.resampled(exact, 10) == [0, 1, 2, 2, 2, 2, 2, 2, 2, 3]


def test_a_file_that_states_a_time_of_years_is_refused() -> None:
    with pytest.raises(ClipError, match="would have more than 1000000 frames"):
        source_clips.resampled([Fraction(0), Fraction(1), Fraction(10**9), Fraction(10**9 + 1)], 16)


@pytest.mark.parametrize(
    ("rate", "ending"),
    [("30000/1001", "mp4"), ("24000/1001", "mkv"), ("30000/1001", "webm"), (25, "gif"), (12, "avi")],
)
def test_a_constant_rate_is_read_through_coarse_times(tmp_path: Path, rate: object, ending: str) -> None:
    codec = {"webm": ("-c:v", "libvpx-vp9"), "gif": (), "avi": ("-c:v", "mpeg4")}.get(ending, X264)
    source = make(tmp_path / f"a.{ending}", "-r", rate, *codec)
    top, _, bottom = str(rate).partition("/")
    assert taken(source)[0]["frame_rate"] == pytest.approx(int(top) / int(bottom or 1), rel=1e-6)


def test_odd_pixels_fields_hdr_and_streams_are_told(clip: Path, tmp_path: Path) -> None:
    woven = make(
        tmp_path / "woven.mp4", "-vf", "interlace,setsar=4/3", "-flags", "+ilme+ildct", *X264, "-x264-params", "tff=1"
    )
    facts, pixels = taken(woven)
    assert facts["source"]["notes"] == ["pixels of 4:3, taken as stored", "interlaced, frames taken woven"]
    assert facts["encoder"] == {"kept": "as it was"}
    agree(pixels, decode(woven, 64, 96))

    bright = make(tmp_path / "pq.mp4", "-vf", PQ, "-pix_fmt", "yuv420p10le", *X265)
    facts, pixels = taken(bright)
    assert facts["source"]["notes"] == ["HDR (PQ), not tone-mapped"]
    agree(pixels, decode(bright, 64, 96))
    hlg = PQ.replace("smpte2084", "arib-std-b67")
    facts, _ = taken(make(tmp_path / "hlg.mp4", "-vf", hlg, "-pix_fmt", "yuv420p10le", *X265))
    assert facts["source"]["notes"] == ["HDR (HLG), not tone-mapped"]

    two = tmp_path / "two.mkv"
    other = make(tmp_path / "other.mp4", *X264, source=SMOOTH.replace("96x64", "128x96"))
    ffmpeg("-i", clip, "-i", other, "-map", 0, "-map", 1, "-c", "copy", two)
    facts, pixels = taken(two)
    assert facts["source"]["notes"] == ["the first of 2 video streams"]
    assert facts["encoder"]["because"] == ["several video streams"]
    agree(pixels, decode(clip, 64, 96))

    cover = tmp_path / "cover.mp4"
    picture = make(tmp_path / "c.png", "-frames:v", 1, source="color=red:size=32x32")
    ffmpeg("-i", picture, "-i", clip, "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic", cover)
    facts, pixels = taken(cover)
    agree(pixels, decode(clip, 64, 96))


@pytest.mark.parametrize("matrix", ["bt709", "bt2020nc", "smpte170m"])
@pytest.mark.parametrize("span", ["tv", "pc"])
@pytest.mark.parametrize("frames", [None, 3])
def test_tagged_colours_are_read_as_they_were_meant(tmp_path: Path, matrix: str, span: str, frames: Any) -> None:
    tags = ("-colorspace", matrix, "-color_range", span)
    source = make(
        tmp_path / "a.mp4",
        "-vf",
        f"scale=out_color_matrix={matrix}:out_range={span},format=yuv420p",
        *tags,
        *X264[2:],
        source="color=0x1ec81e:size=32x32:rate=16:duration=0.5,format=rgb24",
    )
    facts, pixels = taken(source, frames=frames)
    assert np.abs(pixels.reshape(-1, 3).mean(0) - (30, 200, 30)).max() <= 2
    agree(pixels, decode(source, 32, 32)[:frames])
    assert ("copied" in facts["encoder"]) == (frames is not None)


def test_a_size_that_changes_is_refused(tmp_path: Path) -> None:
    parts = [
        make(tmp_path / f"{side}.h264", *X264, source=SMOOTH.replace("96x64", side)) for side in ("96x64", "64x64")
    ]
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ClipError, match="changes its size at frame 16"):
        taken(tmp_path / "a.h264")
    assert MAX_SIDE == 16384


def test_a_clip_of_another_size_than_asked_is_refused(clip: Path) -> None:
    with pytest.raises(ClipError, match="has frames of 64x96, not 96x64"):
        taken(clip, size=(96, 64))
    with pytest.raises(ClipError, match="does not exist"):
        taken(clip.with_name("none.mp4"))

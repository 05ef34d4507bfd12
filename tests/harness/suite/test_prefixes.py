"""Images and videos that clips continue: what is read of a file, what a suite says, and what the record keeps."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from road import base, planned, run, write

from harness.contracts import ModelCard, registry
from harness.errors import ClipError, SuiteError
from harness.runs.records import RecordFile
from harness.suite import prefixes
from harness.suite.load import load_suite
from harness.suite.schema import Suite
from harness.system import video

FAKES = Path(__file__).parents[2] / "data" / "fake_models.py"


def pixels(frames: int, height: int, width: int) -> np.ndarray:
    """Smooth pictures, so that nothing hangs on the codec."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 3, columns * 3, rows + columns]
    return np.stack([np.stack(planes, -1) + 5 * number for number in range(frames)]).astype(np.uint8)


def image(path: Path, height: int = 16, width: int = 16, level: int = 200) -> Path:
    video.write_lossless(path, np.full((1, height, width, 3), level, np.uint8), 16.0)
    return path


def card(height: int, width: int, ratio: int = 1) -> ModelCard:
    return ModelCard("fake", height, width, 16.0, 4, temporal_ratio=ratio)


def read(path: Path, shape: ModelCard) -> np.ndarray:
    facts = prefixes.inspect(path)
    return prefixes.lazy_prefix(path, facts.sha256, facts.frames, shape).read()


@pytest.mark.parametrize("frames", [1, 7])
def test_what_is_written_without_loss_is_read_as_it_was(tmp_path: Path, frames: int) -> None:
    path = tmp_path / ("a.png" if frames == 1 else "a.mp4")
    made = pixels(frames, 18, 34)
    video.write_lossless(path, made, 16.0)
    facts = prefixes.inspect(path)
    assert (facts.frames, facts.height, facts.width) == (frames, 18, 34)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(read(path, card(18, 34)), made)


@pytest.mark.parametrize("kind", ["mjpeg", "libwebp", "bmp", "tiff"])
def test_every_kind_of_image_is_one_frame(tmp_path: Path, kind: str) -> None:
    formats = {"mjpeg": "yuvj420p", "libwebp": "yuv420p", "bmp": "bgr24", "tiff": "rgb24"}
    encoder = av.CodecContext.create(kind, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 16, formats[kind], 1
    picture = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 120, np.uint8), format="rgb24")
    packets = [*encoder.encode(picture.reformat(format=formats[kind])), *encoder.encode(None)]
    (tmp_path / "image").write_bytes(b"".join(bytes(packet) for packet in packets))
    facts = prefixes.inspect(tmp_path / "image")
    assert (facts.frames, facts.height, facts.width) == (1, 16, 32)
    assert abs(read(tmp_path / "image", card(16, 32)).astype(int) - 120).max() <= 6


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 0)), (5, (0, 0)), (6, (0, 1)), (7, (1, 1)), (8, (1, 0))],
)
def test_a_photograph_is_upright(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    """Its upper left corner is red as it is stored; EXIF (CIPA DC-008, orientation) says where that belongs."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24, 0] = 255
    stored = video.jpeg(picture)
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    (tmp_path / "a.jpg").write_bytes(stored[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + stored[2:])
    facts = prefixes.inspect(tmp_path / "a.jpg")
    shape = (48, 32) if orientation > 4 else (32, 48)
    assert (facts.height, facts.width, facts.turned) == (*shape, orientation > 1)
    upright = read(tmp_path / "a.jpg", card(*shape))[0]
    assert upright[-4 if corner[0] else 4, -4 if corner[1] else 4, 0] > 240


@pytest.mark.parametrize(("frames", "ratio", "kept"), [(1, 4, 1), (4, 4, 1), (5, 4, 5), (12, 4, 9), (12, 1, 12)])
def test_the_last_whole_latent_frames_are_used(tmp_path: Path, frames: int, ratio: int, kept: int) -> None:
    made = pixels(frames, 16, 16)
    video.write_lossless(tmp_path / "a.mp4", made, 16.0)
    assert np.array_equal(read(tmp_path / "a.mp4", card(16, 16, ratio)), made[-kept:])


@pytest.mark.parametrize(
    ("size", "cropped"),
    [((16, 40), (slice(0, 16), slice(12, 28))), ((40, 16), (slice(12, 28), slice(0, 16)))],
)
def test_another_shape_is_cropped_to_its_middle(tmp_path: Path, size: tuple[int, int], cropped: Any) -> None:
    made = pixels(1, *size)
    video.write_lossless(tmp_path / "a.png", made, 16.0)
    assert np.array_equal(read(tmp_path / "a.png", card(16, 16))[0], made[0][cropped])


def test_another_size_is_scaled(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 64, 48, level=77)
    assert np.array_equal(read(tmp_path / "a.png", card(32, 24)), np.full((1, 32, 24, 3), 77, np.uint8))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "does not exist"), (b"", "cannot be decoded"), (b"no picture" * 100, "cannot be decoded")],
)
def test_what_is_no_picture_is_refused_in_a_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClipError, match=f"prefix .*a.png {says}") as told:
        prefixes.inspect(path)
    assert "\n" not in told.value.message


def test_a_file_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write_lossless(tmp_path / "a.mp4", pixels(6, 16, 16), 16.0)
    for name, most, says in (
        ("MAX_FRAMES", 5, "more than 5 frames of 16x16"),
        ("MAX_PIXELS", 5 * 256 + 1, "more than 5 frames of 16x16"),
        ("MAX_BYTES", 100, "larger than 100 bytes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(prefixes, name, most)
            with pytest.raises(ClipError, match=says):
                prefixes.inspect(tmp_path / "a.mp4")


def test_a_file_that_has_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    facts = prefixes.inspect(image(tmp_path / "a.png"))
    given = prefixes.lazy_prefix(tmp_path / "a.png", facts.sha256, facts.frames, card(16, 16))
    image(tmp_path / "a.png", level=10)
    with pytest.raises(ClipError, match="has changed"):
        given.read()


# ------------------------------------------------------------------------------------------ in a suite


def continued(folder: Path, model: str = "fake/chunked", level: int = 200, **section: Any) -> dict[str, Any]:
    image(folder / "a.png", level=level)
    image(folder / "b.png", 8, 16, level=90)
    texts = [{"text": "one", "prefix": "a.png"}, {"text": "two", "prefix": "b.png"}]
    return base(
        models=[{"name": model, "label": "a"}],
        prompts={"p": {"texts": texts}},
        generate=[{"name": "s", "prompts": "p", "frames": 6, **section}],
    )


def test_a_clip_goes_on_from_its_prefix_and_the_record_says_of_what(tmp_path: Path) -> None:
    assert run(tmp_path, continued(tmp_path)).exit_code == 0
    made = {record.context["prompt"]: record for record in RecordFile(tmp_path / "run" / "records.jsonl").records()}
    for text, level, name, height in (("one", 200, "a.png", 16), ("two", 90, "b.png", 8)):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert made[text].clip["prefix"] == {
            "sha256": digest,
            "frames": 1,
            "height": height,
            "width": 16,
            "used": 1,
            "in_clip": False,
        }
        assert made[text].preimage["prefix"] == {"sha256": digest, "rule": 1}
        assert made[text].clip["frames"] == 6
        first = video.read(tmp_path / "run" / str(made[text].clip["path"]))[0]
        assert abs(first.astype(int) - level).max() <= 2


def test_the_files_content_is_in_the_key_and_its_place_is_not(tmp_path: Path) -> None:
    def keys(folder: str, level: int) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        return [unit.key for unit in planned(tmp_path / folder, continued(tmp_path / folder, level=level)).units]

    here, there, other = keys("x", 200), keys("y", 200), keys("z", 201)
    assert here == there
    assert here[0] != other[0]
    assert here[1] == other[1]
    plain = base(models=[{"name": "fake/chunked", "label": "a"}], generate=[{"name": "s", "prompts": "p", "frames": 6}])
    assert not set(here) & {unit.key for unit in planned(tmp_path, plain).units}


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_a_column_of_a_prompt_file_names_prefixes_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "prompts").mkdir()
    data = continued(tmp_path / "prompts")
    rows = {
        "p.csv": "prompt,image\none,a.png\ntwo,b.png\none,a.png\n",
        "p.jsonl": '{"prompt": "one", "image": "a.png"}\n{"prompt": "two", "image": "b.png"}\n',
    }
    (tmp_path / "prompts" / name).write_text(rows[name])
    data["prompts"] = {"p": {"file": f"prompts/{name}", "prefix_column": "image"}}
    registry.load_plugin(FAKES)
    loaded = load_suite(write(tmp_path, data))
    assert [Path(file.file).name for file in loaded.prompts["p"].prefixes] == ["a.png", "b.png"]
    assert Suite.model_validate(loaded.model_dump(mode="json")) == loaded
    assert [unit.key for unit in planned(tmp_path, data).units] == [
        unit.key for unit in planned(tmp_path / "prompts", continued(tmp_path / "prompts")).units
    ]


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"texts": ["one", {"text": "two", "prefix": "a.png"}]}, "all of the set must be"),
        ({"texts": [{"text": "two", "prefx": "a.png"}]}, "all of the set must be"),
        ({"texts": [{"text": "one", "prefix": "c.png"}]}, "c.png does not exist"),
        (
            {"texts": [{"text": "one", "prefix": "a.png"}, {"text": "one", "prefix": "b.png"}]},
            "'one' stands twice, with two prefixes",
        ),
        ({"file": "p.txt", "prefix_column": "image"}, "p.txt has no columns"),
        ({"file": "p.csv", "prefix_column": "image"}, "no column 'image'"),
    ],
)
def test_a_suite_with_a_wrong_prefix_is_refused_with_its_line(tmp_path: Path, prompts: Any, says: str) -> None:
    data = continued(tmp_path)
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "p.csv").write_text("prompt\none\n")
    with pytest.raises(SuiteError, match=rf"s\.yaml:\d+: .*{says}"):
        planned(tmp_path, {**data, "prompts": {"p": prompts}})


def test_a_model_that_takes_no_prefix_is_refused_with_the_plan(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="section 's', model 'a': it takes no image or video prefix"):
        planned(tmp_path, continued(tmp_path, "fake/moving"))


def test_a_probe_that_gives_none_and_a_switch_are_refused_too(tmp_path: Path) -> None:
    data = continued(tmp_path)
    probe = {"name": "m", "probe": "fake/count", "prompts": "p", "frames": 6}
    with pytest.raises(SuiteError, match="probe 'fake/count' gives a model no prefix"):
        planned(tmp_path, {**data, "measure": [probe]})
    switched = continued(tmp_path, switches=[{"frame": 3, "prompts": "p"}])
    with pytest.raises(SuiteError, match="prompt set 'p' has prefixes; a switch takes none"):
        planned(tmp_path, switched)


def test_a_measurement_gives_each_prompt_its_prefix(tmp_path: Path) -> None:
    data = continued(tmp_path, "toy/dense")
    options = {"min_repeats": 2, "min_seconds": 0, "half_width": 0.9, "warmups": 1, "audit_repeats": 0, "count": False}
    probe = {"name": "m", "probe": "streaming", "prompts": "p", "frames": 6, "options": options}
    caption = "a red circle moves slowly to the left on a navy background"
    texts = [{"text": caption, "prefix": "a.png"}, {"text": caption.replace("red", "blue"), "prefix": "b.png"}]
    data |= {"prompts": {"p": {"texts": texts}}, "generate": [], "measure": [{**probe, "batch": 2}]}
    assert run(tmp_path, data).exit_code == 0
    (record,) = RecordFile(tmp_path / "run" / "records.jsonl").records()
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")]
    assert record.notes["prefixes"] == [{"sha256": digest, "frames": 1} for digest in digests]
    assert record.preimage["workload"]["prefixes"] == [{"sha256": digest, "rule": 1} for digest in digests]
    assert min(record.samples["stage:prefix_s"]) > 0
    assert record.notes["latent_frames_per_clip"] == 6

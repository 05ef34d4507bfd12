"""Contact sheets: the pixels are those of the frames, and what is not there is marked or refused."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from page_runs import HEIGHT, WIDTH, make_run, suite
from record_lines import edit
from run_folders import Arm, write_run

from harness.contracts import Frames
from harness.errors import RecordError
from harness.report.page.sheet import Choice, sheet
from harness.runs.records import Run, load_run
from harness.system import video

PROMPTS = ["0 a pattern", "1 a pattern", "2 $another$ _one_ " + "word " * 2000, "3 fails"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("sheet") / "run", suite(PROMPTS))


def picture(png: bytes) -> Frames:
    return np.round(imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(np.uint8)


def clip(run: Run, arm: str, prompt: int) -> Frames:
    group = next(group for group in run.groups if group.kind == "generate" and group.arm == arm)
    return video.read(run.folder / str(run.index[group.keys[prompt]].clip["path"]))


def places(image: Frames, part: Frames) -> list[tuple[int, int]]:
    """Where `part` stands in `image`, pixel for pixel, left upper corners by row and column."""
    above = image[: image.shape[0] - part.shape[0] + 1]
    windows = np.lib.stride_tricks.sliding_window_view(above, (1, part.shape[1], 3))[:, :, 0, 0]
    rows, columns = np.nonzero((windows == part[0]).all(axis=(2, 3)))
    corners = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(y, x) for y, x in corners if (image[y : y + part.shape[0], x : x + part.shape[1]] == part).all()]


def test_frames_stand_in_the_order_asked_for_pixel_for_pixel(run: Run) -> None:
    image = picture(sheet(run, Choice(prompts=["0-1"], frames=[3, -1], width=2 * WIDTH + 9)))
    found = {}
    for arm in ("a", "b"):
        for prompt in (0, 1):
            frames = clip(run, arm, prompt)
            for column, frame in enumerate((3, 23)):
                enlarged = frames[frame].repeat(2, axis=0).repeat(2, axis=1)
                (found[prompt, arm, column],) = places(image, enlarged)
    assert sorted(found, key=lambda name: found[name]) == sorted(found)
    assert found[0, "a", 0][0] == found[0, "a", 1][0]
    assert found[0, "a", 0][1] == found[1, "b", 0][1]


def test_large_frames_become_smaller_and_arms_are_chosen(run: Run) -> None:
    whole = picture(sheet(run, Choice(prompts=["0"], frames=[0], width=WIDTH)))
    half = picture(sheet(run, Choice(prompts=["0"], frames=[0], width=WIDTH // 2)))
    one = picture(sheet(run, Choice(prompts=["0"], frames=[0], width=WIDTH, arms=["b"])))
    assert whole.shape[1] - half.shape[1] == WIDTH // 2
    assert whole.shape[0] - half.shape[0] == 2 * (HEIGHT - HEIGHT // 2)
    assert whole.shape[0] - one.shape[0] == HEIGHT + 4


def test_words_choose_prompts_and_long_ones_are_cut(run: Run) -> None:
    by_words = sheet(run, Choice(prompts=["ANOTHER"], frames=[0]))
    assert by_words == sheet(run, Choice(prompts=["2"], frames=[0]))
    assert picture(by_words).shape[0] < 2 * (200 + 4) + 200


def test_what_is_missing_is_a_grey_place(run: Run) -> None:
    image = picture(sheet(run, Choice(prompts=["0", "fails"], frames=[0, 500], width=WIDTH)))
    grey = np.full((HEIGHT // 2, WIDTH, 3), 238, np.uint8)
    assert len(places(image[:, -WIDTH - 20 :], grey[:, : WIDTH // 2])) > 0


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(prompts=["9"]), "there is no prompt 9"),
        (Choice(prompts=["0-99999999999999"]), "there is no prompt 99999999999999"),
        (Choice(prompts=["1-"]), "expected numbers such as 0,3 or 2-5"),
        (Choice(prompts=["star"]), "no prompt contains 'star'"),
        (Choice(arms=["c"]), "has no model 'c'"),
        (Choice(section="long"), "no section 'long'"),
        (Choice(seed=7), "has no seed 7"),
        (Choice(prompts=["fails"]), "no clip of the choice is there"),
        (Choice(prompts=["0"], frames=list(range(24)) * 40, width=2000), "the sheet would have"),
    ],
)
def test_a_choice_that_cannot_be_is_one_line(run: Run, choice: Choice, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        sheet(run, choice)
    assert "\n" not in caught.value.message


def test_a_run_without_clips_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [Arm("dense", [])], generate=[])
    with pytest.raises(RecordError, match="has no clips to show"):
        sheet(load_run(tmp_path / "run"), Choice())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("frames", "height", "width") for value in ("x", [1], -1, 0, 1.5, True, 10**30)),
        *(("frame_rate", value) for value in ("x", [8], -8, True, 10**30, None)),
        *((name, ...) for name in ("frames", "height", "width", "frame_rate")),
        ("path", 7), ("bytes", "x"), ("encoder", [1]),
    ],
)  # fmt: skip
def test_a_clip_whose_record_is_damaged_is_one_line(run: Run, tmp_path: Path, name: str, value: object) -> None:
    """The line has the digest of what it holds."""
    shutil.copytree(run.folder, tmp_path / "run")
    edit(tmp_path / "run" / "records.jsonl", clip={name: value})
    with pytest.raises(RecordError, match=r"records\.jsonl:\d+: a damaged record") as caught:
        sheet(load_run(tmp_path / "run"), Choice(prompts=["0"]))
    assert caught.value.message.isprintable()

"""A prompt switch from the suite to the score: asked for at one frame, made at another, and judged from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from road import base, planned, run

from harness.contracts import ModelCard, Request, Switch, VideoModel
from harness.errors import SuiteError
from harness.metrics.jobs.job_frames import cut, prompt_at
from harness.report.tables import build
from harness.runs.records import RecordFile, load_run


def switching(model: str, *frames: int, **options: Any) -> dict[str, Any]:
    """A suite whose prompts, which the fakes show in plain colours, give way to others."""
    switches = [{"frame": frame, "prompts": f"q{number}"} for number, frame in enumerate(frames)]
    sets = {f"q{number}": [f"other {number}"] for number, _ in enumerate(frames)}
    section = {
        "name": "s",
        "prompts": "p",
        "frames": 14,
        "seeds": [0],
        "switches": switches,
        "metrics": ["fake/switches"],
    }
    size = {"height": 32, "width": 32, **options}
    models = [{"name": model, "label": "a", "options": size}]
    return base(models=models, prompts={"p": ["one"], **sets}, generate=[section])


def records(folder: Path, kind: str) -> list[Any]:
    return [record for record in RecordFile(folder / "run" / "records.jsonl").records() if record.kind == kind]


def test_the_record_holds_the_frame_at_which_the_prompt_changed_and_metrics_read_it(tmp_path: Path) -> None:
    assert run(tmp_path, switching("fake/chunked", 6)).exit_code == 0
    (clip,), (score,) = records(tmp_path, "generate"), records(tmp_path, "score")
    # Chunks of four start at 0, 4, 8 and 12.
    assert clip.clip["switches"] == [{"asked": 6, "frame": 8}]
    assert clip.preimage["switches"] == [[6, "other 0"]]
    assert score.values == {"first": 8.0, "changed": 8.0}


def test_a_model_that_cannot_say_is_judged_from_the_frame_asked_for_and_the_record_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, switching("fake/moving", 6)).exit_code == 0
    (clip,), (score,) = records(tmp_path, "generate"), records(tmp_path, "score")
    assert clip.clip["switches"] == [{"asked": 6, "frame": None}]
    assert score.values == {"first": 6.0, "changed": 6.0}


def test_the_frame_is_in_the_key_where_it_is_not_the_one_asked_for(tmp_path: Path) -> None:
    def spec(*frames: int) -> Any:
        return next(unit.preimage for unit in planned(tmp_path, switching("fake/chunked", *frames)).units)

    assert "switched_at" not in spec(4)
    assert spec(4, 9)["switched_at"] == [4, 12]
    assert [frame for frame, _ in spec(4, 9)["switches"]] == [4, 9]


def test_tables_say_where_prompts_switched(tmp_path: Path) -> None:
    data = switching("fake/chunked", 6, 9)
    data["models"] = [{"name": name, "label": name[5:]} for name in ("fake/chunked", "fake/moving")]
    assert run(tmp_path, data).exit_code == 0
    (table,) = build([load_run(tmp_path / "run")])
    assert (
        "s: prompt switches asked for at frame 6, 9 happen at: 8, 12 (chunked); unknown, judged from there (moving)."
        in table.remarks
    )


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (
            (13,),
            "section 's', model 'a': a switch at frame 13 never happens: no chunk starts between it and the end of 14",
        ),
        ((5, 7), "the switches at frames 5 and 7 both happen at 8"),
    ],
)
def test_a_switch_that_no_frame_would_show_is_refused_with_the_plan(
    tmp_path: Path, frames: tuple[int, ...], says: str
) -> None:
    with pytest.raises(SuiteError, match=says):
        planned(tmp_path, switching("fake/chunked", *frames))


def test_a_request_that_a_model_refuses_is_refused_with_the_plan(tmp_path: Path) -> None:
    section = {"name": "s", "prompts": "p", "frames": 1001}
    models = [{"name": "fake/chunked", "label": "a"}]
    with pytest.raises(SuiteError, match="section 's', model 'a': 1001 frames are too many\n  ask for 1000"):
        planned(tmp_path, base(models=models, generate=[section]))
    probe = {**section, "probe": "fake/count"}
    with pytest.raises(SuiteError, match="1001 frames are too many"):
        planned(tmp_path, base(models=models, generate=[], measure=[probe]))


@pytest.mark.parametrize(
    ("model", "frames", "says"),
    [
        ("self-forcing", 20_000, "20000 frames take 5001 latent frames, and it counts them absolutely"),
        ("rolling-forcing", 20_000, "rope table of 1024"),
    ],
)
def test_a_clip_too_long_for_absolute_positions_never_starts(
    tmp_path: Path, model: str, frames: int, says: str
) -> None:
    models = [{"name": model, "label": "long", "options": {"weights": "random"}}]
    section = {"name": "hours", "prompts": "p", "frames": frames}
    with pytest.raises(SuiteError, match=f"section 'hours', model 'long': .*{says}"):
        planned(tmp_path, base(models=models, generate=[section]))


def test_existing_clips_cannot_switch(tmp_path: Path) -> None:
    import numpy as np

    from harness.system import video

    video.write(tmp_path / "one-0.mp4", [np.zeros((14, 16, 16, 3), np.uint8)], 16.0, 8, "ultrafast")
    data = switching("folder", 6)
    data["models"] = [{"name": "folder", "label": "a", "options": {"path": str(tmp_path)}}]
    with pytest.raises(SuiteError, match="existing clips cannot switch their prompt"):
        planned(tmp_path, data)


def test_a_clip_is_cut_at_the_true_frames() -> None:
    """One minute at 16 frames a second, chunks of twelve from frame 9 on, a new prompt asked for every ten seconds."""

    class Clip:
        frames, frame_rate, prompt = 957, 16.0, "first"
        # The multiples of 160, and the first 12 k - 3 at or after each.
        switches = ((165, "second"), (321, "third"), (489, "fourth"), (645, "fifth"), (801, "sixth"))

    assert cut(Clip(), 10.0) == [(0, 165), (165, 321), (321, 489), (489, 645), (645, 801), (801, 957)]
    assert [prompt_at(Clip(), frame) for frame in (160, 164, 165, 956)] == ["first", "first", "second", "sixth"]


class Old(VideoModel):
    """A plug-in that knows nothing of either question."""

    def describe(self) -> ModelCard:
        return ModelCard("old", 8, 8, 8.0, 4)

    def stream(self, request, spans=None):  # type: ignore[no-untyped-def]
        raise AssertionError("must not be asked")


def test_an_old_plug_in_takes_switches_without_saying_where() -> None:
    model = Old(Old.schema())
    request = Request(("one",), (0,), 9, (Switch(2, ("two",)),))
    model.check_request(request)
    assert list(model.switch_frames(request)) == [None]

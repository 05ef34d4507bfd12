from __future__ import annotations

import dataclasses
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from road import base, outcome_of, planned, run, run_here

from harness.contracts import registry
from harness.errors import RecordError
from harness.execute.outcome import Outcome, Tick
from harness.runs.folder import Store
from harness.runs.line import Record
from harness.runs.records import RecordFile
from harness.system import video

ARMS = [{"name": "fake/moving", "label": "a"}, {"name": "fake/moving", "label": "b", "options": {"chunk": 3}}]
PROBES = [
    {"name": "speed", "probe": "fake/count", "prompts": "p", "frames": 10},
    {"name": "machine", "probe": "fake/device"},
]


def records(folder: Path) -> list[Record]:
    return list(RecordFile(folder / "run" / "records.jsonl").records())


def counts(outcome: Outcome) -> tuple[int, int, int, int, int, int]:
    return outcome.planned, outcome.already_done, outcome.done_now, outcome.failed, outcome.skipped, outcome.pending


def faulty(name: str, when: str = "two", **options: Any) -> list[dict[str, Any]]:
    return [{"name": name, "label": "a", "options": {"when": when, **options}}]


def test_a_run_makes_clips_scores_and_measurements(tmp_path: Path) -> None:
    outcome = run(tmp_path, base(models=ARMS, measure=PROBES))
    assert counts(outcome) == (19, 0, 19, 0, 0, 0)
    assert outcome.exit_code == 0
    found = records(tmp_path)
    assert len({record.key for record in found}) == 19
    clips = [record for record in found if record.kind == "generate"]
    for made in clips:
        path = tmp_path / "run" / str(made.clip["path"])
        assert video.inspect(path).digest == made.clip["digest"]
        assert made.clip["frames"] == len(video.read(path)) == 6
    by_key = {record.key: record for record in found}
    for score in (record for record in found if record.kind == "score"):
        clip = by_key[str(score.preimage["generate"])]
        assert score.clip["digest"] == clip.clip["digest"]
        pixels = video.read(tmp_path / "run" / str(clip.clip["path"]))
        assert score.values == {"brightness": float(pixels.mean()), "spread": float(pixels.std())}
    chunks = {str(record.context["arm"]): record for record in found if record.kind == "measure"}
    assert chunks["a"].samples == {"frames": [4.0, 4.0, 2.0]}
    assert chunks["b"].values == {"chunks": 4.0, "frames": 10.0}
    assert chunks[""].values == {"answer": 42.0}


def test_a_record_tells_where_it_comes_from(tmp_path: Path) -> None:
    run(tmp_path, base())
    found = {(record.kind, record.context["prompt"], record.context["seed"]): record for record in records(tmp_path)}
    made = found["generate", "two", 1]
    assert (made.preimage["prompt"], made.preimage["seed"]) == ("two", 1)
    assert made.device["kind"] == "cpu"
    assert "python" in made.versions
    assert set(made.git) == {"commit", "dirty", "of", "suite"}
    assert made.started <= made.ended
    assert made.ended.endswith("+00:00")


def test_the_same_plan_run_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    run(tmp_path, base(measure=PROBES))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    outcome = run(tmp_path, base(measure=PROBES))
    assert counts(outcome) == (10, 10, 0, 0, 0, 0)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_two_folders_hold_the_same_clips_and_values(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, base())
    assert outcome_of(tmp_path / "x" / "run") == outcome_of(tmp_path / "y" / "run")


def test_models_and_metrics_are_loaded_once_for_all_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    plan = planned(tmp_path, base(models=ARMS))
    model, metric = registry.models.get("fake/moving"), registry.metrics.get("fake/brightness")
    monkeypatch.setattr(model, "load", lambda self, device: events.append(f"load {self.options.chunk}"))
    monkeypatch.setattr(model, "unload", lambda self: events.append(f"unload {self.options.chunk}"))
    monkeypatch.setattr(metric, "setup", lambda self, device: events.append("setup"))
    monkeypatch.setattr(metric, "close", lambda self: events.append("close"))

    def note(tick: Tick) -> None:
        if tick.record is not None:
            events.append(tick.record.kind)

    run_here(plan, tmp_path / "run", progress=note)
    clips = ["generate", "score"] * 3
    first = ["load 4", "generate", "setup", "score", *clips, "unload 4"]
    assert events == [*first, "load 3", "generate", "score", *clips, "unload 3", "close"]


def test_a_metric_that_comes_later_scores_the_clips_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, base(generate=[{**base()["generate"][0], "metrics": []}]))
    plan = planned(tmp_path, base())

    def refuse(self: Any, device: str) -> None:
        raise AssertionError("no clip is missing, so the model need not be loaded")

    monkeypatch.setattr(registry.models.get("fake/moving"), "load", refuse)
    outcome = run_here(plan, tmp_path / "run")
    assert counts(outcome) == (8, 4, 4, 0, 0, 0)


def test_a_clip_that_became_unreadable_fails_its_score_and_is_found_by_verify(tmp_path: Path) -> None:
    run(tmp_path, base(generate=[{**base()["generate"][0], "metrics": []}]))
    path = sorted((tmp_path / "run" / "clips").rglob("*.mp4"))[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    outcome = run(tmp_path, base())
    assert counts(outcome) == (8, 4, 3, 1, 0, 0)
    assert [record.error["type"] for record in records(tmp_path) if record.status == "failed"] == ["ClipError"]
    assert counts(run(tmp_path, base(), verify=True)) == (8, 6, 2, 0, 0, 0)


@pytest.mark.parametrize("limit", range(1, 8))
def test_a_limit_leaves_the_rest_for_later(tmp_path: Path, limit: int) -> None:
    outcome = run(tmp_path, base(), limit=limit)
    assert counts(outcome) == (8, 0, limit, 0, 0, 8 - limit)
    assert outcome.exit_code == 3
    assert outcome.stopped == ""
    assert counts(run(tmp_path, base())) == (8, limit, 8 - limit, 0, 0, 0)


def test_a_clip_is_recorded_while_the_model_makes_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, base())
    cls = registry.models.get("fake/moving")
    real, lines = cls.stream, []
    path = tmp_path / "run" / "records.jsonl"

    def clips() -> int:
        return sum(record.kind == "generate" for record in RecordFile(path).records())

    def stream(self: Any, request: Any, spans: Any = None) -> Any:
        yield from real(self, request)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and clips() < len(lines):
            time.sleep(0.01)
        lines.append(clips())

    monkeypatch.setattr(cls, "stream", stream)
    assert run_here(plan, tmp_path / "run").exit_code == 0
    assert lines == [0, 1, 2, 3], "the clip before has its record, before this one has ended"


def test_a_lost_or_changed_clip_is_made_again_and_its_score_stands(tmp_path: Path) -> None:
    run(tmp_path, base())
    before = outcome_of(tmp_path / "run")
    paths = sorted((tmp_path / "run" / "clips").rglob("*.mp4"))
    paths[0].unlink()
    paths[1].write_bytes(b"short")
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert counts(run(tmp_path, base())) == (8, 6, 2, 0, 0, 0)
    assert counts(run(tmp_path, base(), verify=True)) == (8, 7, 1, 0, 0, 0)
    assert outcome_of(tmp_path / "run") == before


def test_progress_and_totals_add_up_after_a_clip_was_lost(tmp_path: Path) -> None:
    run(tmp_path, base())
    next((tmp_path / "run" / "clips").rglob("*.mp4")).unlink()
    ticks: list[Tick] = []
    outcome = run(tmp_path, base(), progress=ticks.append)
    assert outcome.already_done + outcome.done_now + outcome.failed + outcome.skipped + outcome.pending == 8
    # The score was not done while its clip was away, and stands again with it.
    assert (ticks[-1].finished, ticks[-1].total) == (1, 1)


def test_a_score_of_another_clip_is_not_done(tmp_path: Path) -> None:
    run(tmp_path, base())
    file = RecordFile(tmp_path / "run" / "records.jsonl")
    clip = next(record for record in file.records() if record.kind == "generate")
    other = video.write(
        tmp_path / "run" / str(clip.clip["path"]),
        [video.read(tmp_path / "run" / str(clip.clip["path"]))[::-1].copy()],
        16.0,
        8,
        "medium",
    )
    with file:
        file.append(dataclasses.replace(clip, clip={**other, "path": clip.clip["path"]}))
    assert counts(run(tmp_path, base())) == (8, 7, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("fake/raises", "ValueError", "the weights are haunted"),
        ("fake/exits", "SystemExit", "7"),
        ("fake/oserror", "FileNotFoundError", "vae.pt"),
        ("fake/shape", "ModelFault", "has shape"),
        ("fake/nobatch", "ModelFault", "has shape"),
        ("fake/nan", "ModelFault", "float32 with NaN"),
        ("fake/list", "ModelFault", "not a numpy array"),
        ("fake/short", "ModelFault", "gave 4 frames; 6 were asked for"),
        ("fake/none", "ModelFault", "gave 0 frames"),
        ("fake/long", "ModelFault", "8 frames; 6 were asked for"),
    ],
)
def test_a_model_that_breaks_its_promise_fails_its_own_clips_alone(
    tmp_path: Path, name: str, error: str, says: str
) -> None:
    outcome = run(tmp_path, base(models=faulty(name)))
    assert counts(outcome) == (8, 0, 4, 2, 2, 0)
    assert outcome.exit_code == 1
    failed = [record for record in records(tmp_path) if record.status == "failed"]
    assert [record.context["prompt"] for record in failed] == ["two", "two"]
    assert {record.kind for record in failed} == {"generate"}
    assert failed[0].error["type"] == error
    assert says in str(failed[0].error["message"])
    assert "Traceback" in str(failed[0].error["traceback"])
    assert failed[0].clip == {}
    skipped = [record for record in records(tmp_path) if record.status == "skipped"]
    assert {record.notes["reason"] for record in skipped} == {"its clip was not made"}
    assert len(list((tmp_path / "run" / "clips").rglob("*.*"))) == 2


def test_what_failed_is_tried_again_and_what_was_skipped_follows(tmp_path: Path) -> None:
    run(tmp_path, base(models=faulty("fake/raises")))
    again = run(tmp_path, base(models=faulty("fake/raises")))
    assert counts(again) == (8, 4, 0, 2, 2, 0)
    assert sum(record.status == "skipped" for record in records(tmp_path)) == 2
    cls = registry.models.get("fake/raises")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "broken", lambda self, good: good)
        assert counts(run(tmp_path, base(models=faulty("fake/raises")))) == (8, 4, 4, 0, 0, 0)


def test_a_model_that_does_not_load_is_tried_once_and_fails_all_its_units(tmp_path: Path) -> None:
    data = base(models=[{"name": "fake/unloadable", "label": "u"}, *ARMS], measure=PROBES)
    plan = planned(tmp_path, data)
    cls = registry.models.get("fake/unloadable")
    before = cls.loads  # type: ignore[attr-defined]
    outcome = run_here(plan, tmp_path / "run")
    assert cls.loads - before == 1  # type: ignore[attr-defined]
    assert (outcome.failed, outcome.skipped, outcome.done_now) == (5, 4, 19)
    failed = [record for record in records(tmp_path) if record.status == "failed"]
    assert all("size mismatch" in str(record.error["message"]) for record in failed)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("raise", "ZeroDivisionError"),
        ("missing", "PluginFault"),
        ("unknown", "PluginFault"),
        ("infinite", "PluginFault"),
        ("setup", "ImportError"),
    ],
)
def test_a_metric_that_breaks_its_promise_fails_its_scores_alone(tmp_path: Path, fault: str, error: str) -> None:
    metrics = [{"name": "fake/faulty", "options": {"fault": fault}}, "fake/brightness"]
    outcome = run(tmp_path, base(generate=[{**base()["generate"][0], "metrics": metrics}]))
    assert counts(outcome) == (12, 0, 8, 4, 0, 0)
    assert {record.error["type"] for record in records(tmp_path) if record.status == "failed"} == {error}


def test_a_value_may_be_undefined(tmp_path: Path) -> None:
    metrics = [{"name": "fake/faulty", "options": {"fault": "nan"}}]
    outcome = run(tmp_path, base(generate=[{**base()["generate"][0], "metrics": metrics}]))
    assert outcome.exit_code == 0
    scores = [record.values for record in records(tmp_path) if record.kind == "score"]
    assert all(values["one"] == 1.0 and math.isnan(values["two"]) for values in scores)


def test_a_metric_that_is_not_available_is_skipped_with_its_fix(tmp_path: Path) -> None:
    data = base(generate=[{**base()["generate"][0], "metrics": ["fake/unavailable"]}])
    outcome = run(tmp_path, data)
    assert counts(outcome) == (8, 0, 4, 0, 4, 0)
    assert outcome.exit_code == 3
    notes = [record.notes for record in records(tmp_path) if record.status == "skipped"]
    assert "weights of the backbone are missing" in str(notes[0]["reason"])
    assert notes[0]["fix"] == "harness env build backbone"
    size = (tmp_path / "run" / "records.jsonl").stat().st_size
    assert counts(run(tmp_path, data)) == (8, 4, 0, 0, 4, 0)
    assert (tmp_path / "run" / "records.jsonl").stat().st_size == size


@pytest.mark.parametrize(("policy", "failed", "pending"), [("continue", 4, 0), ("stop", 1, 7), (2, 2, 5), (0.25, 2, 5)])
def test_the_error_policy_ends_the_run(tmp_path: Path, policy: object, failed: int, pending: int) -> None:
    outcome = run(tmp_path, base(models=faulty("fake/raises", when=""), errors=policy))
    assert (outcome.failed, outcome.pending) == (failed, pending)
    assert bool(outcome.stopped) == (policy != "continue")
    assert outcome.exit_code == 1


def test_an_interrupt_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    def interrupt(tick: Tick) -> None:
        if tick.finished == 3:
            raise KeyboardInterrupt

    outcome = run(tmp_path, base(), progress=interrupt)
    assert outcome.stopped == "interrupted; run again to go on"
    assert (outcome.done_now, outcome.pending, outcome.exit_code) == (4, 4, 3), "the clip being finished is finished"
    assert counts(run(tmp_path, base())) == (8, 4, 4, 0, 0, 0)


def test_a_second_run_on_the_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "run"), pytest.raises(RecordError, match="another run"):
        run(tmp_path, base())
    assert run(tmp_path, base()).exit_code == 0


def test_parts_that_a_crash_left_are_swept(tmp_path: Path) -> None:
    run(tmp_path, base())
    part = next((tmp_path / "run" / "clips").iterdir()) / ".abc.mp4.part"
    part.write_bytes(b"half")
    run(tmp_path, base())
    assert not part.exists()


def test_hostile_prompts_run_and_stay_in_their_records(tmp_path: Path) -> None:
    texts = ["../../x", "/etc/passwd", "a \"b\" 'c'", "two\nlines", "🎥 café", "x" * 300, "<script>alert(1)</script>"]
    outcome = run(tmp_path, base(prompts={"p": texts}))
    assert outcome.exit_code == 0
    assert {record.context["prompt"] for record in records(tmp_path)} == set(texts)
    names = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    made = {record.clip["path"] for record in records(tmp_path) if record.kind == "generate"}
    assert names == made | {"plan.json", "records.jsonl", ".lock"}


def test_progress_tells_how_far_the_run_is(tmp_path: Path) -> None:
    ticks: list[Tick] = []
    run(tmp_path, base(models=faulty("fake/raises")), progress=ticks.append)
    written = [tick for tick in ticks if tick.record is not None]
    assert [tick.finished for tick in written] == list(range(1, 9))
    assert {tick.total for tick in ticks} == {8}
    assert written[-1].failed == 2
    assert [tick.message for tick in ticks if tick.record is None] == ["loading a", "setting up fake/brightness"]
    assert all(a.seconds <= b.seconds for a, b in pairwise(ticks))

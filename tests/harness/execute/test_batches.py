"""Clips that are made together: which, what their keys and records say, and that each still stands for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from road import base, outcome_of, planned, run, run_here

from harness.contracts import Frames, Request, registry
from harness.errors import SuiteError
from harness.execute import batches
from harness.runs.line import Record
from harness.runs.plan import Plan
from harness.runs.records import RecordFile
from harness.system import video

TEXTS = ["one", "two", "three", "four", "five"]


def suite(batch: int, model: str = "fake/alone", **changes: Any) -> dict[str, Any]:
    """Ten clips of one arm in batches, and their scores."""
    models = [{"name": model, "label": "a"}]
    section = {**base()["generate"][0], "batch": batch}
    return base(**{"models": models, "prompts": {"p": TEXTS}, "generate": [section], **changes})


def records(folder: Path, kind: str = "generate") -> list[Record]:
    every = RecordFile(folder / "run" / "records.jsonl").records()
    return [record for record in every if record.kind == kind]


def keys(plan: Plan) -> list[str]:
    return [unit.key for unit in plan.units]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Request]:
    """Every request that a fake model gets."""
    planned(tmp_path, base())
    seen: list[Request] = []
    cls = registry.models.get("fake/moving")
    stream: Any = cls.stream

    def noted(self: Any, request: Request, *more: Any) -> Iterator[Frames]:
        seen.append(request)
        yield from stream(self, request, *more)

    monkeypatch.setattr(cls, "stream", noted)
    return seen


def sizes(requests: list[Request]) -> list[int]:
    return [request.batch for request in requests]


def test_a_batch_gives_the_clips_scores_and_keys_of_single_clips(tmp_path: Path, requests: list[Request]) -> None:
    (tmp_path / "single").mkdir()
    assert run(tmp_path / "single", suite(1)).exit_code == 0
    requests.clear()
    assert run(tmp_path, suite(4)).exit_code == 0
    assert sizes(requests) == [4, 4, 2]
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "single" / "run")
    assert sorted(record.notes["batch"] for record in records(tmp_path)) == [2] * 2 + [4] * 8
    assert all("batch" not in record.notes | record.context for record in records(tmp_path / "single"))


def test_a_batch_stands_in_the_keys_of_a_model_whose_pixels_it_may_change(tmp_path: Path) -> None:
    plans = {size: planned(tmp_path, suite(size, "fake/moving")) for size in (1, 4, 10, 64)}
    assert len({key for plan in plans.values() for key in keys(plan)}) == 3 * 20, "64 of ten clips are ten"
    assert {unit.preimage["batch"] for unit in plans[64].units if unit.kind == "generate"} == {10}
    assert keys(planned(tmp_path, suite(4))) == keys(planned(tmp_path, suite(1)))


def test_clips_of_such_a_model_are_made_in_whole_batches_whenever_they_are_made(
    tmp_path: Path, requests: list[Request]
) -> None:
    data = suite(4, "fake/by_width")
    run(tmp_path, data, limit=5)
    run(tmp_path, data, limit=4)
    assert run(tmp_path, data).exit_code == 0
    assert set(sizes(requests)) == {4}
    (score,) = {record.values["brightness"] for record in records(tmp_path, "score")}
    assert score == pytest.approx(64, abs=2), "as bright as a batch of four, to the last"


def test_a_batch_larger_than_the_prompts_works_with_what_there_is(tmp_path: Path, requests: list[Request]) -> None:
    assert run(tmp_path, suite(64, "fake/moving")).exit_code == 0
    assert sizes(requests) == [10]


def test_what_a_request_must_agree_in_is_grouped_by(tmp_path: Path, requests: list[Request]) -> None:
    sections = [
        {"name": "short", "prompts": "p", "seeds": [0, 1, 2], "frames": 6, "batch": 4},
        {"name": "long", "prompts": "p", "frames": 9, "batch": 3},
        {"name": "turned", "prompts": "p", "frames": 9, "batch": 5, "switches": [{"frame": 4, "prompts": "q"}]},
    ]
    prompts = {"p": TEXTS, "q": [f"then {text}" for text in TEXTS]}
    assert run(tmp_path, suite(1, "fake/pairs", generate=sections, prompts=prompts)).exit_code == 0
    short = [request for request in requests if request.frames == 6]
    assert sorted(sizes(short)) == [1, 2, 4, 4, 4]
    assert all(len({seed % 2 for seed in request.seeds}) == 1 for request in short)
    assert sizes([request for request in requests if request.frames == 9]) == [3, 5, 2]
    (turned,) = (request for request in requests if request.switches)
    assert turned.switches[0].prompts == tuple(f"then {text}" for text in turned.prompts)


def test_prefixes_of_several_lengths_are_not_mixed(tmp_path: Path, requests: list[Request]) -> None:
    import numpy as np

    files = []
    for number, frames in enumerate((1, 3, 1, 3)):
        path = tmp_path / f"{number}.{'png' if frames == 1 else 'mp4'}"
        video.write_lossless(path, np.full((frames, 16, 16, 3), 40 * number, np.uint8), 16.0)
        files.append({"text": f"prompt {number}", "prefix": path.name})
    section = {"name": "short", "prompts": "p", "frames": 6, "batch": 4}
    assert run(tmp_path, suite(1, "fake/chunked", generate=[section], prompts={"p": {"texts": files}})).exit_code == 0
    made = {tuple(prefix.frames for prefix in request.prefixes) for request in requests}
    assert made == {(1,) * 4, (3,) * 4}, "each filled up to the four that the key names"
    firsts = {str(record.context["prompt"]): record for record in records(tmp_path)}
    for number in range(4):
        pixels = video.read(tmp_path / "run" / str(firsts[f"prompt {number}"].clip["path"]))
        assert abs(float(pixels[0].mean()) - 40 * number) < 6, "each continues its own prefix"


@pytest.mark.parametrize("name", ["fake/raises", "fake/exits", "fake/nan", "fake/short"])
def test_a_clip_that_fails_does_so_alone(tmp_path: Path, name: str) -> None:
    models = [{"name": name, "label": "a", "options": {"when": "three"}}]
    outcome = run(tmp_path, suite(10, models=models))
    assert (outcome.done_now, outcome.failed, outcome.skipped) == (16, 2, 2)
    failed = [record for record in records(tmp_path) if record.status == "failed"]
    assert [record.context["prompt"] for record in failed] == ["three", "three"]
    assert not list((tmp_path / "run" / "clips").rglob(".*"))


def test_a_model_that_does_not_load_fails_every_clip_and_is_tried_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite(4, "fake/unloadable"))
    cls: Any = registry.models.get("fake/unloadable")
    before = cls.loads
    outcome = run_here(plan, tmp_path / "run")
    assert (cls.loads - before, outcome.failed, outcome.skipped) == (1, 10, 10)


def test_a_suite_is_refused_where_the_model_takes_no_such_request(tmp_path: Path) -> None:
    planned(tmp_path, base())
    cls: Any = registry.models.get("fake/pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "check_request", lambda self, request: None if request.batch < 3 else refuse())
        assert planned(tmp_path, suite(2, "fake/pairs")).units
        with pytest.raises(SuiteError, match=r"section 'short', model 'a': one clip at a time"):
            planned(tmp_path, suite(4, "fake/pairs"))


def test_auto_is_the_largest_batch_that_fits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(memory: int) -> Any:
        section = {**base()["generate"][0], "batch": "auto", "memory": memory}
        return planned(tmp_path, suite(1, "fake/moving", generate=[section])).units[0].preimage["batch"]

    planned(tmp_path, base())
    with pytest.raises(SuiteError, match="does not say how much memory a clip takes"):
        batch(1000)
    monkeypatch.setattr(registry.models.get("fake/moving"), "batch_bytes", lambda self: (600, 100))
    assert [batch(memory) for memory in (700, 799, 1299, 1600, 10**9)] == [1, 1, 6, 10, 10]
    with pytest.raises(SuiteError, match="weights and one clip take 700 bytes, not 699"):
        batch(699)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": "all"}, {"batch": "auto"}, {"memory": 7}, {"batch": 5000}])
def test_a_batch_that_is_none_is_refused_with_its_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    section = {**base()["generate"][0], **wrong}
    with pytest.raises(SuiteError, match=r"s\.yaml:\d+: .*(batch|memory)") as refused:
        planned(tmp_path, suite(1, generate=[section]))
    assert "\n" not in str(refused.value)


def refuse() -> None:
    from harness.errors import OptionError

    raise OptionError("one clip at a time", "set batch to 1")


@pytest.mark.parametrize(("processes", "sizes"), [(1, [4, 4, 2]), (2, [3, 3, 2, 2]), (3, [4, 3, 3]), (4, [3, 3, 2, 2])])
def test_every_process_gets_as_many_batches_of_nearly_one_size(
    tmp_path: Path, processes: int, sizes: list[int]
) -> None:
    plan = planned(tmp_path, suite(4))
    clips = [unit for unit in plan.units if unit.kind == "generate"]
    made = list(batches.grouped(clips, plan.arms[0], processes))
    assert [len(batch) for batch in made] == sizes
    assert [unit for batch in made for unit in batch] == clips


@pytest.mark.parametrize("limit", range(1, 20, 3))
def test_a_limit_is_kept_and_the_rest_follows(tmp_path: Path, limit: int) -> None:
    outcome = run(tmp_path, suite(4), limit=limit)
    assert (outcome.done_now, outcome.pending) == (limit, 20 - limit)
    assert run(tmp_path, suite(4)).done_now == 20 - limit


def test_an_interrupted_batch_leaves_what_was_made(tmp_path: Path) -> None:
    def interrupt(tick: Any) -> None:
        if tick.finished == 3:
            raise KeyboardInterrupt

    outcome = run(tmp_path, suite(4), progress=interrupt)
    assert outcome.stopped == "interrupted; run again to go on"
    assert outcome.done_now >= 4, "all clips of the batch are recorded"
    assert run(tmp_path, suite(4)).exit_code == 0
    assert len({record.key for record in records(tmp_path)}) == len(records(tmp_path)) == 10


def test_an_error_policy_stops_before_the_next_batch(tmp_path: Path, requests: list[Request]) -> None:
    models = [{"name": "fake/raises", "label": "a", "options": {"when": "one"}}]
    outcome = run(tmp_path, suite(2, models=models, errors="stop"))
    assert (outcome.failed, outcome.pending) == (2, 18)
    assert set().union(*(request.prompts for request in requests)) == {"one"}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_record_of_a_clip_holds_the_frames_of_each_chunk(tmp_path: Path, batch: int) -> None:
    section = {"name": "short", "prompts": "p", "frames": 7, "batch": batch}
    assert run(tmp_path, suite(batch, generate=[section])).exit_code == 0
    # The fake gives chunks of four frames and cuts the last one short.
    assert [record.notes["chunks"] for record in records(tmp_path)] == [[4, 3]] * 5

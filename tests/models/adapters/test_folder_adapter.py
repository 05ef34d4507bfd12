from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road import base, outcome_of, planned, run

from harness.contracts import Frames, Request, enforce, registry
from harness.errors import ClipError, HarnessError, NotAvailable, SuiteError
from harness.execute.run import run_plan
from harness.runs import by_prompt
from harness.runs.records import RecordFile, load_run
from harness.system import video


def flat(value: int, frames: int = 6) -> Frames:
    return np.full((frames, 16, 16, 3), value, np.uint8)


def clips(folder: Path, **values: int) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        video.write(folder / f"{name}.mp4", [flat(value)], 8.0, 8, "ultrafast")
    return folder


def model(**options: Any) -> Any:
    return registry.models.create("folder", options)


def play(subject: Any, prompt: str, seed: int, frames: int = 6) -> Frames:
    return np.concatenate(
        [c[0] for c in enforce.chunks(subject, Request((prompt,), (seed,), frames), subject.describe())]
    )


def test_clips_are_found_by_vbench_names(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, value in {"a cat-0": 40, "a cat-1": 80, "a well-lit-room-0": 120}.items():
        video.write(folder / f"{name}.mp4", [flat(value)], 8.0, 8, "ultrafast")
    subject = model(path=str(folder), chunk=4)
    card = subject.describe()
    assert (card.height, card.width, card.frame_rate, card.weights) == (16, 16, 8.0, "none")
    for prompt, seed, value in (("a cat", 0, 40), ("a cat", 1, 80), ("a well-lit-room", 0, 120)):
        assert abs(int(play(subject, prompt, seed).mean()) - value) <= 2
    assert len(play(subject, "a cat", 0, frames=5)) == 5
    with pytest.raises(ClipError, match="no clip of seed 2 for the prompt 'a cat'"):
        play(subject, "a cat", 2)
    with pytest.raises(HarnessError, match="gave 6 frames; 7 were asked for"):
        play(subject, "a cat", 0, frames=7)


def test_clips_are_found_by_an_index(tmp_path: Path) -> None:
    clips(tmp_path / "c", x=30, y=90)
    (tmp_path / "c" / "list.csv").write_text('prompt,seed,path\n"a, ""b""\n../c",5,x.mp4\nplain,0,y.mp4\n')
    subject = model(path=str(tmp_path / "c"), index="list.csv")
    assert abs(int(play(subject, 'a, "b"\n../c', 5).mean()) - 30) <= 2
    assert abs(int(play(subject, "plain", 0).mean()) - 90) <= 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,file\n", r"list\.csv:1: needs the columns"),
        ("prompt,seed,file\np,one,x.mp4\n", r"list\.csv:2: seed is no whole number: 'one'"),
        ("prompt,seed,file\np,1,x.mp4\np,1,y.mp4\n", r"list\.csv:3: prompt 'p' with seed 1 is listed twice"),
        ("prompt,seed,file\np,1,\n", r"list\.csv:2: file is empty"),
        (f"prompt,seed,file\n{'p' * 200_000},1,x.mp4\n", r"list\.csv cannot be read: field larger than"),
        ('prompt,seed,file\n"p,1,x.mp4\n', r"list\.csv cannot be read: unexpected end of data"),
    ],
)
def test_a_wrong_index_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    clips(tmp_path / "c", x=30)
    (tmp_path / "c" / "list.csv").write_text(text)
    with pytest.raises(ClipError, match=says):
        model(path=str(tmp_path / "c"), index="list.csv").describe()


def test_an_empty_or_missing_folder_is_not_available(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="no clips in"):
        model(path=str(tmp_path)).describe()
    with pytest.raises(NotAvailable, match="does not exist"):
        model(path=str(tmp_path / "none")).describe()


@pytest.mark.parametrize("prompt", ["../secret", "/etc/passwd", "a\0b", "x" * 5000])
def test_a_prompt_reaches_no_other_folder(tmp_path: Path, prompt: str) -> None:
    clips(tmp_path, **{"secret-0": 10})
    subject = model(path=str(clips(tmp_path / "c", **{"a-0": 20})))
    with pytest.raises(ClipError, match="no clip of seed 0"):
        play(subject, prompt, 0)


def test_a_run_over_existing_clips_scores_them_and_moving_the_folder_changes_no_key(tmp_path: Path) -> None:
    run(tmp_path, base())
    view, _ = by_prompt.by_prompt(load_run(tmp_path / "run"), labels=["a"])

    def suite(path: Path) -> dict[str, Any]:
        options = {"path": str(path), "index": "index.csv"}
        return base(suite="existing", models=[{"name": "folder", "label": "f", "options": options}])

    outcome = run_plan(planned(tmp_path, suite(view)), tmp_path / "again")
    assert outcome.exit_code == 0
    shutil.copytree(view, tmp_path / "copy")
    assert run_plan(planned(tmp_path, suite(tmp_path / "copy")), tmp_path / "again").already_done == 8
    one, two = (RecordFile(tmp_path / name / "records.jsonl") for name in ("run", "again"))
    first, again = (
        {(r.context["prompt"], r.context["seed"]): r.values["brightness"] for r in file.records() if r.kind == "score"}
        for file in (one, two)
    )
    assert first.keys() == again.keys()
    assert first == again
    before = set(outcome_of(tmp_path / "again"))
    target = sorted((tmp_path / "copy").rglob("*.mp4"))[0]
    video.write(target, [flat(1)], 16.0, 8, "ultrafast")
    changed = planned(tmp_path, suite(tmp_path / "copy"))
    assert len({unit.key for unit in changed.units} - before) == 2


def test_a_clip_is_kept_byte_for_byte_and_only_a_longer_one_is_cut(tmp_path: Path) -> None:
    folder = clips(tmp_path / "c", **{"one-0": 10, "one-1": 20, "two-0": 30})
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    video.write(folder / "two-1.mp4", [noise], 8.0, 0, "ultrafast")
    cut = folder / "two-0.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    data = base(models=[{"name": "folder", "label": "f", "options": {"path": str(folder)}}], errors="continue")
    assert run(tmp_path, data).done_now == 6
    records = RecordFile(tmp_path / "run" / "records.jsonl").records()
    found = {(r.context["prompt"], r.context["seed"]): r for r in records if r.kind == "generate"}
    for seed in (0, 1):
        kept = tmp_path / "run" / str(found["one", seed].clip["path"])
        assert kept.read_bytes() == (folder / f"one-{seed}.mp4").read_bytes()
    assert found["two", 0].status == "failed"
    assert found["two", 1].clip["frames"] == 6
    assert found["two", 1].clip["encoder"]["codec"] == "libx264"


def test_a_missing_clip_fails_its_unit_until_it_is_there(tmp_path: Path) -> None:
    folder = clips(tmp_path / "c", **{"one-0": 10, "one-1": 20, "two-0": 30})
    data = base(models=[{"name": "folder", "label": "f", "options": {"path": str(folder)}}])
    outcome = run(tmp_path, data)
    assert (outcome.done_now, outcome.failed, outcome.skipped) == (6, 1, 1)
    clips(folder, **{"two-1": 40})
    assert run(tmp_path, data).exit_code == 0


def scored(folder: Path, records: Any) -> dict[tuple[str, int], Any]:
    """The newest generate record of each prompt and seed."""
    return {(r.context["prompt"], r.context["seed"]): r for r in records.records() if r.kind == "generate"}


def of_folder(path: Path, **section: Any) -> dict[str, Any]:
    data = base(models=[{"name": "folder", "label": "f", "options": {"path": str(path)}}], errors="continue")
    data["generate"][0].update(section)
    return data


def test_clips_of_every_size_length_and_rate_are_scored_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for name, (frames, height, rate) in {
        "one-0": (6, 16, 8.0),
        "one-1": (9, 32, 30.0),
        "two-0": (7, 24, 16.0),
        "two-1": (6, 16, 24000 / 1001),
    }.items():
        video.write(folder / f"{name}.mp4", [np.full((frames, height, 16, 3), 90, np.uint8)], rate, 8, "ultrafast")
    assert run(tmp_path, of_folder(folder, frames="all")).exit_code == 0
    clips_of = scored(folder, RecordFile(tmp_path / "run" / "records.jsonl"))
    facts = {key: (r.clip["frames"], r.clip["height"], round(r.clip["frame_rate"], 3)) for key, r in clips_of.items()}
    assert facts == {
        ("one", 0): (6, 16, 8.0),
        ("one", 1): (9, 32, 30.0),
        ("two", 0): (7, 24, 16.0),
        ("two", 1): (6, 16, 23.976),
    }
    assert all(record.clip["encoder"] == {"kept": "as it was"} for record in clips_of.values())
    assert clips_of["one", 0].preimage["frames"] == "all"


def test_only_clips_that_exist_have_a_length_of_their_own(tmp_path: Path) -> None:
    data = base()
    data["generate"][0]["frames"] = "all"
    with pytest.raises(SuiteError, match="it makes its clips, so `frames: all` says nothing"):
        planned(tmp_path, data)
    with pytest.raises(SuiteError, match="exclude each other"):
        planned(tmp_path, of_folder(tmp_path, frames="all", switches=[{"frame": 2, "prompts": "p"}]))


def test_another_clip_in_the_folder_changes_no_key_of_those_there(tmp_path: Path) -> None:
    folder = clips(tmp_path / "c", **{"one-0": 10, "one-1": 20, "two-0": 30, "two-1": 40})
    before = {unit.key for unit in planned(tmp_path, of_folder(folder)).units}
    video.write(folder / "a-0.webm", [np.zeros((3, 64, 64, 3), np.uint8)], 30.0, 8, "ultrafast")
    assert {unit.key for unit in planned(tmp_path, of_folder(folder)).units} == before


def test_several_files_of_one_name_are_refused_and_what_is_no_clip_does_not_count(tmp_path: Path) -> None:
    folder = clips(tmp_path / "c", **{"a-0": 10})
    for ending in ("json", "txt"):
        (folder / f"a-0.{ending}").write_text('{"prompt": "a"}')
    assert abs(int(play(model(path=str(folder)), "a", 0).mean()) - 10) <= 2
    for ending in ("mkv", "webm"):
        shutil.copy(folder / "a-0.mp4", folder / f"a-0.{ending}")
    with pytest.raises(ClipError, match=r"3 files are the clip of 'a' with seed 0: a-0\.mkv, a-0\.mp4, a-0\.webm"):
        model(path=str(folder)).describe()


def test_a_clip_that_cannot_be_read_takes_no_other_with_it(tmp_path: Path) -> None:
    folder = clips(tmp_path / "c", **{"one-0": 10, "one-1": 20, "two-1": 30})
    (folder / "one-0.mp4").write_bytes(b"nonsense")
    outcome = run(tmp_path, of_folder(folder))
    records = scored(folder, RecordFile(tmp_path / "run" / "records.jsonl"))
    assert (outcome.failed, outcome.skipped) == (2, 2)
    assert "cannot be decoded" in records["one", 0].error["message"]
    assert "its seeds are [1]" in records["two", 0].error["message"] or "no clip of seed 0" in str(
        records["two", 0].error
    )
    assert records["one", 1].status == records["two", 1].status == "ok"


def test_a_file_that_the_system_refuses_to_read_fails_its_unit_alone(tmp_path: Path) -> None:
    refused = Path("/proc/self/mem")
    if not refused.is_file():
        pytest.skip("needs a file that cannot be read, whoever asks")
    folder = clips(tmp_path / "c", x=10)
    (folder / "i.csv").write_text(f"prompt,seed,file\none,0,{refused}\none,1,x.mp4\ntwo,0,x.mp4\ntwo,1,x.mp4\n")
    data = of_folder(folder)
    data["models"][0]["options"]["index"] = "i.csv"
    assert run(tmp_path, data).failed == 1


@pytest.mark.parametrize("frames", [6, 4])
def test_a_clip_that_changed_since_the_plan_fails_its_unit(tmp_path: Path, frames: int) -> None:
    folder = clips(tmp_path / "c", **{"one-0": 10, "one-1": 20, "two-0": 30, "two-1": 40})
    plan = planned(tmp_path, of_folder(folder, frames=frames))
    clips(folder, **{"one-1": 99})
    assert run_plan(plan, tmp_path / "run").failed == 1
    records = scored(folder, RecordFile(tmp_path / "run" / "records.jsonl"))
    assert "has changed since it was planned" in records["one", 1].error["message"]


def test_an_index_of_two_arms_is_taken_row_by_row(tmp_path: Path) -> None:
    clips(tmp_path / "c", x=30, y=90)
    (tmp_path / "c" / "list.csv").write_text("arm,prompt,seed,file\nleft,p,0,x.mp4\nright,p,0,y.mp4\n")
    with pytest.raises(ClipError, match=r"list\.csv:3: .* is listed twice") as refused:
        model(path=str(tmp_path / "c"), index="list.csv").describe()
    assert refused.value.fix == "take the rows of one of them: `where: {arm: right}`"
    for arm, value in (("left", 30), ("right", 90)):
        subject = model(path=str(tmp_path / "c"), index="list.csv", where={"arm": arm})
        assert abs(int(play(subject, "p", 0).mean()) - value) <= 2
    with pytest.raises(ClipError, match="has no column 'model'"):
        model(path=str(tmp_path / "c"), index="list.csv", where={"model": "x"}).describe()

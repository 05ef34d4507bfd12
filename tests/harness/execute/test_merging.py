"""Runs of one plan become one: shards equal to the whole run, again and again, and nothing on damage or conflict."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_lines import drop_digests
from road import FAKES, base, outcome_of, planned, run, run_here, write

from harness.cli.main import main
from harness.errors import RecordError
from harness.execute import merging
from harness.execute.shares import Shard, share
from harness.runs.line import Record, encode
from harness.runs.records import RecordFile
from harness.system.digests import file_sha256


def suite(**changes: Any) -> dict[str, Any]:
    """Two models, 16 clips with scores, and a measurement of each model and of the device."""
    models = [{"name": "fake/moving", "label": "a"}, {"name": "fake/alone", "label": "b"}]
    section = {**base()["generate"][0], "seeds": [0, 1, 2, 3]}
    measure = [
        {"name": "count", "probe": "fake/count", "prompts": "p", "frames": 4},
        {"name": "alone", "probe": "fake/device"},
    ]
    return base(**{"models": models, "generate": [section], "measure": measure, **changes})


def records(folder: Path) -> dict[str, Record]:
    """The newest record of each unit."""
    return {record.key: record for record in RecordFile(folder / "records.jsonl").records()}


def comparable(folder: Path) -> dict[str, Record]:
    """The same without times, which differ from run to run."""
    return {key: replace(record, started="", ended="") for key, record in records(folder).items()}


def shards(folder: Path, data: dict[str, Any], count: int, limit: int | None = None, numbers: Any = None) -> Path:
    """Run shards of a suite one after the other, as a Slurm array would at once; the folder of the whole run."""
    plan, whole = planned(folder, data), folder / "whole"
    for number in numbers or range(1, count + 1):
        part = Shard(number, count)
        work, out = share(plan, part), whole / "shards" / part.name
        merging.adopt(work, whole, out)
        run_here(work, out, limit)
    return whole


def test_the_union_of_shards_is_the_whole_run_record_for_record(tmp_path: Path) -> None:
    assert run(tmp_path, suite()).exit_code == 0
    whole = shards(tmp_path, suite(), 3)
    merged = merging.merge(whole, merging.shards_of(whole))
    assert (merged.records, merged.clips, merged.left_out) == (35, 16, [])
    assert comparable(whole) == comparable(tmp_path / "run")
    assert (whole / "plan.json").read_bytes() == (tmp_path / "run" / "plan.json").read_bytes()
    for path in (tmp_path / "run" / "clips").rglob("*.mp4"):
        assert (whole / path.relative_to(tmp_path / "run")).read_bytes() == path.read_bytes()
    # The whole run has nothing to do any more, also when every clip's digest is compared.
    outcome = run_here(planned(tmp_path, suite()), whole, verify=True)
    assert (outcome.already_done, outcome.done_now, outcome.exit_code) == (35, 0, 0)


def test_a_second_merge_brings_nothing(tmp_path: Path) -> None:
    whole = shards(tmp_path, suite(), 2)
    merging.merge(whole, merging.shards_of(whole))
    before = (whole / "records.jsonl").read_bytes()
    again = merging.merge(whole, merging.shards_of(whole))
    assert (again.records, again.clips) == (0, 0)
    assert (whole / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("merged_between", [True, False])
def test_a_run_begun_with_four_shards_may_end_with_seven(tmp_path: Path, merged_between: bool) -> None:
    whole = shards(tmp_path, suite(), 4, limit=3)
    first = {key: record for path in merging.shards_of(whole) for key, record in records(path).items()}
    assert 0 < len(first) < 35
    if merged_between:
        merging.merge(whole, merging.shards_of(whole))
        shutil.rmtree(whole / "shards")
    shards(tmp_path, suite(), 7)
    merging.merge(whole, merging.shards_of(whole))
    after = records(whole)
    assert len(after) == 35
    # What was done with four was not done again.
    assert {key: after[key] for key in first} == first
    run(tmp_path, suite())
    assert comparable(whole) == comparable(tmp_path / "run")


def test_a_failure_gives_way_to_a_result_and_an_older_failure_to_a_newer(tmp_path: Path) -> None:
    broken = [{"name": "fake/raises", "label": "a", "options": {"when": "two"}}]
    data = base(models=broken)
    plan = planned(tmp_path, data)
    for name in ("first", "second"):
        run_here(plan, tmp_path / name)
    merging.merge(tmp_path / "out", [tmp_path / "second", tmp_path / "first"])
    newest = {key for key, record in records(tmp_path / "second").items() if record.status == "failed"}
    assert newest
    assert {key: records(tmp_path / "out")[key] for key in newest} == {
        key: records(tmp_path / "second")[key] for key in newest
    }
    # A run that succeeded, as after a repair.
    failed = next(record for record in records(tmp_path / "first").values() if record.status == "failed")
    ok = replace(failed, status="ok", kind="measure", error={}, values={"chunks": 1.0})
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "plan.json").write_bytes((tmp_path / "first" / "plan.json").read_bytes())
    (tmp_path / "third" / "records.jsonl").write_bytes(encode(ok))
    merging.merge(tmp_path / "out", [tmp_path / "first", tmp_path / "third"])
    assert records(tmp_path / "out")[failed.key].status == "ok"
    assert merging.merge(tmp_path / "out", [tmp_path / "first"]).records == 0


def altered(folder: Path, to: Path, kind: str, change: Any) -> Path:
    """A copy of a run in which `change` was made to the first record of a kind."""
    shutil.copytree(folder, to)
    every = list(RecordFile(folder / "records.jsonl").records())
    first = next(record for record in every if record.kind == kind)
    lines = [encode(change(record) if record is first else record) for record in every]
    (to / "records.jsonl").write_bytes(b"".join(lines))
    return to


@pytest.mark.parametrize("kind", ["generate", "score", "measure"])
def test_two_different_results_of_a_unit_are_refused_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    run(tmp_path, suite())

    def change(record: Record) -> Record:
        if kind == "generate":
            return replace(record, clip={**record.clip, "digest": "0" * 64})
        return replace(record, values={name: number + 1 for name, number in record.values.items()})

    other = altered(tmp_path / "run", tmp_path / "other", kind, change)
    with pytest.raises(RecordError, match="hold two different results of") as refused:
        merging.merge(tmp_path / "out", [tmp_path / "run", other])
    assert "\n" not in refused.value.message
    assert not (tmp_path / "out" / "records.jsonl").exists()
    merging.merge(tmp_path / "out", [tmp_path / "run", other], keep_first=True)
    assert outcome_of(tmp_path / "out") == outcome_of(tmp_path / "run")
    assert merging.merge(tmp_path / "out", [other], keep_first=True).records == 0


def test_a_score_of_another_clip_is_not_brought(tmp_path: Path) -> None:
    run(tmp_path, base())
    other = altered(
        tmp_path / "run", tmp_path / "other", "score", lambda r: replace(r, clip={"digest": "0" * 64}, values={})
    )
    merging.merge(tmp_path / "out", [other, tmp_path / "run"], keep_first=True)
    assert outcome_of(tmp_path / "out") == outcome_of(tmp_path / "run")


def test_a_damaged_clip_is_left_out_with_its_record_and_brought_from_a_whole_copy(tmp_path: Path) -> None:
    run(tmp_path, base())
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    clip = next((tmp_path / "run" / "clips").rglob("*.mp4"))
    body = bytearray(clip.read_bytes())
    body[-1] ^= 1
    clip.write_bytes(body)
    merged = merging.merge(tmp_path / "out", [tmp_path / "run"])
    assert [path.name for _, path in merged.left_out] == [clip.name]
    assert clip.stem not in records(tmp_path / "out")
    merged = merging.merge(tmp_path / "out", [tmp_path / "whole"])
    assert (merged.records, merged.clips, merged.left_out) == (1, 1, [])
    merged = merging.merge(tmp_path / "both", [tmp_path / "run", tmp_path / "whole"])
    assert merged.left_out == []
    assert file_sha256(tmp_path / "both" / "clips" / clip.stem[:2] / clip.name) == file_sha256(
        tmp_path / "whole" / "clips" / clip.stem[:2] / clip.name
    )


def test_records_without_clips_are_brought_and_clips_follow(tmp_path: Path) -> None:
    run(tmp_path, base())
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("plan.json", "records.jsonl"):
        shutil.copy(tmp_path / "run" / name, bare)
    merged = merging.merge(tmp_path / "out", [bare])
    assert (merged.records, merged.clips, merged.left_out) == (8, 0, [])
    merged = merging.merge(tmp_path / "out", [tmp_path / "run"])
    assert (merged.records, merged.clips) == (0, 4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line.replace(b'"prompt":"one"', b'"prompt":"uno"'), "is that of another unit"),
        (lambda line: b"{nonsense\n", "not a record"),
        (lambda line: line.replace(b'{"schema":1', b'{"schema":99'), "record schema 99 is newer"),
        (lambda line: line.replace(b'"path":"clips/', b'"path":"../../'), "names a file that is no clip"),
        (lambda line: line.replace(b'"path":"clips/', b'"path":"plan.json","x":"'), "names a file that is no clip"),
    ],
)
def test_a_damaged_or_foreign_record_is_refused_in_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    run(tmp_path, base())
    path = drop_digests(tmp_path / "run" / "records.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[0] = damage(lines[0])
    path.write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match=message) as refused:
        merging.merge(tmp_path / "out", [tmp_path / "run"])
    assert "\n" not in refused.value.message
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run(tmp_path, base())
    with (tmp_path / "run" / "records.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 20)
    assert merging.merge(tmp_path / "out", [tmp_path / "run"]).records == 7


@pytest.mark.parametrize("into", ["an empty folder", "a run"])
def test_runs_of_other_plans_are_refused(tmp_path: Path, into: str) -> None:
    run_here(planned(tmp_path, base()), tmp_path / "one")
    run_here(planned(tmp_path, base(prompts={"p": ["one", "three"]})), tmp_path / "two")
    out = tmp_path / ("out" if into == "an empty folder" else "one")
    runs = [tmp_path / "one", tmp_path / "two"] if into == "an empty folder" else [tmp_path / "two"]
    before = (tmp_path / "one" / "records.jsonl").read_bytes()
    with pytest.raises(RecordError, match=r"of another plan than .*one: the units to do differ .a of section 'short'"):
        merging.merge(out, runs)
    assert (tmp_path / "one" / "records.jsonl").read_bytes() == before


def test_a_newer_plan_a_folder_without_one_and_the_folder_itself_are_refused(tmp_path: Path) -> None:
    run(tmp_path, base())
    with pytest.raises(RecordError, match="merged into itself"):
        merging.merge(tmp_path / "run", [tmp_path / "run"])
    with pytest.raises(RecordError, match="no run to merge"):
        merging.merge(tmp_path / "run", merging.shards_of(tmp_path / "run"))
    with pytest.raises(RecordError, match="is no run folder"):
        merging.merge(tmp_path / "out", [tmp_path / "run" / "clips"])
    body = json.loads((tmp_path / "run" / "plan.json").read_text())
    (tmp_path / "run" / "plan.json").write_text(json.dumps({**body, "schema": 99}))
    with pytest.raises(RecordError, match="plan schema 99 is newer"):
        merging.merge(tmp_path / "out", [tmp_path / "run"])


def test_the_commands_from_shards_to_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(write(tmp_path, suite()))

    def type_in(*arguments: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, capsys.readouterr().out

    plugin = ["--plugin", str(FAKES), "--set", "device=cpu"]
    for number in "12":
        code, _ = type_in("run", file, "--shard", f"{number}/2", *plugin)
        assert code == 0
    code, out = type_in("run", file, "--shard", "1/3", "--dry-run", *plugin)
    assert "a run would do the other 0" in out
    code, out = type_in("merge", "runs/small")
    assert code == 0
    assert "35 records and 16 clips brought from 2 runs to runs/small" in out
    assert "35 units: 35 done, 0 to do" in out
    code, out = type_in("run", file, *plugin)
    assert (code, "nothing to do: all 35 units are done" in out) == (0, True)
    code, out = type_in("table", "--all", "runs", *plugin[:2])
    assert "1 runs" in out
    code, out = type_in("run", file, "--only", "a", "--only", "short", "--out", "part", *plugin)
    assert code == 0
    assert {record.context["arm"] for record in records(tmp_path / "part").values()} == {"a"}
    assert (tmp_path / "part" / "plan.json").read_bytes() == (tmp_path / "runs" / "small" / "plan.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": []}, "not a record"),
        ({"ended": 5}, "not a record"),
        ({"notes": {"products": 7}}, "names products that are none"),
        ({"notes": {"products": [{"what": 1}]}}, "names products that are none"),
        ({"notes": {"products": [{"folder": "p", "name": "n", "file": "../../x"}]}}, "outside of it"),
        ({"notes": {"products": [{"folder": "..", "name": "n", "file": "x"}]}}, "outside of it"),
    ],
)
def test_a_record_of_wrong_types_or_places_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run(tmp_path, suite())
    other = altered(tmp_path / "run", tmp_path / "other", "measure", lambda record: replace(record, **change))
    with pytest.raises(RecordError, match=message):
        merging.merge(tmp_path / "out", [other])
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_products_are_brought_but_never_what_a_link_points_to(tmp_path: Path) -> None:
    run(tmp_path, suite())
    (tmp_path / "secret").write_text("of mine")
    names = [{"folder": "products", "name": name, "file": name} for name in ("own", "link")]
    notes = {"products": names}
    other = altered(tmp_path / "run", tmp_path / "other", "measure", lambda record: replace(record, notes=notes))
    (other / "scratch").mkdir(exist_ok=True)
    (other / "scratch" / "own").write_text("weights")
    (other / "scratch" / "link").symlink_to(tmp_path / "secret")
    merging.merge(tmp_path / "out", [other])
    assert (tmp_path / "out" / "scratch" / "own").read_text() == "weights"
    assert not (tmp_path / "out" / "scratch" / "link").exists()


def test_a_merge_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, suite())
    placing = merging._place
    targets: list[Path] = []

    def cut(source: Path, target: Path) -> None:
        if len(targets) == 3:
            raise KeyboardInterrupt
        targets.append(target)
        placing(source, target)

    monkeypatch.setattr(merging, "_place", cut)
    with pytest.raises(KeyboardInterrupt):
        merging.merge(tmp_path / "out", [tmp_path / "run"])
    monkeypatch.undo()
    # As a loss of power leaves them: half a record, and half a clip that has no name yet.
    (tmp_path / "out" / "records.jsonl").write_bytes((tmp_path / "run" / "records.jsonl").read_bytes()[:5000])
    targets[0].with_name(f".{targets[0].name}.1.part").write_bytes(b"half")
    merged = merging.merge(tmp_path / "out", [tmp_path / "run"])
    assert merged.clips == 13
    assert outcome_of(tmp_path / "out") == outcome_of(tmp_path / "run")
    assert not list((tmp_path / "out").rglob("*.part"))
    assert run_here(planned(tmp_path, suite()), tmp_path / "out", verify=True).done_now == 0

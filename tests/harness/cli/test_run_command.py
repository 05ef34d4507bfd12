"""`harness plan` and `run`: units, progress and how it ends; what a folder holds, and another suite of its name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from road import FAKES, base, write
from typed_commands import SUITE, Harness, run

from harness.cli.main import main
from harness.cli.progress import Meter, duration, failure, pace
from harness.errors import shown
from harness.execute.outcome import Tick
from harness.runs.line import Record
from harness.runs.records import load_run

TypeIn = Callable[..., tuple[object, str, str]]


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TypeIn:
    """Types a command in a folder with the suite `s.yaml`; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base(device="cpu"))

    def call(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--plugin", str(FAKES)])
        text = capsys.readouterr()
        return ended.value.code, text.out, text.err

    return call


def test_a_dry_run_finds_lost_clips_and_with_verify_changed_ones(type_in: TypeIn, tmp_path: Path) -> None:
    assert type_in("run", "s.yaml")[0] == 0
    lost, changed, *_ = sorted((tmp_path / "runs" / "small" / "clips").rglob("*.mp4"))
    lost.unlink()
    body = bytearray(changed.read_bytes())
    body[-1] ^= 1
    changed.write_bytes(body)
    before = sorted((tmp_path / "runs").rglob("*"))
    # A clip that is lost takes the score of it along.
    assert "holds records of 6 of them; a run would do the other 2" in type_in("run", "s.yaml", "--dry-run")[1]
    _, out, _ = type_in("run", "s.yaml", "--dry-run", "--verify")
    assert "holds records of 4 of them; a run would do the other 4" in out
    assert "4 of those have a record, and a clip or file that is lost or changed" in out
    assert sorted((tmp_path / "runs").rglob("*")) == before
    _, out, _ = type_in("run", "s.yaml", "--verify")
    assert "8 units: 6 done before, 2 done now" in out


def test_another_suite_of_the_same_name_does_not_replace_a_plan_in_silence(type_in: TypeIn, tmp_path: Path) -> None:
    type_in("run", "s.yaml")
    plan = (tmp_path / "runs/small/plan.json").read_bytes()
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", base(device="cpu", prompts={"p": ["three"]}))
    code, _, err = type_in("run", "other/s.yaml")
    assert code == 2
    assert "runs/small holds the plan and records of another suite or of other options: none of its 8 units" in err
    assert "--out DIR" in err
    assert (tmp_path / "runs/small/plan.json").read_bytes() == plan
    code, out, _ = type_in("run", "other/s.yaml", "--replace-plan")
    assert code == 0
    assert "8 of 8 units of the plan before are no longer planned" in out
    assert len(load_run(tmp_path / "runs/small").index) == 12


def test_a_suite_that_was_edited_goes_on_and_says_what_went(type_in: TypeIn, tmp_path: Path) -> None:
    type_in("run", "s.yaml")
    write(tmp_path, base(device="cpu", prompts={"p": ["two", "three"]}))
    code, out, _ = type_in("run", "s.yaml")
    assert code == 0
    assert "8 units: 4 done before, 4 done now" in out
    assert "4 of 8 units of the plan before are no longer planned" in out
    write(tmp_path, base(device="cpu", prompts={"p": ["two", "three", "four"]}))
    assert "no longer planned" not in type_in("run", "s.yaml")[1]


def test_a_plan_without_records_may_go(type_in: TypeIn, tmp_path: Path) -> None:
    (tmp_path / "runs/small").mkdir(parents=True)
    type_in("run", "s.yaml", "--out", "elsewhere")
    (tmp_path / "runs/small/plan.json").write_bytes((tmp_path / "elsewhere/plan.json").read_bytes())
    data = yaml.safe_load((tmp_path / "s.yaml").read_text())
    write(tmp_path, {**data, "prompts": {"p": ["three"]}})
    assert type_in("run", "s.yaml")[0] == 0


def test_a_plan_shows_prompts_and_what_a_run_would_do_and_take(type_in: TypeIn, tmp_path: Path) -> None:
    texts = [f"prompt {number}" for number in range(5)]
    turns = [{"frame": 4, "prompts": "q"}]
    section = {**base()["generate"][0], "switches": turns}
    write(tmp_path, base(device="cpu", prompts={"p": texts, "q": [*texts[1:], "the last"]}, generate=[section]))
    _, out, _ = type_in("plan", "s.yaml")
    assert "short: 5 prompts (p), 2 seeds each" in out
    assert "  2: prompt 2 | from frame 4: prompt 3" in out
    assert "prompt 4 | from" not in out
    assert "runs/small holds records of 0 of them; a run would do the other 20" in out
    assert "no estimate for 20 units, as no earlier record is of fake/moving (10), fake/brightness (10)" in out
    _, out, _ = type_in("plan", "s.yaml", "--prompts")
    assert "  4: prompt 4 | from frame 4: the last" in out
    assert type_in("run", "s.yaml", "--limit", "4")[0] == 3
    assert "of work and 0." in type_in("plan", "s.yaml")[1]
    _, out, _ = type_in("run", "s.yaml", "--dry-run")
    assert "a run would do the other 16" in out
    assert " MB for 16 units, by earlier records" in out


@pytest.mark.parametrize("rate", ["0", "-1"])
def test_a_rate_that_is_none_is_refused(type_in: TypeIn, rate: str) -> None:
    code, _, err = type_in("plan", "s.yaml", "--rate", rate)
    assert (code, "expected TFLOP a second, above 0" in err) == (2, True)


def test_an_estimate_from_no_run_is_refused(type_in: TypeIn) -> None:
    assert "is no run folder" in type_in("plan", "s.yaml", "--from", "absent")[2]


def test_a_quiet_run_says_failures_alone_and_a_verbose_one_each_unit(type_in: TypeIn, tmp_path: Path) -> None:
    models = [{"name": "fake/raises", "label": "a", "options": {"when": "two"}}]
    write(tmp_path, base(device="cpu", models=models))
    code, out, err = type_in("run", "s.yaml", "-q")
    assert code == 1
    assert "8 units" in out
    assert [line.split()[0] for line in err.splitlines()] == ["failed:", "skipped:", "failed"]
    _, _, err = type_in("run", "s.yaml", "--out", "other", "-v")
    assert err.count("ok: ") == 4
    assert "(score short a fake/brightness)" in err
    code, _, err = type_in("run", "s.yaml", "-q", "-v")
    assert (code, "--quiet and --verbose do not go together" in err) == (2, True)


def test_run_ends_with_the_table_and_a_second_run_does_nothing(harness: Harness, tmp_path: Path) -> None:
    first = run(harness)
    assert first.code == 0
    assert "### Moving squares" in first.out
    assert re.search(r"\| dense \(reference\) +\| [\d.]+ \[[\d.]+, [\d.]+\] 4/4", first.out)
    assert "18 units: 18 done now" in first.out
    assert "runs/tiny/records.jsonl" in first.out
    assert "18 of 18 units" in first.err
    records = (tmp_path / "runs/tiny/records.jsonl").read_bytes()
    second = run(harness)
    assert second.code == 0
    assert "nothing to do: all 18 units are done" in second.out
    assert "### Moving squares" in second.out
    assert (tmp_path / "runs/tiny/records.jsonl").read_bytes() == records


def test_a_limit_leaves_an_incomplete_run_that_goes_on(harness: Harness) -> None:
    first = run(harness, "--limit", "5")
    assert first.code == 3
    assert "18 units: 5 done now, 13 to do" in first.out
    assert "1/4" in first.out or "2/4" in first.out
    assert "fewer clips than planned; never ranked" in first.out
    assert "**" not in first.out
    assert "error" not in first.err
    table = harness("table", "runs/tiny", "--plugin", str(FAKES))
    assert (table.code, table.out in first.out) == (0, True)
    assert "18 units: 5 done before, 13 done now" in run(harness).out


def test_a_suite_that_refuses_short_means_shows_them_at_the_end_of_a_run_alone(
    harness: Harness, tmp_path: Path
) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE + "incomplete: refuse\n")
    first = run(harness, "--limit", "5")
    assert first.code == 3
    assert "fewer clips than planned; never ranked" in first.out
    assert "in files when no result is missing any more" in first.out
    assert not (tmp_path / "runs/tiny/tables").exists()
    refused = harness("table", "runs/tiny", "--plugin", str(FAKES))
    assert (refused.code, refused.out) == (3, "")
    assert "is refused: short: fake/brightness has" in refused.err
    assert run(harness).code == 0
    assert (tmp_path / "runs/tiny/tables/tiny.md").is_file()


def test_a_run_that_the_disk_stops_shows_what_there_is(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.errors import StorageError
    from harness.runs.records import RecordFile

    append, count = RecordFile.append_all, iter(range(100))

    def full(self: RecordFile, records: Iterable[Record]) -> object:
        if next(count) == 9:
            raise StorageError("records.jsonl cannot be written: No space left on device", "make room")
        return append(self, records)

    monkeypatch.setattr(RecordFile, "append_all", full)
    found = run(harness)
    assert found.code == 1
    assert "### Moving squares" in found.out
    assert "No space left on device" in found.err
    assert not (tmp_path / "runs/tiny/tables").exists()


def test_a_suite_of_clips_alone_ends_with_its_counts(harness: Harness, tmp_path: Path) -> None:
    text = SUITE.partition("measure:")[0].replace(", metrics: [fake/brightness]", "")
    (tmp_path / "suite.yaml").write_text(text)
    found = run(harness)
    assert (found.code, found.err.count("error")) == (0, 0)
    assert "8 units: 8 done now" in found.out


def test_dry_run_writes_nothing(harness: Harness, tmp_path: Path) -> None:
    found = run(harness, "--dry-run")
    assert found.code == 0
    assert "18 units on cpu: 8 to generate, 8 to score, 2 to measure" in found.out
    assert not (tmp_path / "runs").exists()


def test_a_failing_model_costs_its_rows_and_exit_code_1(harness: Harness, tmp_path: Path) -> None:
    text = SUITE.replace("{name: fake/moving, label: small, options: {chunk: 2}}", "{name: fake/raises, label: small}")
    (tmp_path / "suite.yaml").write_text(text + "incomplete: mark\n")
    found = run(harness)
    assert found.code == 1
    assert "Traceback" not in found.err
    assert re.search(r"failed: [0-9a-f]{12} \(generate short small, prompt 'a red circle'\): \w+", found.err)
    assert re.search(r"\| dense \(reference\) +\| [\d.]+ \[", found.out)
    failed = re.search(r"failed: ([0-9a-f]{12})", found.err)
    assert failed is not None
    record = harness("show", failed.group(1))
    assert record.code == 0
    assert '"status": "failed"' in record.out
    assert "Traceback (most recent call last)" in record.out


def test_ctrl_c_leaves_a_run_that_goes_on(harness: Harness, tmp_path: Path) -> None:
    slow = SUITE.replace("options: {chunk: 2}", "options: {chunk: 2, chunk_seconds: 600}")
    (tmp_path / "suite.yaml").write_text(slow)
    command = [sys.executable, "-m", "harness", "run", "suite.yaml", "--plugin", str(FAKES)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    records = tmp_path / "runs/tiny/records.jsonl"
    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline and not (records.is_file() and records.read_bytes().count(b"\n") >= 8):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 3
    assert "stopped: interrupted; run again to go on" in out
    assert "fewer clips than planned; never ranked" in out
    assert "Traceback" not in err
    assert "error" not in err
    (tmp_path / "suite.yaml").write_text(SUITE)
    again = run(harness)
    assert again.code == 0
    assert "18 units: 8 done before, 10 done now" in again.out


def test_a_run_folder_that_is_a_file_is_bad_input(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    found = run(harness, "--out", "taken")
    assert (found.code, "taken is a file" in found.err, "--out DIR" in found.err) == (2, True, True)
    assert (tmp_path / "taken").read_text() == "mine"


def test_plan_and_its_preimages(harness: Harness) -> None:
    plugin = ("--plugin", str(FAKES))
    body = json.loads(harness("plan", "suite.yaml", "--json", *plugin).out)
    assert [arm["label"] for arm in body["arms"]] == ["dense", "small"]
    lines = harness("plan", "suite.yaml", "--explain", *plugin).out.splitlines()
    assert len(lines) == 18
    for line in lines:
        key, _, text = line.partition(" ")
        assert hashlib.sha256(text.encode()).hexdigest() == key
    limited = harness("plan", "suite.yaml", "--set", "generate.short.seeds=[0]", *plugin).out
    assert "10 units on cpu" in limited


def test_failures_of_one_cause_are_one_line_with_a_count() -> None:
    out = io.StringIO()
    with Meter(Console(file=out, width=200)) as meter:
        for count in range(1, 33):
            error = {"type": "ClipError", "message": f"clip {'ab' * 16}{count}.mp4 has {count} frames"}
            context = {"section": "short", "arm": "dense", "plugin": "m", "prompt": f"p{count}"}
            meter(
                Tick(count, 40, count, 1.0, record=Record(f"{count:064x}", "score", "failed", {}, context, error=error))
            )
        other = Record(
            "b" * 64, "generate", "failed", {}, {"arm": "small"}, error={"type": "ModelFault", "message": "x"}
        )
        meter(Tick(33, 40, 33, 1.0, record=other))
    failed = [line for line in out.getvalue().splitlines() if line.startswith("failed")]
    assert [line.partition(" (")[0] for line in failed] == [
        f"failed: {'0' * 12}",
        f"failed: {'b' * 12}",
        f"failed 32 times so: {'0' * 12}",
    ]


def test_plain_progress_has_rate_and_time_left_and_says_a_reason_once() -> None:
    out = io.StringIO()
    now = [0.0]
    skipped = Record("a" * 64, "score", "skipped", {}, {"plugin": "m", "prompt": "p\x1b[0m"}, notes={"reason": "none"})
    with Meter(Console(file=out, width=200), clock=lambda: now[0]) as meter:
        meter(Tick(0, 40, 0, 0.0, "loading dense"))
        for count in range(1, 41):
            now[0] = 2.0 * count
            meter(Tick(count, 40, 0, now[0], record=skipped))
    lines = out.getvalue().splitlines()
    assert lines[0] == "loading dense"
    assert lines[2] == "1 of 40 units"
    assert lines[3] == "6 of 40 units, 2.0 s/unit, 1 min 08 s left"
    assert lines[-1] == "40 of 40 units, 2.0 s/unit"
    assert len(lines) == 3 + 8
    assert sum("skipped" in line for line in lines) == 1
    assert "\x1b" not in out.getvalue()


def test_progress_on_a_terminal_is_a_bar() -> None:
    out = io.StringIO()
    with Meter(Console(file=out, force_terminal=True, width=120, color_system=None)) as meter:
        meter(Tick(3, 4, 0, 1.0, record=Record("a" * 64, "generate", "ok", {}, {"arm": "dense", "section": "short"})))
    assert "dense short" in out.getvalue()
    assert "3/4" in out.getvalue()
    assert "3.0 units/s" in out.getvalue()


def test_words_of_progress() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3599, 7500)] == ["0 s", "1 min 00 s", "59 min 59 s", "2 h 05 min"]
    assert pace(Tick(0, 5, 0, 1.0)) == pace(Tick(2, 5, 0, 1.0)) == ""
    assert pace(Tick(3, 5, 0, 1.0)) == "3.0 units/s, 1 s left"
    assert pace(Tick(1, 1, 0, 2.0)) == "2.0 s/unit"
    bad = Record("a" * 64, "score", "failed", {}, {}, error={"type": "ClipError", "message": "too large\n  cut it"})
    assert failure(bad).endswith("ClipError: too large; cut it")
    assert shown("a\x07b\n c " + "x" * 500).startswith("a b c x")
    assert len(shown("y" * 500)) == 400

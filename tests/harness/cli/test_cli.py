"""The command line through `main`: what it prints, where, and its exit codes."""

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
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.main import main
from harness.cli.progress import Meter, duration, failure, pace
from harness.errors import shown
from harness.execute.outcome import Tick
from harness.runs.line import Record

FAKES = Path(__file__).parents[2] / "data" / "fake_models.py"

SUITE = """\
suite: tiny
title: Moving squares
models:
  - {name: fake/moving, label: dense}
  - {name: fake/moving, label: small, options: {chunk: 2}}
prompts:
  demo: ["a red circle", "../../<b>x</b> | 'y'"]
generate:
  - {name: short, prompts: demo, seeds: [0, 1], frames: 5, metrics: [fake/brightness]}
measure:
  - {name: count, probe: fake/count, prompts: demo, frames: 5}
"""


@dataclass
class Result:
    code: int
    out: str
    err: str


Harness = Callable[..., Result]


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Harness:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text(SUITE)

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        code = caught.value.code
        text = capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, text.out, text.err)

    return call


def run(harness: Harness, *more: str) -> Result:
    return harness("run", "suite.yaml", "--plugin", str(FAKES), *more)


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


def test_a_table_of_an_earlier_plan_is_removed_and_a_note_beside_it_is_not(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    tables = tmp_path / "runs/tiny/tables"
    (tables / "note.md").write_text("mine")
    (tmp_path / "suite.yaml").write_text(SUITE + "tables: [{name: other, columns: [{value: 'short:brightness'}]}]\n")
    run(harness)
    suffixes = (".csv", ".html", ".md", ".tex")
    assert sorted(path.name for path in tables.iterdir()) == ["note.md", *(f"other{suffix}" for suffix in suffixes)]
    for suffix in suffixes:
        (tables / f"stale{suffix}").write_text("of another plan")
    every = ("table", "--all", "runs", "--plugin", str(FAKES))
    assert harness(*every, "--check").code == 1
    assert harness(*every).code == 0
    assert not list(tables.glob("stale*"))


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


def test_table_formats_and_files(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    plugin = ("--plugin", str(FAKES))
    for name, mark in (("md", "### "), ("csv", "model,reference"), ("latex", r"\toprule"), ("html", "<!DOCTYPE")):
        assert mark in harness("table", "runs/tiny", "--format", name, *plugin).out
    assert harness("table", "runs/tiny", "--out", "made", *plugin).code == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    kept = {path.name: path.read_bytes() for path in (tmp_path / "runs/tiny/tables").iterdir()}
    assert made == kept
    assert sorted(kept) == ["tiny.csv", "tiny.html", "tiny.md", "tiny.tex"]


def test_all_tables_are_made_again_byte_for_byte(harness: Harness, tmp_path: Path) -> None:
    run(harness, "--out", "results/one")
    every = ("table", "--all", "results", "--plugin", str(FAKES))
    assert harness(*every, "--check").code == 0
    path = tmp_path / "results/one/tables/tiny.md"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    assert harness(*every, "--check").code == 1
    assert path.read_bytes() == before + b" "
    assert "written: results/one/tables/tiny.md" in harness(*every).out
    assert path.read_bytes() == before
    assert harness("table", "--all", "nowhere").code == 2


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


def test_by_prompt_view(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    found = harness("by-prompt", "runs/tiny", "--arm", "dense")
    assert "4 clips: runs/tiny/by-prompt" in found.out
    assert (tmp_path / "runs/tiny/by-prompt/dense/short/a red circle-1.mp4").is_file()


def test_show_asks_for_more_digits_and_knows_when_there_is_none(harness: Harness) -> None:
    assert harness("show", "ab").code == 2
    run(harness)
    assert "give more digits" in harness("show", "").err
    assert harness("show", "0" * 64, "--run", "runs/tiny").code == 2


@pytest.mark.parametrize("kind", ["models", "metrics", "probes", "suites"])
def test_lists(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/tiny.yaml").write_text(SUITE)
    (tmp_path / "suites/base.yaml").write_text("errors: stop\n")
    (tmp_path / "suites/broken.yaml").write_text("a: [")
    found = harness("list", kind, "--plugin", str(FAKES))
    assert found.code == 0
    expected = {"models": "fake/moving", "metrics": "fake/brightness", "probes": "fake/count", "suites": "Moving"}
    assert expected[kind] in found.out
    if kind == "metrics":
        assert "weights of the backbone are missing (harness env build backbone)" in found.out
    if kind == "suites":
        assert "base.yaml" not in found.out
        assert "cannot be read" in found.out


def test_describe(harness: Harness) -> None:
    plugin = ("--plugin", str(FAKES))
    body = json.loads(harness("describe", "fake/moving", "--json", "--set", "chunk=8", *plugin).out)
    assert body["options"]["chunk"] == 8
    assert body["card"]["frames_per_chunk"] == 8
    assert "cached scalars" in harness("describe", "fake/moving", *plugin).out
    wrong = harness("describe", "fake/moving", "--set", "chnk=8", *plugin)
    assert (wrong.code, "did you mean chunk?" in wrong.err) == (2, True)


def test_check(harness: Harness) -> None:
    good = harness("check", "fake/moving", "--plugin", str(FAKES))
    assert good.code == 0
    assert "ok        equal seeds give equal clips" in good.out
    for name in ("fake/brightness", "fake/count"):
        assert harness("check", name, "--plugin", str(FAKES)).code == 0
    misspelt = harness("check", "fake/coutn", "--plugin", str(FAKES))
    assert misspelt.code == 2
    assert "did you mean fake/count" in misspelt.err
    bad = harness("check", "fake/nan", "--plugin", str(FAKES))
    assert bad.code == 1
    assert re.search(r"FAILED +stream.*NaN", bad.out)


def test_new_model_runs_and_keeps_the_contract(harness: Harness, tmp_path: Path) -> None:
    made = harness("new", "model", "lab/my-model")
    assert made.code == 0
    assert "try: harness check lab/my-model --plugin lab_my_model.py" in made.out
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_lab_my_model.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert harness("new", "model", "lab/my-model").code == 2
    assert harness("new", "model", "../escape").code == 2


def test_new_process_runs_and_keeps_the_contract(harness: Harness, tmp_path: Path) -> None:
    made = harness("new", "process", "lab/mine")
    assert made.code == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"lab_mine.py", "lab_mine.yaml", "harness_stream.py"}
    command = made.out.rpartition("try: harness ")[2].split()
    checked = harness(*command, "--set", f"python={sys.executable}")
    assert checked.code == 0
    assert "ok        clip unchanged after loading again" in checked.out
    planned = harness("plan", "lab_mine.yaml")
    assert planned.code == 0
    assert harness("new", "process", "lab/mine").code == 2
    assert harness("new", "process", "lab/other").code == 0
    assert harness("new", "process", "harness-stream").code == 2
    (tmp_path / "harness_stream.py").write_text("older")
    assert "is not this harness's" in harness("new", "process", "lab/third").err


def test_doctor(harness: Harness, tmp_path: Path) -> None:
    found = harness("doctor", "--plugin", str(FAKES))
    for name in ("python", "torch", "device", "run folder", "video"):
        assert re.search(rf"^ok +{name}: ", found.out, re.MULTILINE)
    assert re.search(r"^not here +metric fake/unavailable: .*\n +harness env build backbone", found.out, re.MULTILINE)
    assert found.code == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
@pytest.mark.parametrize(
    ("torch", "triton", "cuda", "says"),
    [
        ("2.13.0+cpu", "3.7.1", False, "ok        triton: 3.7.1\n"),
        ("2.13.0+cpu", "3.9.0", False, "ok        triton: 3.9.0; on a GPU torch 2.13.0 runs 3.7.1\n"),
        ("2.13.0", "3.9.0", True, "MISSING   triton: 3.9.0; on a GPU torch 2.13.0 runs 3.7.1\n"),
        ("2.14.1", "3.8.0", True, "ok        triton: 3.8.0\n"),
        ("2.99.0", "3.9.0", True, "ok        triton: 3.9.0; the kernels were compiled with those of torch 2.13"),
    ],
)
def test_doctor_names_the_triton_that_a_gpu_runs(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, torch: str, triton: str, cuda: bool, says: str
) -> None:
    installed = {"torch": torch, "triton": triton}
    monkeypatch.setattr("harness.cli.doctor.version", lambda name: installed.get(name) or version(name))
    monkeypatch.setattr("harness.cli.doctor.devices.torch_has_cuda", lambda: cuda)
    found = harness("doctor")
    assert says in found.out
    assert found.code == int(says.startswith("MISSING"))
    assert ("pip install -c constraints.txt torch triton" in found.out) == bool(found.code)


@pytest.mark.parametrize(("devices", "mark"), [(0, "ok"), (1, "not here")])
def test_doctor_says_where_a_gpus_clocks_could_not_be_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, devices: int, mark: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("harness.cli.doctor.devices.cuda_devices", lambda: devices)
    monkeypatch.setattr(
        "harness.cli.doctor.devices.describe", lambda kind: {"name": "x", "cores": 1, "memory_bytes": 0}
    )
    found = harness("doctor")
    assert re.search(rf"^{mark} +nvml: ", found.out, re.MULTILINE)
    assert ("pip install -c constraints.txt nvidia-ml-py" in found.out) == bool(devices)
    assert found.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.yaml"], "absent.yaml"),
        (["table", "absent"], "no run folder"),
        (["list", "modells"], "did you mean models?"),
        (["describe", "fake/movin", "--plugin", str(FAKES)], "did you mean"),
        (["describe", "fake/moving", "--plugin", str(FAKES), "--set", "chunk"], "expected key=value"),
        (["table", "absent", "--check"], "--check needs --all"),
        (["run", "suite.yaml", "--plugin", "absent.py"], "absent.py does not exist"),
        (["nonsense"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "suite.yaml", "--out", ""], "an empty text names no folder"),
        (["describe", "fake/moving", "--plugin", str(FAKES), "--set", 'chunk=!!float ""'], "is no float"),
        (["describe", "fake/moving", "--plugin", str(FAKES), "--set", f"chunk=0x{'f' * 6000}"], "no finite number"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(harness: Harness, arguments: list[str], message: str) -> None:
    found = harness(*arguments)
    assert found.code == 2
    assert message in found.err
    assert "Traceback" not in found.err
    assert found.out == ""


def test_messages_cannot_drive_the_terminal(harness: Harness) -> None:
    found = harness("table", "a\x1b[31mb\nc")
    assert "\x1b" not in found.err
    assert "a [31mb c" in found.err


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


def test_a_run_folder_that_is_a_file_is_bad_input(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    found = run(harness, "--out", "taken")
    assert (found.code, "taken is a file" in found.err, "--out DIR" in found.err) == (2, True, True)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_table_without_its_plugin_says_how_to_bring_it(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    command = [sys.executable, "-m", "harness", "table", "runs/tiny"]
    # A user who has loaded the file before needs no flag.
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    other_user = {**os.environ, "VIDEOMLA_CACHE": str(tmp_path / "cache")}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=other_user)
    assert (found.returncode, f"--plugin {FAKES}" in found.stderr) == (2, True)
    assert harness("table", "runs/tiny", "--plugin", str(FAKES)).code == 0


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe\x00", "is no text in UTF-8"), (b"title: s\n", "key 'suite' is missing")]
)
def test_a_suite_that_is_no_suite_is_one_line(harness: Harness, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "other.yaml").write_bytes(content)
    found = harness("plan", "other.yaml")
    assert (found.code, says in found.err) == (2, True)
    assert found.err.startswith("error: other.yaml:1: ")
    folder = harness("plan", str(tmp_path))
    assert (folder.code, "it is no regular file" in folder.err) == (2, True)


def test_the_help_is_in_groups_in_the_order_of_use_and_whole_without_a_terminal(harness: Harness) -> None:
    listed = harness("--help")
    assert listed.code == 0
    assert harness("-h").out == listed.out
    headings = re.findall(r"^(\w.*):$", listed.out, re.MULTILINE)
    assert headings[0] == "Options"
    assert headings[-1] == "From installed packages"
    names = re.findall(r"^  ([a-z][a-z-]+)  ", listed.out, re.MULTILINE)
    assert [name for name in names if name in {"table", "doctor", "run", "plan", "gate"}] == [
        "doctor",
        "plan",
        "run",
        "table",
        "gate",
    ]
    assert {"convert", "kernels", "verify-trace"} <= set(names[-5:])
    assert "..." not in listed.out.partition("Look around")[2], "every command fits its line"
    assert "-h, --help" in harness("gate", "-h").out
    assert "--install-completion" in listed.out
    assert "--install-completion" not in harness("env", "--help").out


def test_version(harness: Harness) -> None:
    assert harness("--version").out == f"harness {version('videomla-bench')}\n"


def test_a_misspelt_command_names_the_nearest_one(harness: Harness) -> None:
    for written, meant in (("pln", "plan"), ("kernel", "kernels")):
        refused = harness(written)
        assert (refused.code, f"did you mean {meant}" in refused.err) == (2, True)


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    environment = {**os.environ, "_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": "harness ga", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "harness"]
    offered = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert offered.stdout.split() == ["gate"], offered.stderr


def test_run_names_the_page_and_page_and_sheet_make_theirs(harness: Harness, tmp_path: Path) -> None:
    assert f"page:    harness page runs/tiny --plugin {FAKES}\n" in run(harness).out
    made = harness("page", "runs/tiny", "--plugin", str(FAKES))
    assert made.out == "page: runs/tiny/page/index.html (8 clips)\n"
    assert (tmp_path / "runs/tiny/page/index.html").is_file()
    sheet = harness("sheet", "runs/tiny", "--prompts", "0", "--frames", "0,-1", "--out", "papers/a.png")
    assert sheet.out == "sheet: papers/a.png\n"
    assert (tmp_path / "papers/a.png").read_bytes().startswith(b"\x89PNG")
    assert harness("page", "runs/tiny", "--plugin", str(FAKES), "--out", "runs").err.startswith("error: runs holds")
    assert harness("sheet", "runs/tiny", "--frames", "first").err.startswith("error: --frames first: expected numbers")

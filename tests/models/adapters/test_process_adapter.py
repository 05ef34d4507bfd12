from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road import base, run

from harness.contracts import Prefix, Request, Switch, enforce, registry
from harness.errors import HarnessError, ModelFault, NotAvailable, OptionError
from harness.probes.batch_child import Job
from harness.probes.batch_scaling import run_child
from harness.probes.timing.clock import Clock, Recorder, Span
from harness.probes.timing.generation import generate
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.repeat import warm_up
from harness.runs.records import RecordFile
from harness.system.stream_process import MODULE
from harness.testing import check_model

DATA = Path(__file__).parents[2] / "data"
PROGRAM = "small_stream.py"


def arguments(place: Path, behaviour: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Options of a model whose program lies in `place` and does as `behaviour` says."""
    shutil.copy(DATA / PROGRAM, place)
    shutil.copy(MODULE, place)
    size = {"python": sys.executable, "folder": str(place), "file": PROGRAM, "height": 4, "width": 8, "chunk": 3}
    return {**size, "options": behaviour or {}, **more}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Makes and loads a model; it is ended after the test."""
    models = []

    def loaded(behaviour: dict[str, Any] | None = None, **more: Any) -> Any:
        models.append(registry.models.create("process", arguments(tmp_path, behaviour, **more)))
        models[-1].load("cpu")
        return models[-1]

    yield loaded
    for model in models:
        model.unload()


def play(model: Any, prompt: str = "abc", seed: int = 1, frames: int = 7, **more: Any) -> np.ndarray:
    request = Request((prompt,), (seed,), frames, **more)
    return np.concatenate([chunk[0] for chunk in enforce.chunks(model, request, model.describe())])


def values(clip: np.ndarray) -> list[int]:
    """The grey of each frame, which is the same all over it."""
    assert (clip == clip[:, :1, :1, :1]).all()
    return clip[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("prompt", ["abc", "two\nlines\r\n", '{"op": "stop"}', "🎥", "", "x" * 200_000])
def test_chunks_come_and_the_prompt_goes_as_it_is(load: Any, prompt: str) -> None:
    first = (7 * len(prompt) + 30) % 200
    assert values(play(load(), prompt)) == [(first + index) % 200 for index in (0, 0, 0, 1, 1, 1, 2)]


def test_a_batch_its_seeds_and_its_switches_reach_the_program(load: Any) -> None:
    model = load(takes=["switches"])
    request = Request(("a", "bb"), (0, 3), 9, (Switch(4, ("xxx", "yyyy")),))
    clips = np.concatenate(list(enforce.chunks(model, request, model.describe())), axis=1)
    assert values(clips[0]) == [7, 7, 7, 8, 8, 8, 23, 23, 23]
    assert values(clips[1]) == [104, 104, 104, 105, 105, 105, 120, 120, 120]
    assert model.switch_frames(request) == [6]
    assert play(model, frames=2).shape == (2, 4, 8, 3)


def test_a_prefix_reaches_the_program(load: Any) -> None:
    pixels = [np.full((frames, 4, 8, 3), 9 * frames, np.uint8) for frames in (1, 2)]
    prefixes = tuple(Prefix(Path("x"), "0", len(each), lambda each=each: each) for each in pixels)
    model = load(takes=["prefixes"])
    request = Request(("a", "a"), (0, 0), 3, prefixes=prefixes)
    (clips,) = enforce.chunks(model, request, model.describe())
    assert clips[:, 0, 0, 0, 0].tolist() == [70, 133]


def test_it_refuses_what_the_program_does_not_take(load: Any) -> None:
    with pytest.raises(OptionError, match="takes no switches"):
        play(load(), switches=(Switch(3, ("x",)),))
    with pytest.raises(OptionError, match="takes no prefixes"):
        play(load(), prefixes=(Prefix(Path("x"), "0", 1, lambda: np.zeros(1, np.uint8)),))


@pytest.mark.parametrize(("chunk", "first", "says"), [(3, 1, "ends at frame 3, not at 1"), (2, 3, "ends at frame 6")])
def test_chunks_that_do_not_begin_where_switches_are_stated_are_a_fault(
    load: Any, chunk: int, first: int, says: str
) -> None:
    model = load(takes=["switches"], chunk=chunk, first_chunk=first)
    with pytest.raises(ModelFault, match=says):
        play(model, frames=9, switches=(Switch(4, ("x",)),))
    assert len(play(model)) == 7


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    findings = check_model("process", arguments(tmp_path, takes=["switches"]), live=True)
    assert [finding for finding in findings if finding.ok is False] == []
    assert sum(finding.ok is True for finding in findings) >= 10


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("fails", "chunk 1: ValueError: no such block; its last output:\nstarted\nworking"),
        ("exit", "chunk 1: SystemExit: no GPU"),
        ("exits", "chunk 1: the program ended with exit status 3; its last output:\nstarted"),
        ("killed", "chunk 1: the program was killed by SIGKILL"),
        ("none", "chunk 1: TypeError: .*NoneType"),
        ("signed", "chunk 1 is b of 5 dimensions, not uint8"),
        ("flat", "chunk 1 is B of 1 dimensions"),
        ("large", r"chunk 1 of shape \[99, 3, 4, 8, 3\] holds more than the request"),
        ("wide", r"chunk 1 has shape \[1, 3, 8, 4, 3\], not \[1, frames, 4, 8, 3\]"),
        ("junk", "chunk 1: the program sent no message of harness_stream"),
        ("repeated", "chunk 1: its header says chunk 0"),
        ("long", "a message of 4294967295 bytes"),
        ("unasked", "sent 'ready' where chunk or done was due"),
        ("stages", r"stages are none of harness_stream: \['text', nan, 0, 0\]"),
        ("open", "a span is still open as chunk 1 is yielded"),
        ("shortened", "chunk 1: (PermissionError|its header says)"),
        ("header", "chunk 1: its header says chunk 1, 9223372036854775808 bytes"),
    ],
)
def test_a_fault_is_told_and_the_next_clip_is_made(load: Any, tmp_path: Path, fault: str, says: str) -> None:
    model = load({"fault": fault, "once": "happened"}, timeout=60)
    with pytest.raises(ModelFault, match=f"(?s){says}"):
        play(model)
    assert values(play(model)) == [51, 51, 51, 52, 52, 52, 53]


def wait_at_most(model: Any, seconds: float) -> None:
    """From here on, so that a sound program has the time that it needs on a busy machine."""
    model.options = model.options.model_copy(update={"timeout": seconds})


@pytest.mark.parametrize("fault", ["sleep", "stopped", "floods"])
def test_a_program_that_gives_nothing_is_ended_with_its_children(load: Any, tmp_path: Path, fault: str) -> None:
    model = load({"fault": fault})
    pid = model.process_state().pid
    wait_at_most(model, 0.5 if fault != "sleep" else 3)
    with pytest.raises(ModelFault, match=r"chunk \d: the program gave nothing for .* s and was ended") as caught:
        play(model)
    assert len(caught.value.message) < 17_000
    pids = [pid]
    if fault == "sleep" and (tmp_path / "pids").exists():
        pids += map(int, (tmp_path / "pids").read_text().split())
    _await_end(*pids)


def test_a_program_that_reads_nothing_is_ended(load: Any) -> None:
    model = load()
    os.kill(model.process_state().pid, signal.SIGSTOP)
    wait_at_most(model, 0.5)
    with pytest.raises(ModelFault, match=r"read nothing for 0.5 s and was ended"):
        play(model, "x" * 1_000_000)
    wait_at_most(model, 600)
    assert len(play(model, "x" * 1_000_000)) == 7


def test_a_program_that_prints_a_lot_makes_its_clip(load: Any) -> None:
    assert values(play(load({"fault": "flood"}))) == [51, 51, 51, 52, 52, 52, 53]


@pytest.mark.parametrize(
    ("behaviour", "more", "kind", "says"),
    [
        ({"load": "fails"}, {}, ModelFault, "loading: OSError: no weights in model.pt"),
        ({"load": "sleeps"}, {"load_timeout": 0.5}, ModelFault, "loading: .* nothing for 0.5 s"),
        ({}, {"python": "/no/python"}, NotAvailable, "interpreter '/no/python' is not here"),
        ({}, {"file": "other.py"}, NotAvailable, "other.py is not here"),
        ({}, {"folder": "/no"}, NotAvailable, "is not here"),
        ({}, {"python": shutil.which("true")}, ModelFault, "starting: the program ended with exit status 0"),
        ({}, {"start_timeout": 1e-9}, ModelFault, "starting: .* nothing for 1e-09 s"),
    ],
)
def test_a_program_that_does_not_load_says_why(
    load: Any, behaviour: dict[str, Any], more: dict[str, Any], kind: type[HarnessError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        load(behaviour, **more)


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    model = registry.models.create("process", arguments(tmp_path))
    text = MODULE.read_text().replace("PROTOCOL = 1\n", "PROTOCOL = 0\n")
    (tmp_path / MODULE.name).write_text(text)
    with pytest.raises(ModelFault, match="speaks protocol 0, not 1") as caught:
        model.load("cpu")
    assert "harness new process" in caught.value.fix


def test_every_file_that_decides_the_clips_is_in_the_identity(tmp_path: Path) -> None:
    options = arguments(tmp_path, files=["harness_stream.py"])
    one = registry.models.create("process", options).identity("cpu")
    (tmp_path / PROGRAM).write_text((DATA / PROGRAM).read_text() + "\n")
    assert registry.models.create("process", options).identity("cpu") != one
    with pytest.raises(NotAvailable, match=r"absent.pt cannot be read"):
        registry.models.create("process", {**options, "files": ["absent.pt"]}).describe()


def test_no_descriptor_and_no_memory_is_left_behind(load: Any) -> None:
    def count() -> int:
        return len(os.listdir("/dev/fd"))

    model = load()
    play(model)
    model.unload()
    before, named = count(), set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    for _ in range(3):
        model.load("cpu")
        play(model)
        model.unload()
    deadline = time.monotonic() + 60
    while count() != before and time.monotonic() < deadline:
        time.sleep(0.02)  # the thread that reads a program's output closes it
    assert count() == before
    assert named == (set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_ends_with_the_harness(tmp_path: Path, number: int) -> None:
    options = arguments(tmp_path, {"fault": "sleep"})
    code = (
        "from harness.contracts import Request, registry\n"
        f"model = registry.models.create('process', {options!r})\n"
        "model.load('cpu')\n"
        "list(model.stream(Request(('a',), (0,), 9)))"
    )
    harness = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    harness.send_signal(number)
    harness.wait()
    _await_end(*map(int, (tmp_path / "pids").read_text().split()))


def _await_end(*pids: int) -> None:
    deadline = time.monotonic() + 60
    while any(map(_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_clip_that_fails_does_so_alone_in_a_run(tmp_path: Path) -> None:
    options = arguments(tmp_path, {"fault": "killed", "once": "happened"})
    outcome = run(tmp_path, base(models=[{"name": "process", "label": "a", "options": options}]))
    assert (outcome.failed, outcome.done_now, outcome.pending) == (1, 6, 0)
    records = RecordFile(tmp_path / "run" / "records.jsonl").records()
    (failed,) = [record for record in records if record.status == "failed" and record.kind == "generate"]
    assert "killed by SIGKILL" in str(failed.error["message"])


# --------------------------------------------------------------------------------------------- measuring


def test_times_are_those_of_a_model_in_process(load: Any, tmp_path: Path) -> None:
    """The program moves the clock by hand, and both read it, so that the times are known to the nanosecond."""
    delays = {"text": 0.5, "denoise": 0.25, "decode": 0.125, "switch": 2.0}
    model = load({"virtual": "clock", "delays": delays}, takes=["switches"])
    request = Request(("a",), (0,), 7, (Switch(5, ("b",)),))

    def now() -> int:
        file = tmp_path / "clock"
        return int.from_bytes(file.read_bytes(), "little") if file.exists() else 0

    generation = generate(Clock(now=now), model, request, model.describe())
    assert generation.gaps == (0.875, 0.375, 2.375)
    assert generation.seconds == 3.625
    chunks = [Span(f"{name}", delays[kind], 0, i) for i in range(3) for kind, name in _names(i)]
    expected = [Span("text", 0.5), *chunks[:4], Span("switch", 2.0, 0, 2), *chunks[4:]]
    assert list(generation.spans) == expected
    assert generation.frames == (3, 3, 1)
    assert generation.switch_chunks == [2]


def _names(index: int) -> list[tuple[str, str]]:
    return [("denoise", f"chunk[{index}].denoise"), ("decode", f"decode[{index}]")]


def test_a_chunk_that_is_held_stays_as_it_is_and_its_place_is_used_again_later(load: Any) -> None:
    model = load()
    request = Request(("abc",), (1,), 30)
    held = list(model.stream(request))
    assert [int(chunk[0, 0, 0, 0, 0]) for chunk in held] == [51 + index for index in range(10)]
    held[0][:] = 7  # it may be written to, as any other chunk
    shared = model.process_state().shared_bytes
    del held
    for chunk in model.stream(request):
        assert (chunk == chunk[0, 0, 0, 0, 0]).all()
    assert 0 < model.process_state().shared_bytes <= shared


def test_spans_that_take_no_times_get_the_names(load: Any) -> None:
    clock = Clock()
    recorder = Recorder(clock)
    names = []

    def spans(name: str) -> Any:
        names.append(name)
        return recorder(name)

    list(load().stream(Request(("a",), (0,), 3), spans))
    assert names == ["text", "chunk[0].denoise", "decode[0]"]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of another process are in /proc")
def test_its_memory_is_that_of_its_process(load: Any) -> None:
    size = 64 << 20
    meter = MemoryMeter("cpu")
    model = load({"weight_bytes": size, "request_bytes": size // 2})
    meter.follow(model)
    assert meter.now() - meter.base == pytest.approx(size, rel=0.01)
    meter.reset()
    play(model)
    assert meter.peak()["peak_bytes"] == pytest.approx(1.5 * size, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="budgets are held on Linux alone")
def test_a_memory_budget_that_would_not_hold_it_is_refused(tmp_path: Path) -> None:
    job = Job("process", arguments(tmp_path), (), "cpu", ("a",), (0,), 6, 1, 64 << 20, preload=())
    row = run_child(job, 120)
    assert (row.outcome, row.kind) == ("failed", "NotAvailable")
    assert "which no memory budget holds" in row.message


def test_warming_up_waits_for_what_its_process_compiles(load: Any, tmp_path: Path) -> None:
    counts = iter([3, 4, 6, 6, 6, 6])
    warmup = warm_up(Clock(), lambda number: None, quiet=2, most=9, elsewhere=lambda: next(counts))
    assert (warmup.runs, warmup.compilations, warmup.quiet) == (4, 3, True)
    assert load().process_state().compilations == 0


# ----------------------------------------------------------------------------------- the copied module


def test_the_copied_module_is_plain_and_old_python() -> None:
    tree = ast.parse(MODULE.read_text(encoding="utf-8"), feature_version=(3, 8))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13"])
def test_other_pythons_stream(load: Any, version: str) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version}")
    assert len(play(load(python=python))) == 7


def test_started_by_hand_it_says_who_starts_it(tmp_path: Path) -> None:
    arguments(tmp_path)
    done = subprocess.run([sys.executable, PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "harness check process --set file=" in done.stderr

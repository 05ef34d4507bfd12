from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road import base, run

from harness.contracts import Prefix, Request, Switch, enforce, registry
from harness.errors import ClipError, HarnessError, ModelFault, NotAvailable, OptionError
from harness.runs.records import RecordFile

PROGRAM = """
import json, sys
import av, numpy as np
prompt = open(sys.argv[1], encoding="utf-8", newline="").read()
seed, frames, out = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
switches = json.load(open(sys.argv[5])) if len(sys.argv) > 5 else []
print("prompt", repr(prompt))
with av.open(out, "w") as container:
    stream = container.add_stream("libx264", rate=16, options={"crf": "8"})
    stream.width = stream.height = 16
    stream.pix_fmt = "yuv420p"
    for index in range(frames):
        value = (len(prompt) * 7 + seed * 30) % 200
        value = 250 if switches and index >= switches[0][0] else value
        frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), value, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
"""
ARGV = ["{python}", "make.py", "{prompt_file}", "{seed}", "{frames}", "{out}"]


def model(folder: Path, program: str = PROGRAM, argv: list[str] | None = None, **options: Any) -> Any:
    (folder / "make.py").write_text(program)
    made = registry.models.create("command", arguments(folder, argv=argv or ARGV, **options))
    made.load("cpu")
    return made


def arguments(folder: Path, **options: Any) -> dict[str, Any]:
    size = {"height": 16, "width": 16, "python": sys.executable, "folder": str(folder), "argv": ARGV}
    return {**size, "files": ["make.py"], **options}


def play(subject: Any, prompt: str = "abc", seed: int = 1, frames: int = 5, **more: Any) -> Any:
    request = Request((prompt,), (seed,), frames, **more)
    return np.concatenate([chunk[0] for chunk in enforce.chunks(subject, request, subject.describe())])


@pytest.mark.parametrize(
    "prompt", ["abc", "two\nlines\r\n", "{seed} {out}", "$(reboot); `ls` \"q\" 'r'", "🎥", "--help"]
)
def test_a_program_makes_clips_and_gets_the_prompt_as_it_is(tmp_path: Path, prompt: str) -> None:
    pixels = play(model(tmp_path), prompt, seed=1)
    assert pixels.shape == (5, 16, 16, 3)
    assert abs(float(pixels.mean()) - (len(prompt) * 7 + 30) % 200) <= 2


def test_a_batch_and_a_switch_reach_the_program(tmp_path: Path) -> None:
    subject = model(tmp_path, argv=[*ARGV, "{switches_file}"])
    request = Request(("a", "b"), (0, 3), 4, (Switch(2, ("x", "y")),))
    pixels = np.concatenate(list(enforce.chunks(subject, request, subject.describe())), axis=1)
    assert pixels.shape == (2, 4, 16, 16, 3)
    assert abs(float(pixels[1, 0].mean()) - 97) <= 2
    assert pixels[:, 2:].min() > 240
    with pytest.raises(OptionError, match="takes no switch"):
        play(model(tmp_path), switches=(Switch(2, ("x",)),))


@pytest.mark.parametrize("count", [1, 3])
def test_a_prefix_reaches_the_program_without_loss(tmp_path: Path, count: int) -> None:
    program = PROGRAM.replace(
        'print("prompt"',
        'shown = [f.to_ndarray(format="rgb24") for f in av.open(sys.argv[5]).decode(video=0)]\nprint("prompt"',
    ).replace("(16, 16, 3), value", "(16, 16, 3), len(shown) * 10 + shown[-1][3, 5, 1]")
    program = program.replace("switches = json.load(open(sys.argv[5])) if len(sys.argv) > 5 else []", "switches = []")
    pixels = np.zeros((count, 16, 16, 3), np.uint8)
    pixels[-1, 3, 5] = (9, 101, 40)
    prefixes = (Prefix(Path("none"), "0" * 64, count, lambda: pixels),)
    made = play(model(tmp_path, program, argv=[*ARGV, "{prefix_file}"]), prefixes=prefixes)
    assert made.shape == (5, 16, 16, 3)
    assert abs(float(made.mean()) - 101 - 10 * count) <= 1
    with pytest.raises(OptionError, match="takes no image or video prefix"):
        model(tmp_path).check_request(Request(("a",), (0,), 5, prefixes=prefixes))


@pytest.mark.parametrize(
    ("program", "kind", "says"),
    [
        (
            "import sys; print('loading'); sys.exit('no GPU found')",
            ModelFault,
            "ended with 1; .*\nloading\nno GPU found",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            ModelFault,
            "killed by signal 9; it printed nothing",
        ),
        ("print('did nothing')", ClipError, "wrote no clip to {out}; .*\ndid nothing"),
        ("import sys; open(sys.argv[4], 'w').write('junk')", ClipError, "cannot be decoded"),
        (PROGRAM.replace("range(frames)", "range(frames - 1)"), ModelFault, "gave 4 frames; 5 were asked for"),
        (PROGRAM.replace("16, 16, 3", "32, 32, 3").replace("= 16\n", "= 32\n"), ModelFault, "has shape"),
    ],
)
def test_a_program_that_fails_is_told_with_its_last_output(
    tmp_path: Path, program: str, kind: type[HarnessError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        play(model(tmp_path, program))


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pid', 'w').write(str(child.pid)); print('waiting', flush=True); time.sleep(600)\n"
    )
    # A busy machine may not come as far as the child before a short limit ends; then a longer one is tried.
    for limit in (3, 30, 300):
        with pytest.raises(ModelFault, match=f"did not end in {limit} s") as caught:
            play(model(tmp_path, program, timeout=limit))
        if "its last output:\nwaiting" in caught.value.message:
            break
    assert "its last output:\nwaiting" in caught.value.message
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_only_the_last_lines_of_a_long_log_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFault) as caught:
        play(model(tmp_path, "import sys\nfor n in range(99999): print('line', n)\nsys.exit(3)"))
    assert caught.value.message.count("\n") == 50
    assert caught.value.message.endswith("line 99998")


def test_the_program_does_not_inherit_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    program = "import os, sys; sys.exit(f\"{os.environ.get('PYTHONPATH')} {os.environ['MINE']}\")"
    with pytest.raises(ModelFault, match="None yes"):
        play(model(tmp_path, program, environment={"MINE": "yes"}))
    assert os.environ["PYTHONPATH"] == "/nowhere"


def test_a_missing_program_or_file_is_not_available(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="'no-such-program' is not here"):
        model(tmp_path, argv=["no-such-program", "{out}"])
    with pytest.raises(NotAvailable, match=r"weights\.pt cannot be read"):
        registry.models.create("command", arguments(tmp_path, files=["weights.pt"])).describe()


def test_the_content_of_its_files_is_in_the_key_and_their_place_is_not(tmp_path: Path) -> None:
    from road import planned

    def keys(folder: Path, text: str) -> set[str]:
        folder.mkdir(exist_ok=True)
        (folder / "make.py").write_text(text)
        options = arguments(folder)
        data = base(models=[{"name": "command", "label": "c", "options": options}])
        return {unit.key for unit in planned(tmp_path, data).units}

    assert keys(tmp_path / "x", "1") == keys(tmp_path / "y", "1")
    assert not keys(tmp_path / "x", "1") & keys(tmp_path / "x", "2")


def test_a_run_of_a_program_on_the_road(tmp_path: Path) -> None:
    (tmp_path / "make.py").write_text(PROGRAM)
    outcome = run(tmp_path, base(models=[{"name": "command", "label": "c", "options": arguments(tmp_path)}]))
    assert outcome.exit_code == 0
    assert len(list(RecordFile(tmp_path / "run" / "records.jsonl").records())) == 8


def test_a_programs_clip_is_kept_as_it_wrote_it_at_its_own_rate(tmp_path: Path) -> None:
    """48 frames at 24 a second stay two seconds, though the option says 16."""
    program = PROGRAM.replace("rate=16", "rate=24")
    (tmp_path / "make.py").write_text(program)
    data = base(models=[{"name": "command", "label": "c", "options": arguments(tmp_path, frame_rate=16)}])
    data["generate"][0]["frames"] = 48
    assert run(tmp_path, data).exit_code == 0
    records = [r for r in RecordFile(tmp_path / "run" / "records.jsonl").records() if r.kind == "generate"]
    assert {(r.clip["frames"], r.clip["frame_rate"], str(r.clip["encoder"])) for r in records} == {
        (48, 24.0, "{'kept': 'as it was'}")
    }


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (PROGRAM.replace("range(frames)", "range(frames - 1)"), "has 5 frames; 6 were asked for"),
        (PROGRAM.replace("range(frames)", "range(frames + 1)"), "has more; 6 were asked for"),
        (PROGRAM.replace("16, 16, 3", "32, 32, 3").replace("= 16\n", "= 32\n"), "has frames of 32x32, not 16x16"),
    ],
)
def test_a_programs_clip_of_another_length_or_size_is_a_failed_record(tmp_path: Path, program: str, says: str) -> None:
    (tmp_path / "make.py").write_text(program)
    data = base(models=[{"name": "command", "label": "c", "options": arguments(tmp_path)}], errors="continue")
    assert run(tmp_path, data).failed == 4
    records = [r for r in RecordFile(tmp_path / "run" / "records.jsonl").records() if r.kind == "generate"]
    assert all(says in r.error["message"] for r in records)

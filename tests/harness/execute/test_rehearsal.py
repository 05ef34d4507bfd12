"""A rehearsal takes the whole road small, says what stops the real run, and is taken for no result."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from road import FAKES

from harness import api
from harness.cli.main import main
from harness.contracts import Clip, Metric, Value, registry
from harness.contracts.registry import metrics
from harness.errors import RecordError
from harness.execute.rehearsal import rehearsal_of
from harness.metrics.vbench_protocol import SuitePrompt, write_prompts
from harness.report.tables import build
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite
from harness.system import video

ROOT = Path(__file__).parents[3]
SUITES = sorted(path for path in (ROOT / "suites").rglob("*.yaml") if path.parent.name not in ("base", "training"))
FAST = ("complexity", "kernels", "score")
"""Suites that take seconds; the quickstart is rehearsed for every test below."""
PROMPT = "a red circle moves slowly to the left on a navy background"


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and errors of a command in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def here(suite: Path, folder: Path) -> tuple[Path, list[str]]:
    """A suite with the files that its user brings, as small as they can be: its path, and what to override."""
    if suite.stem == "score":
        clips = folder / "clips"
        clips.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
        for seed in (0, 1):
            video.write(clips / f"{PROMPT}-{seed}.mp4", [pixels], 16.0, 8, "ultrafast")
        return suite, [f"models.clips.options.path={clips}", f"prompts.clips.folder={clips}"]
    if not suite.stem.startswith("vbench"):
        return suite, []
    copies = folder / "suites"
    (copies / "prompts").mkdir(parents=True)
    for path in suite.parent.glob("vbench_*.yaml"):
        shutil.copy(path, copies)
    listed = [
        SuitePrompt(PROMPT, ("object_class", "temporal_flickering")),
        SuitePrompt("In a still frame, a sign", ("temporal_flickering",)),
        SuitePrompt("a dog", ("object_class",)),
    ]
    write_prompts(copies / "prompts", listed)
    (copies / "prompts" / "moviegen.txt").write_text("a cat\na dog\na horse\n")
    return copies / suite.name, []


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_every_suite_has_a_small_plan_of_all_its_parts(suite: Path, tmp_path: Path) -> None:
    whole = load_suite(*here(suite, tmp_path))
    rehearsal = rehearsal_of(whole)
    plan = make(rehearsal.suite)
    assert [arm.label for arm in plan.arms] == [entry.label for entry in whole.models]
    for kind in ("generate", "measure"):
        names = [[section.name for section in getattr(each, kind)] for each in (whole, plan.suite)]
        assert names[0] == names[1]
    assert [table.name for table in plan.suite.tables] == [table.name for table in whole.tables]
    assert all(arm.card.weights != "trained" or "trained" in arm.name for arm in plan.arms)
    clips = [unit.preimage["frames"] for unit in plan.units if unit.kind == "generate"]
    assert all(frames == "all" or frames <= 160 for frames in clips)
    assert len(clips) <= 2 * len(plan.arms) * max(1, len(whole.generate))
    assert all(unit.preimage["rehearsal"] for unit in plan.units)
    assert json.loads(json.dumps(to_json(plan)))["suite"]["rehearsal"] is True
    assert len([part for part in rehearsal.parts if part.kind == "model"]) == len(whole.models)


@pytest.mark.parametrize(
    "suite",
    [pytest.param(path, marks=() if path.stem in FAST else pytest.mark.slow) for path in SUITES],
    ids=lambda path: path.stem,
)
def test_every_suite_is_rehearsed(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, changes = here(suite, tmp_path)
    sets = [part for each in changes for part in ("--set", each)]
    code, out, err = call(capsys, "rehearse", path, "--out", tmp_path / "out", "-q", *sets)
    assert code in (0, 3), out + err
    assert "FAILED" not in out
    assert re.search(r"^(ran|not tried) +tables ", out, re.MULTILINE), out


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a rehearsal of the quickstart, and of a real run of a small suite."""
    folder = tmp_path_factory.mktemp("rehearsed")
    with pytest.raises(SystemExit) as end:
        main(["rehearse", str(ROOT / "suites/quickstart.yaml"), "--out", str(folder / "rehearsal"), "-q"])
    assert end.value.code == 0
    suite = {
        "suite": "real",
        "models": [{"name": "toy/dense", "label": "dense"}],
        "prompts": {"few": [PROMPT]},
        "generate": [{"name": "short", "prompts": "few", "frames": 21, "metrics": ["toy/world"]}],
    }
    (folder / "real.yaml").write_text(yaml.safe_dump(suite))
    api.run(folder / "real.yaml", out=folder / "run")
    return folder / "rehearsal", folder / "run"


def test_everything_of_it_says_that_it_is_no_result(rehearsed: tuple[Path, Path]) -> None:
    folder, _ = rehearsed
    records = list(RecordFile(folder / "records.jsonl").records())
    assert records
    assert all(record.preimage["rehearsal"] is True for record in records)
    assert json.loads((folder / "plan.json").read_text())["suite"]["rehearsal"] is True
    tables = folder / "tables"
    for path in tables.glob("*.md"):
        text = path.read_text()
        assert text.startswith("### REHEARSAL, no result: ")
        assert "Rehearsal with tiny models of random weights: no number here is a result." in text
        assert "**" not in text
    for path in tables.glob("comparison.*"):
        assert path.read_text().count("rehearsal: ") >= 2, path
    pictures = list(tables.glob("*.svg"))
    assert len(pictures) == 4
    assert all("REHEARSAL, no result" in path.read_text() for path in pictures)


@pytest.mark.parametrize(
    "command",
    [
        ("table", "RUN", "REHEARSAL"),
        ("table", "REHEARSAL", "--long"),
        ("compare", "REHEARSAL", "dense", "videomla"),
        ("compare", "RUN", "REHEARSAL"),
        ("gate", "REHEARSAL", "--baseline", "RUN"),
        ("gate", "RUN", "--baseline", "REHEARSAL"),
        ("merge", "OUT", "RUN", "REHEARSAL"),
        ("merge", "OUT", "REHEARSAL"),
        ("page", "REHEARSAL"),
        ("sheet", "REHEARSAL"),
        ("by-prompt", "REHEARSAL"),
        ("plan", "QUICKSTART", "--from", "REHEARSAL"),
    ],
    ids=" ".join,
)
def test_nothing_takes_it_for_a_run(
    rehearsed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    folder, real = rehearsed
    names = {"REHEARSAL": folder, "RUN": real, "OUT": tmp_path / "out", "QUICKSTART": ROOT / "suites/quickstart.yaml"}
    code, _, err = call(capsys, *(names.get(word, word) for word in command))
    assert code == 2
    assert f"{folder} is a rehearsal, and nothing of it is a result" in err
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_the_interface_for_programs_refuses_it_too(rehearsed: tuple[Path, Path]) -> None:
    folder, real = rehearsed
    with pytest.raises(RecordError, match="is a rehearsal"):
        api.read_runs(folder)
    with pytest.raises(RecordError, match="is a rehearsal"):
        build([load_run(real), load_run(folder, rehearsal=True)])


def test_its_units_are_none_of_the_real_ones() -> None:
    suite = load_suite(ROOT / "suites/quickstart.yaml")
    small = rehearsal_of(suite).suite
    unmarked = small.model_copy(update={"rehearsal": False})
    assert not {unit.key for unit in make(small).units} & {unit.key for unit in make(unmarked).units}


def test_a_folder_that_is_no_rehearsal_is_left_alone(
    rehearsed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, real = rehearsed
    before = (real / "records.jsonl").read_bytes()
    suite = ROOT / "suites/quickstart.yaml"
    code, _, err = call(capsys, "rehearse", suite, "--out", real)
    assert (code, "is there and is no rehearsal" in err) == (2, True)
    assert (real / "records.jsonl").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert call(capsys, "rehearse", suite, "--out", tmp_path)[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------ what stops a run

LARGE = """
from harness.contracts import ModelCard, VideoModel
from harness.contracts.registry import models


@models.register("lab/large")
class Large(VideoModel):
    def describe(self):
        return ModelCard("large", 480, 832, 16.0, 4, parameters=14_000_000_000)

    def stream(self, request, spans=None):
        raise MemoryError("14 billion parameters")


@models.register("lab/package")
class NeedsPackage(VideoModel):
    def describe(self):
        return ModelCard("small", 32, 32, 16.0, 4, parameters=10)

    def load(self, device):
        import a_package_that_is_not_here

    def stream(self, request, spans=None):
        yield from ()
"""


@pytest.fixture
def stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """Of a suite in which much is wrong, how each part ended, by name."""
    (tmp_path / "large.py").write_text(LARGE)
    suite = {
        "suite": "wrong",
        "plugins": ["large.py", str(FAKES)],
        "models": [
            {"name": "toy/dense", "label": "dense"},
            {"name": "toy/trained", "label": "trained", "options": {"checkpoints": ["nowhere.safetensors"]}},
            {"name": "self-forcing", "label": "no weights"},
            {"name": "lab/large", "label": "large"},
            {"name": "lab/package", "label": "package"},
            {"name": "fake/raises", "label": "raises"},
        ],
        "prompts": {"few": [PROMPT, PROMPT.replace("red", "blue"), PROMPT.replace("red", "green")]},
        "generate": [
            {
                "name": "short",
                "prompts": "few",
                "seeds": [0, 1, 2],
                "frames": 400,
                "metrics": [
                    "frames/difference",
                    "fake/unavailable",
                    {"name": "fake/faulty", "options": {"fault": "raise"}},
                ],
            }
        ],
        "measure": [
            {"name": "count", "probe": "fake/count", "prompts": "few", "frames": 400, "models": ["dense"]},
            {"name": "fast", "probe": "kernels"},
        ],
    }
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    code, out, err = call(capsys, "rehearse", tmp_path / "wrong.yaml", "--out", tmp_path / "out", "--json", "-q")
    assert code == 1, err
    return {body["name"]: body for body in json.loads(out)}


def test_each_stop_is_told_by_its_part(stopped: dict[str, dict[str, Any]]) -> None:
    says = {
        "dense": ("ran", ""),
        "trained": ("stopped", "nowhere.safetensors"),
        "no weights": ("stopped", "needs weights"),
        "large": ("not tried", "14,000,000,000 parameters and no tiny size"),
        "package": ("failed", "ModuleNotFoundError: No module named 'a_package_that_is_not_here'"),
        "raises": ("failed", "the weights are haunted"),
        "frames/difference": ("ran", ""),
        "fake/unavailable": ("stopped", "weights of the backbone are missing"),
        "fake/faulty": ("failed", "no shape found"),
        "fake/count": ("ran", ""),
        "kernels": ("stopped", "CUDA device only"),
    }
    assert {name: body["ended"] for name, body in stopped.items() if name in says} == {
        name: ended for name, (ended, _) in says.items()
    }
    assert [name for name, (_, text) in says.items() if text not in stopped[name]["reason"]] == []
    assert stopped["fake/unavailable"]["fix"] == "harness env build backbone"
    assert stopped["large"]["stands_in"]


UNRULY = """
from harness.contracts import Metric, ModelCard, Probe, Value, VideoModel
from harness.contracts.registry import metrics, models, probes


@models.register("unruly/model")
class Model(VideoModel):
    def describe(self):
        return ModelCard("small", 32, 32, 16.0, 4, parameters=10)

    def stream(self, request, spans=None):
        yield from ()

    def tiny(self):
        return 7


@metrics.register("unruly/metric")
class Numbers(Metric):
    values = (Value("one"),)

    def score(self, clip):
        return {"one": 1.0}

    def shortest(self, frame_rate):
        raise ZeroDivisionError("no rate")


@probes.register("unruly/probe")
class Measures(Probe):
    values = (Value("one"),)

    def tiny(self):
        raise KeyError("small")

    def measure(self, subject, workload, context):
        raise AssertionError
"""


def test_plugins_that_cannot_say_how_small_they_are_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "unruly.py").write_text(UNRULY)
    section = {"name": "clips", "prompts": "few", "frames": 400, "metrics": ["unruly/metric"]}
    suite = {
        "suite": "unruly",
        "plugins": ["unruly.py"],
        "models": [{"name": "unruly/model", "label": "a"}],
        "prompts": {"few": [PROMPT]},
        "generate": [section],
        "measure": [{"name": "measured", "probe": "unruly/probe", "prompts": "few", "frames": 9}],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    rehearsal = rehearsal_of(load_suite(tmp_path / "s.yaml"))
    stops = {part.name: part.stop or part.note for part in rehearsal.parts}
    assert stops == {
        "a": "a stand-in took its place: TypeError: 'int' object is not iterable",
        "unruly/metric": "ZeroDivisionError: no rate",
        "unruly/probe": "KeyError: 'small'",
    }
    assert make(rehearsal.suite).units


def test_a_switch_keeps_its_place_among_chunks_in_a_short_clip(tmp_path: Path) -> None:
    registry.load_plugin(FAKES)
    prompts = [PROMPT, PROMPT.replace("red", "blue"), PROMPT.replace("red", "green")]
    suite = {
        "suite": "switching",
        "models": [{"name": "fake/chunked", "label": "chunked", "options": {"chunk": 12}}],
        "prompts": {"first": prompts, "second": prompts[::-1]},
        "generate": [
            {
                "name": "long",
                "prompts": "first",
                "frames": 960,
                "switches": [{"frame": 320, "prompts": "second"}, {"frame": 640, "prompts": "first"}],
                "metrics": [{"name": "vbench_long", "options": {"seconds": 2.0}}],
            },
            {"name": "own", "prompts": "first", "frames": 30, "switches": [{"frame": 7, "prompts": "second"}]},
        ],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    long, own = rehearsal_of(load_suite(tmp_path / "s.yaml")).suite.generate
    # Two pieces of two seconds at 16 frames/s, and one frame more, for each of three prompts.
    assert (long.frames, [switch.frame for switch in long.switches]) == (195, [65, 130])
    assert (own.frames, [switch.frame for switch in own.switches]) == (30, [7])


@metrics.register("fake/demanding")
class Demanding(Metric):
    """Takes frames of 72 pixels and more, and wants the prompts with a `green` in them tried."""

    values = (Value("one"),)

    def score(self, clip: Clip) -> dict[str, float]:
        return {"one": float(min(clip.height, clip.width) >= self.smallest())}

    def smallest(self) -> int:
        return 72

    def to_try(self, prompts: Sequence[str]) -> Sequence[int]:
        return [number for number, prompt in enumerate(prompts) if "green" in prompt]


def test_frames_and_prompts_are_what_the_metrics_need(tmp_path: Path) -> None:
    """Frames grow where a tiny size names them, a stand-in's too; a prompt that a value needs comes with the first."""
    colours = ["red", "blue", "white", "yellow", "green"]
    suite = {
        "suite": "demanding",
        "models": [
            {"name": "self-forcing", "label": "wan", "options": {"weights": "random"}},
            {"name": "toy/trained", "label": "lost", "options": {"checkpoints": ["nowhere.safetensors"]}},
            {"name": "toy/dense", "label": "toy"},
            {"name": "self-forcing", "label": "other", "options": {"weights": "random"}},
        ],
        "prompts": {"few": [PROMPT.replace("red", colour) for colour in colours]},
        "generate": [
            {
                "name": "short",
                "prompts": "few",
                "frames": 81,
                "metrics": ["fake/demanding"],
                "models": ["wan", "lost", "toy"],
            },
            {"name": "bare", "prompts": "few", "frames": 81, "models": ["other"]},
        ],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    small = rehearsal_of(load_suite(tmp_path / "s.yaml")).suite
    sizes = {entry.label: (entry.options.get("height"), entry.options.get("width")) for entry in small.models}
    assert sizes == {"wan": (80, 80), "lost": (80, 80), "toy": (None, None), "other": (32, 48)}
    assert [text.split()[1] for text in small.prompts["few"].texts] == ["red", "blue", "green"]
    assert make(small).units

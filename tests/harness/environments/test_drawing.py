"""A rehearsal scores by random weights that are drawn for it, in the environment, and leaves none behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from road import FAKES
from test_worker_metric import built  # noqa: F401 - fixture

from harness.cli.main import main
from harness.contracts import Json, Options, Value, registry
from harness.environments.weights.manifest import read_manifest
from harness.environments.worker.client import Limits
from harness.environments.worker.metric import WorkerMetric
from harness.errors import NotAvailable
from harness.metrics.clip_score import TINY
from harness.runs.records import RecordFile

HERE = Path(__file__).parent
SMALL, LARGE = "ViT-B-32/openai", "ViT-L-14/openai"
PROMPT = "a red circle moves slowly to the left on a navy background"


class GroupOptions(Options):
    group: str = SMALL


class Drawn(WorkerMetric):
    """Scores by the number in a file of the set `clip`."""

    schema = GroupOptions
    values = (Value("score"),)
    environment = "quality"
    job = HERE / "fake_reading_job.py"
    drawing = HERE / "fake_drawing.py"
    weights = "clip"
    limits = Limits(start=300, setup=300, score=300, silence=300, beat=0.1)
    packages: ClassVar[tuple[str, ...]] = ("pip",)

    def weight_groups(self) -> Sequence[str]:
        return (self.options.group,)

    def job_options(self) -> dict[str, Json]:
        (file,) = read_manifest().get(self.weights).needed(self.weight_groups())
        return {"file": file.path}


@pytest.fixture
def named() -> Iterator[None]:
    registry.metrics._classes["test/drawn"] = Drawn
    yield
    del registry.metrics._classes["test/drawn"]


def rehearse(folder: Path, capsys: pytest.CaptureFixture[str], metrics: list[Any]) -> tuple[int, dict[str, Any]]:
    """Exit code, and how each part ended, by name."""
    suite = {
        "suite": "drawn",
        "plugins": [str(FAKES)],
        "models": [{"name": "fake/moving", "label": "a"}],
        "prompts": {"few": [PROMPT]},
        "generate": [{"name": "clips", "prompts": "few", "frames": 21, "metrics": metrics}],
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    with pytest.raises(SystemExit) as end:
        main(["rehearse", str(folder / "s.yaml"), "--out", str(folder / "out"), "--json", "-q"])
    out, err = capsys.readouterr()
    assert out, err
    return int(end.value.code or 0), {body["name"]: body for body in json.loads(out)}


def scores(folder: Path) -> list[float]:
    records = RecordFile(folder / "out" / "records.jsonl").records()
    return [record.values["score"] for record in records if (record.kind, record.status) == ("score", "ok")]


@pytest.mark.usefixtures("named")
def test_missing_weights_are_told_and_random_ones_scored_by(
    built: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, ends = rehearse(built, capsys, ["test/drawn"])
    end = ends["test/drawn"]
    assert (code, end["ended"], end["fix"]) == (3, "stopped", f"harness fetch clip --only {SMALL}")
    assert str(built / "weights" / "clip" / "ViT-B-32/openai.pt") in end["reason"]
    assert end["note"] == "ran on random weights"
    assert scores(built) == [0.25]
    assert not list(built.glob("weights/**/*"))
    assert {path.name for path in (built / "out").iterdir() if "drawn" in path.name} == set()


@pytest.mark.usefixtures("named")
def test_weights_that_are_here_are_left_alone(built: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    path = built / "weights" / "clip" / "ViT-B-32" / "openai.pt"
    path.parent.mkdir(parents=True)
    path.write_text("0.75")
    code, ends = rehearse(built, capsys, ["test/drawn"])
    assert (code, ends["test/drawn"]["ended"], ends["test/drawn"]["note"]) == (0, "ran", "on random weights")
    assert scores(built) == [0.25]
    assert path.read_text() == "0.75"


@pytest.mark.usefixtures("named")
def test_weights_that_cannot_be_drawn_fail_by_name(built: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    code, ends = rehearse(built, capsys, [{"name": "test/drawn", "options": {"group": LARGE}}])
    assert (code, ends["test/drawn"]["ended"]) == (1, "failed")
    assert "cannot be drawn: ImportError: no package draws this" in ends["test/drawn"]["reason"]


@pytest.mark.usefixtures("named")
def test_without_the_environment_the_line_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    code, ends = rehearse(tmp_path, capsys, ["test/drawn"])
    end = ends["test/drawn"]
    assert (code, end["ended"], end["fix"], end["note"]) == (3, "stopped", "harness env build quality", "")
    assert scores(tmp_path) == []


def test_a_metric_without_a_drawing_says_so(tmp_path: Path) -> None:
    class Bare(Drawn):
        drawing = None

    with pytest.raises(NotAvailable, match="nothing draws random weights of clip"):
        Bare(GroupOptions()).draw(tmp_path)


def test_a_clip_keeps_its_preparation_and_the_form_of_its_file(tmp_path: Path) -> None:
    """A small network in place of any: an archive as OpenAI's, safetensors as LAION's, frames prepared as for them."""
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"weights")
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "quick_gelu": False}
    cases: list[tuple[dict[str, Json], str, tuple[float, ...], bool]] = [
        ({}, "random_archive.pt", (0.48145466, 0.4578275, 0.40821073), True),
        ({"pretrained": "laion2b_s32b_b82k"}, "random_weights.safetensors", (0.5, 0.5, 0.5), False),
        (
            {"checkpoint": str(mine), "pretrained": "", "resize": "squash", **given},
            "random_weights.safetensors",
            (0.1, 0.2, 0.3),
            False,
        ),
    ]
    for options, name, mean, quick_gelu in cases:
        metric: Any = registry.metrics.create("clip/score", options)
        small: Any = registry.metrics.create(
            "clip/score", {**metric.options.model_dump(mode="json"), **metric.drawn(tmp_path)}
        )
        assert small.options.model == TINY
        assert Path(small.options.checkpoint) == tmp_path / "clip" / name
        assert small.options.frames == metric.options.frames
        assert (small.preparation()["mean"], small.preparation()["quick_gelu"]) == (mean, quick_gelu)
        assert small.drawing_options() == {"model": TINY, "file": name, "script": name.endswith("archive.pt")}

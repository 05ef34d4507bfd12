"""A model as one more rater: both orders, its answers on file, and its agreement with people."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import studies

from harness.errors import HarnessError, NotAvailable, PluginFault, RecordError
from harness.metrics import judge_client
from harness.metrics.judge_client import JudgeOptions
from harness.study import design, judges
from harness.study.tally import tally
from harness.study.votes import collect


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judges")
    study = studies.make_study(folder, "adherence", "adherence", raters=4, each=18)
    studies.vote_all(folder / "study", study, lambda *_: "b")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))


def grey(image: bytes) -> float:
    """The mean of the lower half of a JPEG."""
    (picture,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(image))
    pixels = picture.to_ndarray(format="gray")
    return float(np.mean(pixels[pixels.shape[0] // 2 :]))


def lighter(options: JudgeOptions, text: str, images: Sequence[bytes]) -> str:
    """Prefers the lighter video, and says so."""
    if "video A" in text:
        half = len(images) // 2
        return json.dumps({"adherence": "A" if grey(images[0]) > grey(images[half]) else "B"})
    return f"I say {json.dumps({'adherence': 5 if grey(images[0]) > 150 else 1})}."


def asked(folder: Path, name: str = "model") -> judges.Judged:
    study = design.load(folder / "study")
    return judges.judge(folder / "study", study, JudgeOptions(command=["x"]), name, lambda *_: None)


def test_a_judge_is_held_to_people(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_client, "ask", lighter)
    assert asked(folder).answered == 18
    monkeypatch.setattr(judge_client, "ask", lambda *_: '{"adherence": "A"}')
    biased = asked(folder, "biased")
    # Twelve ratings are none; in both orders its preferences are none either.
    assert biased.answered == 6
    assert sum(biased.failed.values()) == 12
    study = design.load(folder / "study")
    answers = judges.read(folder / "study", study)
    assert {tuple(said.values()) for said in answers["biased"].values()} == {(0.0,)}
    people = tally(study, collect(folder / "study", study), None, judges=answers)
    by_place = {(each.value, each.question): each for each in people.agreement}
    # Arm b is the lighter one, and people prefer it.
    assert by_place["judge model", "adherence"].accuracy == 1
    assert by_place["judge model", "adherence_rating"].accuracy == 1
    assert by_place["judge model", "adherence_rating"].tau == 1
    assert by_place["judge biased", "adherence"].accuracy is None
    assert ("judge biased", "adherence_rating") not in by_place


def test_nobody_is_asked_unless_named(folder: Path) -> None:
    study = design.load(folder / "study")
    with pytest.raises(NotAvailable, match="no judge is named"):
        judges.judge(folder / "study", study, JudgeOptions(), "model", lambda *_: None)
    for name in ("", "../x", "a b", "x" * 90):
        with pytest.raises(HarnessError, match="--name"):
            asked(folder, name)


def test_answers_that_are_none_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> str:
        raise PluginFault("the judge is away")

    monkeypatch.setattr(judge_client, "ask", away)
    judged = asked(folder, "away")
    assert (judged.answered, dict(judged.failed)) == (0, {"the judge is away": 18})
    assert not judged.file.exists()
    monkeypatch.setattr(judge_client, "ask", lambda *_: '{"adherence": "C"}')
    assert asked(folder, "away").answered == 0


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 1, "study": "other", "answers": {}}', "[" * 50_000])
def test_files_that_are_none_are_one_line(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / judges.FOLDER).mkdir()
    (tmp_path / judges.FOLDER / "x.json").write_text(content)
    with pytest.raises(RecordError, match=r"x\.json") as caught:
        judges.read(tmp_path, design.load(folder / "study"))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("number", ["1" + "0" * 400, "NaN", "Infinity", "-1e999", "5.5", "true", '"4"', "[1]", "null"])
def test_an_answer_that_is_no_number_is_one_line(folder: Path, tmp_path: Path, number: str) -> None:
    study = design.load(folder / "study")
    files = tmp_path / judges.FOLDER
    files.mkdir()
    content = '{"schema": 1, "study": "%s", "answers": {"0": {"adherence": %s}}}'
    (files / "good.json").write_text(content % (study.id, "-0.5"))
    assert judges.read(tmp_path, study) == {"good": {0: {"adherence": -0.5}}}
    (files / "x.json").write_text(content % (study.id, number))
    with pytest.raises(RecordError, match=r"x\.json is no file of a judge"):
        judges.read(tmp_path, study)


def test_a_judges_file_has_a_size(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = design.load(folder / "study")
    (tmp_path / judges.FOLDER).mkdir()
    content = json.dumps({"schema": 1, "study": study.id, "answers": {}})
    (tmp_path / judges.FOLDER / "x.json").write_text(content)
    assert judges.read(tmp_path, study) == {"x": {}}
    monkeypatch.setattr(judges, "LARGEST_FILE", 20)
    with pytest.raises(RecordError, match="no file of a judge"):
        judges.read(tmp_path, study)


def test_the_command_asks_a_program(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "judge.py"
    program.write_text("import json, sys\njson.load(sys.stdin)\nprint(json.dumps({'adherence': 'same'}))\n")
    command = [sys.executable, "-m", "harness", "study", "judge", str(folder / "study"), "--name", "program"]
    done = subprocess.run(
        [*command, "--set", f"command=[{sys.executable}, {program}]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "program.json (6 pairs or clips)" in done.stdout
    assert "no answer, 12 times" in done.stdout
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "no judge is named" in refused.stderr

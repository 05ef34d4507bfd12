"""A folder of good and bad clips scored in a run: each bad one is a record with its cause, the rest is scored."""

import itertools
import shutil

import numpy as np
import pytest
from road import run
from vbench_helpers import clip_of, texture, write

from harness.errors import Incomplete
from harness.execute.outcome import Outcome
from harness.metrics.vbench import VBench, VBenchOptions
from harness.report import tables
from harness.runs.records import RecordFile, load_run

pytestmark = pytest.mark.vbench

FRAMES = 6
DIMENSIONS = ["temporal_flickering", "background_consistency"]
GOOD = ["a dog_runs - fast", 'it\'s "quoted" 50% _d', "odd", "-é 猫" + "a" * 200]
BAD = {
    "empty": "empty-0.mp4 cannot be decoded",
    "truncated": "truncated-0.mp4 cannot be decoded",
    "text": "text-0.mp4 cannot be decoded",
    "one frame": "has 1 frames; 6 were asked for",
    "varying": "has a frame rate that varies",
    "missing": "no clip of seed 0",
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made elsewhere")
    times = list(itertools.accumulate([0, 40, 120, 60, 200, 20]))
    first, second, _, last = GOOD
    whole = write(folder / f"{first}-0.mp4", texture(FRAMES, 64, 96, 0, 2), crf=0)
    shutil.copy(whole, folder / f"{second}-0.mp4")
    write(folder / "odd-0.mp4", texture(FRAMES, 35, 51, 1, 2))
    write(folder / "varying-0.mp4", texture(FRAMES, 64, 96, 2, 1), times=times)
    write(folder / f"{last}-0.mp4", np.repeat(texture(1, 64, 96, 3, 0), FRAMES, axis=0), crf=0)
    (folder / "empty-0.mp4").touch()
    (folder / "truncated-0.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "text-0.mp4").write_text("this is no video\n" * 100)
    write(folder / "one frame-0.mp4", texture(1, 64, 96, 4, 0))
    return folder


def suite(clips, incomplete):
    return {
        "suite": "elsewhere",
        "incomplete": incomplete,
        "errors": "continue",
        "models": [{"name": "folder", "label": "clips", "options": {"path": str(clips)}}],
        "prompts": {"p": [*GOOD, *BAD]},
        "generate": [
            {
                "name": "clips",
                "prompts": "p",
                "seeds": [0],
                "frames": FRAMES,
                "metrics": [{"name": "vbench", "options": {"dimensions": DIMENSIONS}}],
            }
        ],
    }


def test_bad_clips_are_failed_records_and_the_rest_is_scored(weights, clips, tmp_path):
    stopped = run(tmp_path, suite(clips, "refuse"), limit=3)
    assert (stopped.done_now, stopped.failed) == (3, 0)
    outcome: Outcome = run(tmp_path, suite(clips, "refuse"))
    assert outcome.already_done == 3
    assert (outcome.failed, outcome.skipped, outcome.pending) == (len(BAD), len(BAD), 0)
    assert outcome.exit_code == 1
    held = RecordFile(tmp_path / "run" / "records.jsonl")
    records = [held.at(entry.offset) for entry in held.newest().values()]
    made = {record.context["prompt"]: record for record in records if record.kind == "generate"}
    scored = {record.context["prompt"]: record for record in records if record.kind == "score"}
    for prompt, cause in BAD.items():
        assert made[prompt].status == "failed"
        assert cause in made[prompt].error["message"]
        assert scored[prompt].status == "skipped"
    for prompt in GOOD:
        assert scored[prompt].status == "ok"
        assert all(0 < scored[prompt].values[name] < 1 + 1e-6 for name in DIMENSIONS)
        assert scored[prompt].notes["packages"]["vbench"] == "0.1.5"
    assert scored[GOOD[0]].values == pytest.approx(scored[GOOD[1]].values, abs=1e-12, nan_ok=True)
    assert scored[GOOD[-1]].values["temporal_flickering"] == 1.0
    with pytest.raises(Incomplete, match="vbench has 4 of 10 results"):
        tables.build([load_run(tmp_path / "run")])


def test_the_mean_over_the_rest_is_marked_where_the_suite_says_so(weights, clips, tmp_path):
    run(tmp_path, suite(clips, "mark"))
    (table,) = tables.build([load_run(tmp_path / "run")])
    cells = [cell for row in table.rows for cell in row.cells if cell.value is not None]
    assert cells
    assert all((cell.scored, cell.planned) == (len(GOOD), len(GOOD) + len(BAD)) and cell.marks for cell in cells)


def test_clips_made_elsewhere_score_as_where_they_lie(weights, clips, tmp_path):
    data = suite(clips, "mark")
    data["prompts"]["p"] = GOOD[:1]
    run(tmp_path, data)
    held = RecordFile(tmp_path / "run" / "records.jsonl")
    (values,) = [held.at(entry.offset).values for entry in held.newest().values() if entry.kind == "score"]
    metric = VBench(VBenchOptions(dimensions=DIMENSIONS))
    metric.setup("cpu")
    there = metric.score(clip_of(clips / f"{GOOD[0]}-0.mp4"))
    metric.close()
    for name in DIMENSIONS:
        assert values[name] == pytest.approx(there[name], abs=1e-9), name

"""A worker that fails in every way, in a run: each failure is a record with its cause, and the rest is scored."""

import pytest
from road import base, run
from test_worker_metric import Fake, built, named  # noqa: F401 - fixtures

from harness.environments.worker.client import Limits
from harness.errors import Incomplete
from harness.report import tables
from harness.runs.records import RecordFile, load_run

ACTS = ["die", "kill", "hang", "hoard", "noise", "raise", "exit", "wrong", "text", "a dog", "network"]
CAUSES = {
    "die": ("WorkerFault", "exit status 3"),
    "kill": ("WorkerFault", "SIGKILL"),
    "hang": ("WorkerFault", "took more than 5 s"),
    "hoard": ("JobFault", "MemoryError"),
    "raise": ("JobFault", "the third frame is odd"),
    "exit": ("JobFault", "a package called exit"),
    "wrong": ("JobFault", "not a dictionary"),
    "text": ("JobFault", "could not convert"),
    "network": ("JobFault", "refused"),
}


def suite(incomplete: str, acts=ACTS):
    section = {"name": "short", "prompts": "p", "seeds": [0], "frames": 6, "metrics": ["test/fake"]}
    return base(prompts={"p": acts}, generate=[section], incomplete=incomplete, errors="continue")


@pytest.fixture
def folder(built, named, monkeypatch):  # noqa: F811 - fixtures
    monkeypatch.setattr(Fake, "limits", Limits(start=300, setup=300, score=5, silence=300, beat=0.1, memory=1 << 30))
    return built


def test_each_failure_is_a_record_and_a_mean_over_the_rest_is_refused(folder):
    outcome = run(folder, suite("refuse"))
    assert (outcome.failed, outcome.skipped, outcome.pending, outcome.exit_code) == (len(CAUSES), 0, 0, 1)
    held = RecordFile(folder / "run" / "records.jsonl")
    records = [held.at(entry.offset) for entry in held.newest().values() if entry.kind == "score"]
    found = {record.context["prompt"]: record for record in records}
    for act, (kind, says) in CAUSES.items():
        assert found[act].status == "failed"
        assert found[act].error["type"] == kind
        assert says in found[act].error["message"]
        if kind == "JobFault":
            assert "in score" in found[act].error["traceback"]
    for act in ("noise", "a dog"):
        assert found[act].status == "ok"
        assert found[act].values == {"score": 3.0, "reads": 1.0}
        assert found[act].samples == {"per_frame": [0.5, 1.5]}
        assert found[act].notes["environment"] == "quality"
    with pytest.raises(Incomplete, match="test/fake has 2 of 11 results"):
        tables.build([load_run(folder / "run")])


def test_a_mean_over_the_rest_is_marked_where_the_suite_says_so(folder):
    run(folder, suite("mark", ["die", "noise", "raise", "a dog"]))
    (table,) = tables.build([load_run(folder / "run")])
    cells = [cell for row in table.rows for cell in row.cells]
    assert any((cell.scored, cell.planned) == (2, 4) and cell.marks for cell in cells)

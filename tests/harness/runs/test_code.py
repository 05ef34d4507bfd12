"""Code that stands in no key: its digest is in the records, and results of another text are told."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from road import base, planned, run, run_here, write

from harness.cli.main import main
from harness.contracts import registry
from harness.report.tables import build
from harness.runs.line import Record, encode
from harness.runs.plan import make
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite

OWN = """\
from harness.contracts import Metric, Value, registry

@registry.metrics.register("NAME")
class Own(Metric):
    version = "1"
    values = (Value("own"),)

    def score(self, clip):
        return {"own": 1.0}
"""

PROGRAM = """\
import sys
from pathlib import Path
import numpy as np
from harness.system import video

video.write(Path(sys.argv[1]), iter([np.zeros((4, 16, 16, 3), np.uint8)]), 16.0, 8, "veryfast")
"""


def records(folder: Path) -> list[Record]:
    return list(RecordFile(folder / "records.jsonl").records())


def of_kind(folder: Path, kind: str) -> list[Record]:
    return [record for record in records(folder) if record.kind == kind]


def with_text(path: Path, text: str) -> None:
    """Give the records in `path` the digest of another text of own.py."""
    changed = []
    for record in RecordFile(path).records():
        code: Any = dict(record.context.get("code", {}))
        if "own.py" in code:
            code["own.py"] = hashlib.sha256(text.encode()).hexdigest()
        changed.append(encode(replace(record, context={**record.context, "code": code})))
    path.write_bytes(b"".join(changed))


@pytest.fixture
def suite(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A suite with a metric from a file of its own."""
    name = f"own/{request.node.name}"
    (tmp_path / "own.py").write_text(OWN.replace("NAME", name))
    registry.load_plugin(tmp_path / "own.py")
    section = {**base()["generate"][0], "metrics": [name, "fake/brightness"]}
    return base(generate=[section])


def test_a_record_has_the_digest_of_its_plugins_and_the_key_has_not(tmp_path: Path, suite: dict[str, Any]) -> None:
    run(tmp_path, suite)
    digest = hashlib.sha256((tmp_path / "own.py").read_bytes()).hexdigest()
    scores = {str(record.context["plugin"]): record for record in of_kind(tmp_path / "run", "score")}
    own = next(record for name, record in scores.items() if name.startswith("own/"))
    assert own.context["code"] == {"own.py": digest}
    assert set(scores["fake/brightness"].context["code"]) == {"fake_models.py"}  # type: ignore[arg-type]
    assert set(of_kind(tmp_path / "run", "generate")[0].context["code"]) == {"fake_models.py"}  # type: ignore[arg-type]
    assert digest not in json.dumps(own.preimage)


def test_results_of_another_text_are_named(tmp_path: Path, suite: dict[str, Any]) -> None:
    assert run(tmp_path, suite).remarks == ()
    path = tmp_path / "run" / "records.jsonl"
    with_text(path, "another text")
    outcome = run(tmp_path, suite)
    assert outcome.done_now == 0
    (remark,) = outcome.remarks
    assert remark.startswith("own.py has another text today, under the same version, than 4 results were made with: ")
    own = [record.key[:12] for record in records(tmp_path / "run") if str(record.context["plugin"]).startswith("own/")]
    assert all(key in remark for key in own)


def test_records_without_digests_say_nothing(tmp_path: Path, suite: dict[str, Any]) -> None:
    run(tmp_path, suite)
    path = tmp_path / "run" / "records.jsonl"
    bare = []
    for record in RecordFile(path).records():
        bare.append(encode(replace(record, context={n: v for n, v in record.context.items() if n != "code"})))
    path.write_bytes(b"".join(bare))
    assert run(tmp_path, suite).remarks == ()


def test_a_table_tells_of_several_texts(tmp_path: Path, suite: dict[str, Any]) -> None:
    plan = planned(tmp_path, suite)
    run_here(plan, tmp_path / "run", limit=5)
    with_text(tmp_path / "run" / "records.jsonl", "another text")
    run_here(plan, tmp_path / "run")
    (table,) = build([load_run(tmp_path / "run")])
    assert any("its results were made with 2 texts of own.py under one version" in each for each in table.remarks)


def command_suite(folder: Path, **options: Any) -> Path:
    (folder / "make.py").write_text(PROGRAM)
    argv = [sys.executable, "make.py", "{out}"]
    model = {"name": "command", "options": {"argv": argv, "folder": str(folder), "height": 16, "width": 16, **options}}
    section = {"name": "short", "prompts": "p", "frames": 4}
    return write(folder, base(models=[model], generate=[section], device="cpu"))


def test_an_edited_program_is_told(tmp_path: Path) -> None:
    suite = load_suite(command_suite(tmp_path))
    assert run_here(make(suite, "cpu"), tmp_path / "run").done_now == 2
    (tmp_path / "make.py").write_text(PROGRAM + "# edited\n")
    outcome = run_here(make(suite, "cpu"), tmp_path / "run")
    assert outcome.done_now == 0
    (remark,) = outcome.remarks
    assert remark.startswith("make.py has another text today")


def test_what_a_program_names_beside_its_keyed_files(tmp_path: Path) -> None:
    command_suite(tmp_path)
    (tmp_path / "conf.yaml").touch()
    argv = ["make.py", "--config=conf.yaml", "absent.py", "{out}", "x" * 5000, "--seed"]
    create = registry.models.create
    options = {"argv": argv, "folder": str(tmp_path), "height": 16, "width": 16}
    model = create("command", options)
    assert [path.name for path in model.unkeyed_files()] == ["make.py", "conf.yaml"]
    keyed = create("command", {**options, "files": ["make.py"]})
    assert [path.name for path in keyed.unkeyed_files()] == ["conf.yaml"]


def test_a_dry_run_tells_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = command_suite(tmp_path)
    run_here(make(load_suite(path), "cpu"), tmp_path / "run")
    (tmp_path / "make.py").write_text(PROGRAM + "# edited\n")
    with pytest.raises(SystemExit):
        main(["run", str(path), "--out", str(tmp_path / "run"), "--dry-run"])
    assert "note: make.py has another text today, under the same version, than 2 results" in capsys.readouterr().out

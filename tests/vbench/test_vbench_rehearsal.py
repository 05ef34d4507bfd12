"""VBench in a rehearsal: every dimension scores by random weights that are drawn for it, and none are left."""

import json
from pathlib import Path

import pytest
import yaml

from harness.cli.main import main
from harness.metrics.vbench import NEEDS
from harness.metrics.vbench_long import CONSISTENCY
from harness.metrics.vbench_totals import DIMENSIONS, SIX
from harness.runs.records import RecordFile

pytestmark = pytest.mark.vbench

CUSTOM = [name for name in DIMENSIONS if name not in (*NEEDS, "appearance_style")]


def test_every_dimension_is_rehearsed_without_weights(environment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("VIDEOMLA_WORKER_THREADS", "1")
    suite = {
        "suite": "drawn",
        "models": [{"name": "self-forcing", "label": "a"}],
        "prompts": {"few": ["a red circle moves slowly to the left on a navy background"]},
        "generate": [
            {"name": "short", "prompts": "few", "frames": 81, "metrics": ["vbench"]},
            {"name": "long", "prompts": "few", "frames": 200, "metrics": ["vbench_long"]},
        ],
        "tables": [{"name": "quality", "columns": [{"value": f"short:{name}"} for name in CUSTOM]}],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    with pytest.raises(SystemExit) as end:
        main(["rehearse", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"), "--json", "-q"])
    out, err = capsys.readouterr()
    ends = {body["name"]: body for body in json.loads(out)}
    assert end.value.code == 3, out + err
    for name in ("vbench", "vbench_long"):
        assert (ends[name]["ended"], ends[name]["note"]) == ("stopped", "ran on random weights")
        assert ends[name]["fix"].startswith("harness fetch vbench --only ")
    records = list(RecordFile(tmp_path / "out" / "records.jsonl").records())
    values = {record.context["plugin"]: record.values for record in records if record.kind == "score"}
    assert [name for name in CUSTOM if values["vbench"][name] is None] == []
    names = [*SIX, *(f"{name}_long_range" for name in CONSISTENCY)]
    assert [name for name in names if values["vbench_long"][name] is None] == []
    assert not list(Path(tmp_path).glob("weights/**/*"))
    assert not (tmp_path / "out" / ".drawn").exists()
    assert "REHEARSAL, no result" in (tmp_path / "out" / "tables" / "quality.md").read_text()

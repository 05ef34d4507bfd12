"""CLIP, HPSv3 and LPIPS in a rehearsal: each scores by random weights that are drawn for it, and none are left."""

import json

import pytest
import yaml

from harness.cli.main import main
from harness.runs.records import RecordFile

pytestmark = pytest.mark.quality

METRICS = ("clip/score", "clip/segments", "hpsv3/mean_of_frames", "hpsv3/best_share", "against/lpips")


def test_every_metric_is_rehearsed_without_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))
    uses = [{"name": name} for name in METRICS if name != "against/lpips"]
    suite = {
        "suite": "drawn",
        "models": [{"name": "toy/dense", "label": "a"}, {"name": "toy/videomla", "label": "b"}],
        "prompts": {"few": ["a red circle moves slowly to the left on a navy background"]},
        "generate": [
            {
                "name": "short",
                "prompts": "few",
                "frames": 81,
                "metrics": [*uses, {"name": "against/lpips", "against": "a"}],
            }
        ],
        "tables": [{"name": "quality", "columns": [{"value": "short:clip_t"}, {"value": "short:lpips"}]}],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    with pytest.raises(SystemExit) as end:
        main(["rehearse", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"), "--json", "-q"])
    out, err = capsys.readouterr()
    assert end.value.code == 3, out + err
    ends = {body["name"]: body for body in json.loads(out)}
    assert {ends[name]["note"] for name in METRICS} == {"ran on random weights"}
    assert ends["clip/score"]["fix"] == "harness fetch clip --only ViT-L-14/openai"
    assert ends["hpsv3/best_share"]["fix"] == "harness fetch hpsv3"
    records = [record for record in RecordFile(tmp_path / "out" / "records.jsonl").records() if record.kind == "score"]
    assert {record.context["plugin"] for record in records} == set(METRICS)
    assert {record.status for record in records} == {"ok"}
    assert not list(tmp_path.glob("weights/**/*"))
    assert "REHEARSAL, no result" in (tmp_path / "out" / "tables" / "quality.md").read_text()

"""A probe of one's own, given by `--plugin`, feeds a table and a plot, and says by typed fields what is in doubt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.contracts import Agreement, Audit, Measurement, Probe, ProbeTable, Value
from harness.errors import PluginFault
from harness.report.samples import doubts, uncleared
from harness.report.table import CONTENDED, UNCLEARED, UNCONVERGED, UNHELD
from harness.runs.measured import Judgement, judgement, record_notes, record_samples, record_values
from harness.runs.records import RecordFile

PLUGIN = '''
from collections.abc import Iterator
import numpy as np
from harness.contracts import Measurement, ModelCard, Options, Probe, ProbeTable, Value, VideoModel, no_spans
from harness.contracts.registry import models, probes


class HueOptions(Options):
    tone: int = 0


@models.register("own/hue")
class Hue(VideoModel):
    schema = HueOptions

    def describe(self):
        return ModelCard("hues", height=16, width=16, frame_rate=8.0, frames_per_chunk=4)

    def stream(self, request, spans=no_spans):
        yield np.full((request.batch, request.frames, 16, 16, 3), self.options.tone, np.uint8)


class GaugeOptions(Options):
    doubtful: bool = False


@probes.register("own/gauge")
class Gauge(Probe):
    """Two chunks, and two ways to cut them."""

    schema = GaugeOptions
    values = (Value("pace", "s", "lower", "pace"),)
    plots = ("chunk_time",)
    has_table = True

    def measure(self, subject, workload, context):
        tone = float(subject.options["tone"])
        doubtful = self.options.doubtful
        return Measurement(
            {"pace": tone},
            {"chunk_s_by_index": [tone, 2 * tone]},
            converged=not doubtful,
            contended=doubtful,
            agreement="no reference" if doubtful else None,
            table=ProbeTable("Ways to cut", "way", [("pace", "s", "lower")], [("long", [1.5]), ("short", [np.nan])]),
        )
'''
SUITE: dict[str, Any] = {
    "suite": "own",
    "device": "cpu",
    "models": [
        {"name": "own/hue", "label": name, "options": {"tone": tone}} for name, tone in (("one", 1), ("two", 2))
    ],
    "prompts": {"p": ["a cat"]},
    "measure": [{"name": "gauge", "probe": "own/gauge", "prompts": "p", "frames": 4}],
    "tables": [{"name": "paces", "columns": [{"value": "gauge:pace"}]}],
    "plots": [{"name": "chunks", "kind": "chunk_time", "section": "gauge"}],
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(PLUGIN)
    return folder


def run(folder: Path, out: str, **changes: Any) -> int:
    (folder / "suite.yaml").write_text(yaml.safe_dump({**SUITE, **changes}))
    with pytest.raises(SystemExit) as ended:
        main.main(["run", str(folder / "suite.yaml"), "--out", str(folder / out), "--plugin", str(folder / "own.py")])
    return int(ended.value.code or 0)


def test_its_table_and_its_plot_are_shown(own: Path) -> None:
    assert run(own, "run") == 0
    tables = own / "run" / "tables"
    body = (tables / "gauge-one.md").read_text()
    assert "Ways to cut" in body
    assert "| long  | 1.5" in body
    assert "not measured" in body
    assert (tables / "chunks.svg").read_text().count("two") >= 1
    assert (tables / "paces.md").read_text().count("§") == 0


def test_its_doubts_mark_the_cells(own: Path) -> None:
    assert run(own, "doubtful", measure=[{**SUITE["measure"][0], "options": {"doubtful": True}}]) == 0
    body = (own / "doubtful" / "tables" / "paces.md").read_text()
    assert all(mark in body for mark in (CONTENDED, UNCONVERGED, UNHELD))
    record = next(iter(RecordFile(own / "doubtful" / "records.jsonl").records()))
    assert (record.values["converged"], record.values["contended"]) == (0.0, 1.0)
    assert math.isnan(record.values["agreement_error"])
    assert record.notes["agreement"] == {"verdict": "no reference"}


def test_a_plot_that_it_does_not_declare_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(own, "no", plots=[{"name": "chunks", "kind": "complexity", "section": "gauge"}]) == 2
    assert "'own/gauge', which cannot be drawn as complexity" in capsys.readouterr().err


class Plain(Probe):
    values = (Value("pace"),)

    def measure(self, *arguments: object) -> Measurement:
        raise NotImplementedError


class Drawn(Plain):
    plots = ("chunk_time",)


def test_what_has_a_field_of_its_own_is_refused_elsewhere_with_the_remedy() -> None:
    with pytest.raises(PluginFault, match="gave converged, agreement_error among its values") as refused:
        record_values("probe x", Plain.values, Measurement({"pace": 1.0, "converged": 1.0, "agreement_error": 0.0}))
    assert "Measurement(converged=…, agreement=…)" in refused.value.fix
    with pytest.raises(PluginFault, match="gave audit, table among its notes"):
        record_notes("probe x", Plain, Measurement({"pace": 1.0}, notes={"table": {}, "audit": {}}))
    with pytest.raises(PluginFault, match="gave a table that it does not declare"):
        record_notes("probe x", Plain, Measurement({"pace": 1.0}, table=ProbeTable("t", "c", [], [])))
    with pytest.raises(PluginFault, match="declares the plot chunk_time, and gave no chunk_s_by_index"):
        record_samples("probe x", Drawn, Measurement({"pace": 1.0}))


@pytest.mark.parametrize(
    ("fields", "judged", "marks"),
    [
        ({}, Judgement(None, None, None, None), ()),
        ({"converged": True, "contended": False}, Judgement(True, False, None, None), ()),
        ({"converged": False}, Judgement(False, None, None, None), (UNCONVERGED,)),
        ({"contended": True}, Judgement(None, True, None, None), (CONTENDED,)),
        ({"agreement": "not taken"}, Judgement(None, None, False, None), (UNHELD,)),
        ({"agreement": Agreement("slow", 1e-4, 1e-3, 1)}, Judgement(None, None, True, None), ()),
        ({"audit": Audit("passed", [1.0], [1.0])}, Judgement(None, None, None, "passed"), ()),
        ({"audit": Audit("left out")}, Judgement(None, None, None, "left out"), (UNCLEARED,)),
    ],
)
def test_a_record_gives_the_typed_fields_back(
    fields: dict[str, Any], judged: Judgement, marks: tuple[str, ...]
) -> None:
    measurement = Measurement({"pace": 1.0}, **fields)
    values, notes = record_values("x", Plain.values, measurement), record_notes("x", Plain, measurement)
    found = judgement(values, notes)
    assert found == judged
    assert (*doubts([found]), *uncleared([found], [])) == marks


def test_a_verdict_that_nobody_knows_clears_nothing() -> None:
    assert judgement({}, {"audit": {"verdict": "splendid"}}).audit == "unclear"
    assert judgement({}, {"audit": "splendid"}).audit is None

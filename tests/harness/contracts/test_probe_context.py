"""A probe is told where it measures: device, scratch folder, progress. One of before is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contracts import Options, Probe, Value, registry
from harness.errors import RegistryError, SuiteError
from harness.execute.outcome import Tick
from harness.execute.run import run_plan
from harness.runs.plan import make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go of what the plug-in files of these tests register, as soon as they end."""
    monkeypatch.setattr(registry.probes, "_classes", dict(registry.probes._classes))


KEEPER = """
from harness.contracts import Measurement, Probe, Value
from harness.contracts.registry import probes


@probes.register("{name}")
class Keeper(Probe):
    values = (Value("times"),)
    needs_model = False

    def measure(self, subject, workload, context):
        context.scratch.mkdir(exist_ok=True)
        kept = context.scratch / "times"
        times = int(kept.read_text()) + 1 if kept.exists() else 1
        kept.write_text(str(times))
        context.report("half of it")
        with context.spans("the other half"):
            return Measurement({{"times": times}}, notes={{"device": context.device}})
"""


def test_a_probe_is_told_device_and_scratch_and_tells_its_progress(tmp_path: Path) -> None:
    plugin = tmp_path / "keeper.py"
    plugin.write_text(KEEPER.format(name="context/keeper"))
    registry.load_plugin(plugin)
    suite = tmp_path / "suite.yaml"
    suite.write_text("suite: kept\ndevice: cpu\nmeasure:\n  - {name: s, probe: context/keeper, rounds: 2}\n")
    ticks: list[Tick] = []
    run_plan(make(load_suite(suite)), tmp_path / "run", progress=ticks.append)
    records = list(RecordFile(tmp_path / "run" / "records.jsonl").records())
    assert [record.values["times"] for record in records] == [1, 2]
    assert {record.notes["device"] for record in records} == {"cpu"}
    assert [tick.message for tick in ticks if tick.message] == ["s: half of it", "s: the other half"] * 2


class Before(Probe):
    """Written when `measure` had two arguments."""

    values = (Value("times"),)
    needs_model = False

    def measure(self, subject, workload):  # type: ignore[no-untyped-def, override]
        raise AssertionError("must not be asked")


def test_a_probe_without_a_context_is_refused_with_the_remedy(tmp_path: Path) -> None:
    probes = registry.Registry("probe", Probe)  # type: ignore[type-abstract]
    probes.register("context/before")(Before)
    with pytest.raises(RegistryError, match=r"Before\.measure takes no context") as refused:
        probes.create("context/before", {})
    assert "def measure(self, subject, workload, context" in refused.value.fix
    plugin = tmp_path / "before.py"
    plugin.write_text(KEEPER.format(name="context/old").replace(", workload, context)", ", workload)"))
    registry.load_plugin(plugin)
    suite = tmp_path / "suite.yaml"
    suite.write_text("suite: old\ndevice: cpu\nmeasure:\n  - {name: s, probe: context/old}\n")
    with pytest.raises(SuiteError, match=r"suite\.yaml:4.*takes no context; write def measure"):
        load_suite(suite)


@pytest.mark.parametrize("name", ["complexity", "kernels"])
def test_asking_whether_a_probe_is_available_changes_nothing(name: str) -> None:
    probe = registry.probes.create(name, {})
    before = vars(probe).copy()
    probe.available("cuda:1")
    assert vars(probe) == before
    assert isinstance(probe.options, Options)

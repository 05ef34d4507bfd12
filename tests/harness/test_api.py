"""The functions of `import harness`: what they import, what they give, and that they agree with the commands."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from road import FAKES, base
from run_folders import Arm, write_run

import harness
from harness.errors import HarnessError, RecordError, SuiteError


def loaded(code: str) -> set[str]:
    """First parts of the names of all modules that a fresh process holds after `code`."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{show}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_import_brings_nothing_heavy_and_a_plan_no_torch(tmp_path: Path) -> None:
    heavy = {"torch", "pandas", "numpy", "scipy", "av", "pydantic", "matplotlib", "typer", "yaml"}
    assert not loaded("import harness; dir(harness)") & heavy
    suite = tmp_path / "s.yaml"
    suite.write_text(yaml.safe_dump(base(), sort_keys=False))
    planned = loaded(f"import harness; harness.plan({str(suite)!r}, plugins=[{str(FAKES)!r}]); harness.__version__")
    assert not planned & {"torch", "pandas", "av", "matplotlib"}
    with pytest.raises(AttributeError, match="nothing"):
        harness.nothing  # noqa: B018 - the look-up itself is tried


def test_a_suite_is_planned_and_run_and_its_tables_are_those_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(base(), sort_keys=False))
    suite = harness.load_suite(path, {"generate.short.seeds": [0]}, [FAKES])
    assert [section.seeds for section in suite.generate] == [[0]]
    assert harness.plan(suite) == harness.plan(path, ["generate.short.seeds=[0]"])
    with pytest.raises(SuiteError, match="load_suite"):
        harness.plan(suite, {"device": "cpu"})
    ticks = []
    first = harness.run(suite, tmp_path / "run", limit=1, progress=ticks.append)
    assert (first.done_now, first.pending) == (1, 3)
    assert any(tick.record is not None for tick in ticks)
    assert harness.run(harness.plan(suite), tmp_path / "run").exit_code == 0
    (table,) = harness.tables(tmp_path / "run")
    command = [sys.executable, "-m", "harness", "table", str(tmp_path / "run"), "--plugin", str(FAKES)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{table}\n"
    assert table._repr_markdown_() == str(table)
    frame = harness.read_runs(tmp_path / "run").to_frame()
    scores = frame[frame["value"] == "brightness"]
    assert list(scores["prompt"]) == ["one", "two"]
    assert table.to_frame().loc["a"].iloc[0] == pytest.approx(scores["number"].mean())


def test_every_planned_unit_is_in_the_frame_with_its_values(tmp_path: Path) -> None:
    arms = [
        Arm("dense", [0.5, None, 0.75, 1.0], speed=[10.0, 12.0]),
        Arm("latent", [0.25, 0.5, math.nan, 0.0], speed=[20.0, 22.0], statuses={3: "failed"}),
    ]
    write_run(tmp_path / "one", arms, prompts=2, seeds=2, metric="fake/plain")
    frame = harness.read_runs(tmp_path).to_frame()
    assert set(frame["run"]) == {"one"}
    assert len(frame[frame["kind"] == "generate"]) == 8
    assert set(frame[frame["kind"] == "generate"]["status"]) == {"pending"}
    sharp = frame[(frame["plugin"] == "fake/plain") & (frame["value"].isin(["sharpness", ""]))]
    rows = list(zip(sharp["arm"], sharp["prompt"], sharp["seed"], sharp["status"], sharp["number"], strict=True))
    assert [row[:4] for row in rows] == [
        ("dense", "prompt 0", 0, "ok"),
        ("dense", "prompt 0", 1, "pending"),
        ("dense", "prompt 1", 0, "ok"),
        ("dense", "prompt 1", 1, "ok"),
        ("latent", "prompt 0", 0, "ok"),
        ("latent", "prompt 0", 1, "ok"),
        ("latent", "prompt 1", 0, "ok"),
        ("latent", "prompt 1", 1, "failed"),
    ]
    expected = [0.5, math.nan, 0.75, 1.0, 0.25, 0.5, math.nan, 0.0]
    np.testing.assert_array_equal([row[4] for row in rows], expected)
    rates = frame[frame["value"] == "rate"]
    assert list(zip(rates["arm"], rates["round"], rates["number"], strict=True)) == [
        ("dense", 0, 10.0),
        ("dense", 1, 12.0),
        ("latent", 0, 20.0),
        ("latent", 1, 22.0),
    ]
    assert rates["seed"].isna().all()
    assert frame["key"].str.fullmatch("[0-9a-f]{64}").all()


def test_two_models_of_a_run_and_two_runs_are_compared(tmp_path: Path) -> None:
    scores = [0.5, 0.6, 0.7, 0.8, 0.9, 0.55, 0.65, 0.75]
    better = [score + 0.05 + 0.001 * (-1) ** place for place, score in enumerate(scores)]
    arms = [Arm("dense", scores), Arm("latent", better)]
    write_run(tmp_path / "a", arms, prompts=8, metric="fake/plain")
    write_run(tmp_path / "b", [Arm("dense", better), Arm("other", scores)], prompts=8, metric="fake/plain")
    result = harness.compare(tmp_path / "a", "dense", "latent", percent=1.0)
    (row,) = result.to_frame().to_dict("records")
    assert (row["value"], row["verdict"], row["ratio"]) == ("short:sharpness", "BETTER", False)
    assert row["first"] == pytest.approx(0.68125)
    assert row["change"] == pytest.approx(0.05)
    assert row["low"] < 0.05 < row["high"]
    assert row["floor"] == pytest.approx(0.0068125)
    assert "latent against dense" in str(result)
    wide = harness.compare(tmp_path / "a", "dense", "latent", absolute={"short:sharpness": 0.2})
    assert [finding.verdict for finding in wide.findings] == ["SAME"]
    both = harness.read_runs(tmp_path / "a", tmp_path / "b")
    assert [finding.verdict for finding in harness.compare(both).findings] == ["BETTER"]
    crossed = harness.compare(both, "latent", "other")
    assert crossed.to_frame()["change"].iloc[0] == pytest.approx(-0.05)


def test_what_cannot_be_done_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run folder"):
        harness.read_runs(tmp_path)
    write_run(tmp_path / "a", [Arm("dense", [0.5] * 4)], metric="fake/plain")
    for labels in ((), ("dense",)):
        with pytest.raises(HarnessError, match="1 runs to compare") as caught:
            harness.compare(tmp_path / "a", *labels)
        assert "two of its models" in caught.value.fix
    with pytest.raises(RecordError, match="no model 'dens'"):
        harness.compare(tmp_path / "a", "dens", "dense")


def test_a_run_may_be_of_some_models_and_of_a_shard(tmp_path: Path) -> None:
    models = [{"name": "fake/moving", "label": "a"}, {"name": "fake/alone", "label": "b"}]
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(base(models=models), sort_keys=False))
    plan = harness.plan(path, plugins=[FAKES])
    assert harness.run(plan, tmp_path / "run", only=["b"]).done_now == 8
    assert [harness.run(plan, tmp_path / "run", shard=f"{number}/2").done_now for number in (1, 2)] == [8, 0]
    assert harness.run(plan, tmp_path / "run", limit=1).already_done == 8
    with pytest.raises(HarnessError, match="NUMBER/COUNT"):
        harness.run(plan, tmp_path / "run", shard="2/1")

"""A best value's standing against the next is the verdict of `harness compare` on the two, on every committed run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Value, registry
from harness.report import comparison, leads
from harness.report.samples import effect
from harness.report.verdicts import Side
from harness.report.view import View, sections
from harness.runs.plan import Arm
from harness.runs.records import Run, load_run

RESULTS = Path(__file__).parents[3] / "results"
RUNS = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("records.jsonl"))
STANDING = {"BETTER": "ahead", "FASTER": "ahead", "SAME": "equal"}


def arms(run: Run) -> list[tuple[Arm, Arm]]:
    """Each arm with the one after it, and the first with the last."""
    found = list(run.arms)
    return [*pairwise(found), *([(found[0], found[-1])] if len(found) > 2 else [])]


@pytest.mark.parametrize("name", RUNS)
def test_a_standing_is_the_verdict_of_compare(name: str) -> None:
    run = load_run(RESULTS / name)
    weighed = leads.Leads([View(run)])
    asked: set[str] = set()
    for first, second in arms(run):
        shown = {f.name: f for f in comparison.compare([(Side(run, first), Side(run, second))])}
        for section in sections(run.suite):
            plugins = [section.probe] if hasattr(section, "probe") else [use.name for use in section.metrics]
            for plugin in plugins:
                known = registry.probes if hasattr(section, "probe") else registry.metrics
                for value in known.get(plugin).values:
                    finding = shown.get(f"{section.name}:{value.name}")
                    if finding is None:
                        continue
                    standing = weighed.standing((0, first.label), (0, second.label), (section.name, plugin, value.name))
                    expected = STANDING.get(finding.verdict, "unclear")
                    assert standing == expected, f"{name}: {first.label}, {second.label}: {finding}"
                    asked.add(finding.name)
        # Cards are exact, and nothing weighs them.
        assert asked >= {found for found in shown if not found.startswith("card:")}


DRIFT = Value("drift", direction="zero")


@pytest.mark.parametrize(
    ("first", "second", "change"), [(0.3, -0.1, -0.2), (-0.3, -0.1, -0.2), (0.1, -0.3, 0.2), (-0.1, -0.1, 0.0)]
)
def test_a_change_of_drift_is_one_of_distance_from_zero(first: float, second: float, change: float) -> None:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(2, 20))
    noise -= noise.mean(axis=1, keepdims=True)
    found = effect(DRIFT, first + noise[0], second + noise[1], np.arange(20))
    assert found.estimate.value == pytest.approx(change, abs=1e-12)
    assert found.estimate.low <= change <= found.estimate.high
    assert (found.p < 0.001) == (change != 0)


def test_a_drift_that_may_lie_on_either_side_of_zero_is_not_told_from_its_mirror_image() -> None:
    # Both wander about 0 together: their difference is sure, and which of them is nearer to 0 is not.
    common = np.random.default_rng(1).normal(scale=0.2, size=20)
    common -= common.mean()
    own = np.random.default_rng(2).normal(scale=1e-3, size=20)
    found = effect(DRIFT, common + 0.03 + own, common + 0.01 - own, np.arange(20))
    assert found.p > 0.05
    assert found.estimate.low < 0 < found.estimate.high
    assert found.estimate.value == pytest.approx(-0.02, abs=1e-3)


def test_how_often_a_drift_is_wrongly_called_nearer() -> None:
    # Equally far from 0, on either side: their difference is large and sure, and says nothing of the distance.
    rng = np.random.default_rng(3)
    studies = [
        effect(DRIFT, 0.1 + rng.normal(scale=0.1, size=24), -0.1 + rng.normal(scale=0.1, size=24), np.arange(24))
        for _ in range(200)
    ]
    assert sum(found.p <= 0.05 for found in studies) <= 20

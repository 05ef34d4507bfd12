"""The suites of drift and of serving load and plan on a CPU, and ask for what their pages say."""

import json
from pathlib import Path

import pytest

from harness.report.drift.curves import chosen_curves, chosen_definitions
from harness.report.drift.definitions import DEFINITIONS
from harness.runs.plan import make
from harness.suite.load import load_suite

SUITES = Path(__file__).parents[3] / "suites"


def test_the_drift_suite_shows_every_definition_of_some_curve() -> None:
    suite = load_suite(SUITES / "drift.yaml")
    sections = {section.name: section for section in suite.generate}
    shown = {
        name
        for drift in suite.drift
        for _, curve in chosen_curves(drift, sections[drift.section])
        for name, _ in chosen_definitions(drift, curve, bool(sections[drift.section].switches))
    }
    assert shown == set(DEFINITIONS)
    # Four arms, twelve prompts: a clip and its scores by three metrics, and one with a switch and by two.
    assert len(make(suite, "cpu").units) == 4 * 12 * (4 + 3)


@pytest.mark.parametrize("name", ["vbench_long_30s", "vbench_long_60s"])
def test_the_long_suites_follow_all_six_dimensions_and_dino(name: str) -> None:
    prompts = SUITES / "prompts" / "quality_clips.txt"
    suite = load_suite(SUITES / f"{name}.yaml", [f"prompts.moviegen.file={json.dumps(str(prompts))}"])
    (drift,) = suite.drift
    section = next(section for section in suite.generate if section.name == drift.section)
    curves = [curve for _, curve in chosen_curves(drift, section)]
    assert len(curves) == 7
    assert [curve.kind for curve in curves].count("motion") == 1
    assert curves[-1].kind == "distance"


def test_the_serving_suite_measures_streams_sessions_and_load() -> None:
    suite = load_suite(SUITES / "serving.yaml")
    assert {section.probe for section in suite.measure} == {"streaming", "sessions", "serving"}
    (serving,) = suite.serving
    assert (serving.section, serving.sessions) == ("stream", "sessions")
    assert len(make(suite, "cpu").units) == 2 * (2 + 1 + 1)

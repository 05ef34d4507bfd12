import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError, Incomplete
from harness.metrics import vbench_totals as score

# The worked example, computed once with the official scripts.
EXAMPLE = {
    "subject_consistency": 0.95,
    "background_consistency": 0.96,
    "temporal_flickering": 0.99,
    "motion_smoothness": 0.985,
    "dynamic_degree": 0.65,
    "aesthetic_quality": 0.62,
    "imaging_quality": 0.68,
    "object_class": 0.90,
    "multiple_objects": 0.75,
    "human_action": 0.95,
    "color": 0.88,
    "spatial_relationship": 0.78,
    "scene": 0.50,
    "appearance_style": 0.22,
    "temporal_style": 0.24,
    "overall_consistency": 0.26,
}


def test_official_worked_example():
    assert score.quality(EXAMPLE) == pytest.approx(0.8372948911, abs=5e-11)
    assert score.semantic(EXAMPLE) == pytest.approx(0.7790670380, abs=5e-11)
    assert score.total(EXAMPLE) == pytest.approx(0.8256493205, abs=5e-11)


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        ("subject_consistency", 0.941438),
        ("background_consistency", 0.945836),
        ("temporal_flickering", 0.973024),
        ("motion_smoothness", 0.957118),
        ("scene", 0.608125),
        ("appearance_style", 0.769852),
        ("temporal_style", 0.659341),
        ("overall_consistency", 0.714286),
        ("color", 0.88),
    ],
)
def test_normalised_dimensions_of_the_example(dimension, value):
    assert score.normalised(dimension, EXAMPLE[dimension]) == pytest.approx(value, abs=5e-7)


def test_the_other_means_are_their_own_formulas():
    six = [0.62, 0.96, 0.65, 0.68, 0.985, 0.95]
    assert score.mean_of_six(EXAMPLE) == pytest.approx(sum(six) / 6, abs=1e-12)
    assert score.mean_of_quality_and_semantic(EXAMPLE) == pytest.approx((0.8372948911 + 0.7790670380) / 2, abs=1e-10)


def test_groups_cover_the_sixteen_dimensions_once():
    assert len(score.QUALITY) == 7
    assert len(score.SEMANTIC) == 9
    assert len(set(score.DIMENSIONS)) == 16
    assert set(score.RANGES) == set(score.WEIGHTS) == set(score.DIMENSIONS)
    assert set(score.SIX) < set(score.QUALITY)


@pytest.mark.parametrize("name", sorted(score.FORMULAS))
def test_a_missing_dimension_is_an_error_and_never_a_zero(name):
    needed, formula = score.FORMULAS[name]
    assert math.isfinite(formula({key: EXAMPLE[key] for key in needed}))
    for key in needed:
        rest = {other: value for other, value in EXAMPLE.items() if other != key}
        with pytest.raises(Incomplete, match=key):
            formula(rest)
        with pytest.raises(Incomplete, match=key):
            formula({**rest, key: float("nan")})


def test_an_unknown_dimension_is_answered_with_the_nearest():
    with pytest.raises(HarnessError, match="color"):
        score.quality({**EXAMPLE, "colour": 0.5})
    with pytest.raises(HarnessError, match="scene"):
        score.normalised("scenes", 0.5)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(score.DIMENSIONS, st.floats(0, 1))))
def test_raising_a_dimension_never_lowers_the_total(raw):
    base = score.total(raw)
    for name in score.DIMENSIONS:
        assert score.total({**raw, name: raw[name] + 0.1}) > base
    assert score.total(raw) == pytest.approx((4 * score.quality(raw) + score.semantic(raw)) / 5)

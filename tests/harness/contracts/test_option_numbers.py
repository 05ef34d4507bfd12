"""True and false are no numbers, nor are infinite ones, in the options of any plug-in, in a suite or in a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.contracts import Options, registry
from harness.errors import HarnessError, SuiteError
from harness.runs.plan import make
from harness.suite.load import load_suite
from harness.suite.recipe import load_recipe

WANTED = "must be a number, not true or false"


class Inner(Options):
    count: int = 0


class Outer(Options):
    count: int = 0
    rate: float | None = None
    several: tuple[float, ...] = ()
    by_name: dict[str, int] = {}  # noqa: RUF012 (frozen)
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    flag: bool = False
    either: bool | int = 0


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        lambda truth: {"count": truth},
        lambda truth: {"rate": truth},
        lambda truth: {"several": [0.5, truth]},
        lambda truth: {"by_name": {"a": 1, "b": truth}},
        lambda truth: {"inner": {"count": truth}},
        lambda truth: {"inners": [{"count": 1}, {"count": truth}]},
    ],
)
def test_a_truth_is_no_number(values: Any, truth: bool) -> None:
    with pytest.raises(ValidationError, match=WANTED) as refused:
        Outer.model_validate(values(truth))
    (fault,) = refused.value.errors()
    assert fault["loc"][0] == next(iter(values(truth)))
    with pytest.raises(ValidationError, match=WANTED):
        Outer(**values(truth))


def test_what_is_a_number_or_may_be_a_truth_stays() -> None:
    texts: Any = {"count": "3", "rate": 2, "several": [1], "flag": True, "either": True, "inner": {"count": 4.0}}
    found = Outer.model_validate(texts)
    assert (found.count, found.rate, found.several, found.inner.count) == (3, 2.0, (1.0,), 4)
    assert found.flag is True
    assert found.either is True
    assert Outer.model_validate(found) == found


@pytest.mark.parametrize("kind", [registry.models, registry.metrics, registry.probes], ids=lambda kind: kind.kind)
def test_no_option_of_a_plug_in_takes_a_truth_for_a_number(kind: registry.Registry[Any]) -> None:
    tried = 0
    for name in kind:
        schema = kind.get(name).schema
        for option in schema.model_fields:
            try:
                value = getattr(schema.model_validate({option: True}), option)
            except ValidationError as error:
                tried += WANTED in str(error)
            else:
                assert isinstance(value, bool), f"{name}, option {option}: {value!r}"
    assert tried > 5


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, "inf", "NaN"])
def test_numbers_are_finite(number: Any) -> None:
    for values in ({"rate": number}, {"several": [0.5, number]}):
        with pytest.raises(ValidationError, match="finite number"):
            Outer.model_validate(values)


@pytest.mark.parametrize("kind", [registry.models, registry.metrics, registry.probes], ids=lambda kind: kind.kind)
def test_no_option_of_a_plug_in_takes_what_a_key_would_have_as_null(kind: registry.Registry[Any]) -> None:
    tried = 0
    for name in kind:
        schema = kind.get(name).schema
        for option in schema.model_fields:
            for number in (math.inf, math.nan):
                with pytest.raises(ValidationError) as refused:
                    schema.model_validate({option: number})
                tried += "finite number" in str(refused.value)
    assert tried > 5


@pytest.mark.parametrize(
    ("model", "section", "words"),
    [
        ("options: {steps: true}", "", rf"suite.yaml:4: model toy/dense, option 'steps': {WANTED}"),
        ("options: {cache: {recent_chunks: yes}}", "", rf"option 'cache.recent_chunks': {WANTED}"),
        ("grid: {steps: [2, true]}", "", rf"suite.yaml:4: model toy/dense, option 'steps': {WANTED}"),
        ("options: {policy: {bank: true}}", "", "policy.bank is True"),
        ("options: {policy: {average_rates: [true]}}", "", r"policy.average_rates is \[True\]"),
        ("", "seeds: [true]", "seeds.0.*integer"),
        ("", "timeout_s: true", "timeout_s.*number"),
        ("", "metrics: [{name: clip/score, options: {frames: true}}]", f"option 'frames': {WANTED}"),
    ],
)
def test_a_suite_with_a_truth_for_a_number_is_refused(tmp_path: Path, model: str, section: str, words: str) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"suite: s\ndevice: cpu\nmodels:\n  - {{name: toy/dense, {model}}}\nprompts: {{p: [a red circle]}}\n"
        f"generate:\n  - {{name: clips, prompts: p, frames: 9, {section}}}\n"
    )
    with pytest.raises(HarnessError, match=words):
        make(load_suite(suite))


def test_a_recipe_with_a_truth_for_a_number_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: r\nseeds: [0]\nbase:\n  stages:\n    - stage: teacher_forcing\n      steps: true\narms: [{label: a}]\n"
    )
    with pytest.raises(SuiteError, match=rf"recipe.yaml:6: .*steps: {WANTED}"):
        load_recipe(recipe)

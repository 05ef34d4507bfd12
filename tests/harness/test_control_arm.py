"""The committed run of the marked world tells a model whose weights are off by a tenth, and codes of too few bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.api import compare
from harness.report.verdicts import Finding

RUN = Path(__file__).parents[2] / "results" / "marked"
TELLS = "plain:mark_kept_late"
"""Chosen on captions of the training, before the run was made."""


def finding(first: str, second: str, value: str) -> Finding:
    (found,) = compare(RUN, first, second, [value]).findings
    return found


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("videomla", "videomla control", TELLS),
        ("videomla", "videomla 2 bits", TELLS),
        ("videomla", "videomla 4 bits", "plain:step_error"),
        ("dense", "dense without a sink", "covered:kept_after_occlusion"),
    ],
)
def test_it_is_worse(first: str, second: str, value: str) -> None:
    found = finding(first, second, value)
    assert found.verdict == "WORSE"
    assert found.effect is not None
    low, high = found.effect.estimate.low, found.effect.estimate.high
    assert high < 0 if value != "plain:step_error" else low > 0


def test_eight_bits_are_not_told_from_the_latent_as_it_is() -> None:
    assert finding("videomla", "videomla 8 bits", TELLS).verdict == "UNCLEAR"

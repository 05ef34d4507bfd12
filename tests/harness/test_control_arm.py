"""The committed runs of the marked world tell a model whose weights are off by a tenth, and codes of too few bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.api import compare
from harness.report.verdicts import Finding

RESULTS = Path(__file__).parents[2] / "results"
TELLS = "mark_kept_late"
"""Chosen on captions of the training, before the runs were made."""


def finding(run: str, first: str, second: str, value: str) -> Finding:
    (found,) = compare(RESULTS / run, first, second, [value]).findings
    return found


@pytest.mark.parametrize(
    ("run", "first", "second", "value"),
    [
        ("marked", "videomla", "videomla control", f"plain:{TELLS}"),
        ("marked", "videomla", "videomla 2 bits", f"plain:{TELLS}"),
        ("marked", "videomla", "videomla 4 bits", "plain:step_error"),
        ("marked", "dense", "dense without a sink", "covered:kept_after_occlusion"),
        ("quickstart", "videomla", "videomla control", f"short:{TELLS}"),
        ("quickstart", "videomla", "videomla 4 bits", "short:step_error"),
        ("quickstart", "dense", "videomla", "covered:kept_after_occlusion"),
    ],
)
def test_it_is_worse(run: str, first: str, second: str, value: str) -> None:
    found = finding(run, first, second, value)
    assert found.verdict == "WORSE"
    assert found.effect is not None
    low, high = found.effect.estimate.low, found.effect.estimate.high
    assert high < 0 if not value.endswith("step_error") else low > 0


def test_eight_bits_are_not_told_from_the_latent_as_it_is() -> None:
    assert finding("marked", "videomla", "videomla 8 bits", f"plain:{TELLS}").verdict == "UNCLEAR"

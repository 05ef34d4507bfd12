from __future__ import annotations

import pytest

from harness.execute.outcome import stop_reason
from harness.suite.schema import ErrorPolicy


@pytest.mark.parametrize(
    ("policy", "planned", "stops_at"),
    [
        ("continue", 10, None),
        ("stop", 10, 1),
        (1, 10, 1),
        (3, 10, 3),
        (3.0, 10, 3),
        (0.1, 10, 1),
        (0.1, 100, 10),
        (0.25, 10, 3),
        (0.5, 1, 1),
        (0.999, 3, 3),
        (1000, 10, None),
    ],
)
def test_every_policy_stops_at_its_failure(policy: ErrorPolicy, planned: int, stops_at: int | None) -> None:
    reasons = [stop_reason(policy, failed, planned) for failed in range(planned + 1)]
    first = next((failed for failed, reason in enumerate(reasons) if reason), None)
    assert first == stops_at
    if stops_at is not None:
        assert all(reasons[stops_at:])
        assert str(policy) in reasons[stops_at]

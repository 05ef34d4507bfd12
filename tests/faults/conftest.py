"""The suite of faults: a short part in every run of the tests, and all of it with `FAULTS=all` (`tox -e faults`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from fault_cases import TRIED, Tried


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """Notes that the test tried so many cases; the summary has them, and a test without it as one."""
    return lambda cases: record_property(TRIED, cases)


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One table: what was done to a run, how often, and how often it was borne as it should be."""
    cases: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            path, _, name = report.nodeid.partition("::")
            if "tests/faults/" not in path or report.when != "call":
                continue
            number = next((int(str(value)) for key, value in report.user_properties if key == TRIED), 1)
            cases.setdefault(name.partition("[")[0].removeprefix("test_").replace("_", " "), Counter())[outcome] += (
                number
            )
    if cases:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'':90} {'tried':>7} {'as expected':>12} {'not':>5}")
        for name, counts in cases.items():
            passed, failed = counts["passed"], counts["failed"]
            terminalreporter.write_line(f"{name:90.90} {passed + failed:7,} {passed:12,} {failed:5,}")

"""Decide whether the best value of a column leads: the verdict of `harness compare` on it and the next best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.report.effects import choices, finding_of
from harness.report.verdicts import Finding, Floors, Standing, judged
from harness.report.view import Place, View


class Leads:
    """Standings of the best values of the tables of `views`, each pair of arms compared once."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._findings: dict[tuple[Place, Place], Mapping[tuple[str, str, str], Finding]] = {}

    def standing(self, behind: Place, leader: Place, choice: tuple[str, str, str]) -> Standing:
        """The standing of `leader` against `behind`, the next best; unclear where a comparison has no verdict.

        Args:
            choice: section, metric or probe, and name of the value.
        """
        if (behind, leader) not in self._findings:
            first, second = ((self._views[number], label) for number, label in (behind, leader))
            # Every value that a comparison would show: p-values are adjusted for how many there are.
            family = choices((first, second))
            findings = judged([finding_of((first, second), each) for each in family], Floors())
            names = [(section, plugin, value.name) for section, plugin, value in family]
            self._findings[behind, leader] = dict(zip(names, findings, strict=True))
        finding = self._findings[behind, leader].get(choice)
        if finding is None or finding.verdict not in ("SAME", "BETTER", "FASTER"):
            return "unclear"
        return "equal" if finding.verdict == "SAME" else "ahead"

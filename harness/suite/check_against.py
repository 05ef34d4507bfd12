"""Check the metrics that hold clips against those of another arm: each must name one that makes such clips."""

from __future__ import annotations

from harness.contracts import registry
from harness.errors import SuiteError
from harness.suite.check_sampled import require
from harness.suite.positions import Located
from harness.suite.schema import GenerateSection, Suite
from harness.system.yaml_data import Loc


def check_against(doc: Located, suite: Suite) -> None:
    """Check `against` of every metric of a suite whose labels stand for one arm each.

    Raises `SuiteError` at the place of what is wrong.
    """
    for index, section in enumerate(suite.generate):
        for number in range(len(section.metrics)):
            _check(doc, ("generate", index, "metrics", number), section, number, suite)


def _check(doc: Located, loc: Loc, section: GenerateSection, number: int, suite: Suite) -> None:
    use = section.metrics[number]
    if not registry.metrics.get(use.name).takes_reference:
        if use.against:
            where = doc.where((*loc, "against"))
            raise SuiteError(f"{where}: metric {use.name!r} holds a clip against no other; leave `against` out")
        return
    arms = [arm.label for arm in suite.models]
    if not use.against:
        raise SuiteError(
            f"{doc.where(loc)}: metric {use.name!r} needs an arm to hold clips against; "
            f"write {{name: {use.name}, against: LABEL}}"
        )
    place: Loc = (*loc, "against")
    require(doc, place, "model label", use.against, arms)
    taking_part = arms if section.models is None else section.models
    if use.against not in taking_part:
        raise SuiteError(
            f"{doc.where(place)}: model {use.against!r} makes no clips in section {section.name!r}; "
            "add it to the `models` of the section"
        )
    if taking_part == [use.against]:
        raise SuiteError(
            f"{doc.where(place)}: {use.against!r} is the only model of section {section.name!r}, so its clips would be "
            "held against themselves; add another model"
        )

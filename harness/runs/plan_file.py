"""Read a run's `plan.json`, which anyone may have edited: members of their types, and groups as the suite asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from pydantic_core import from_json

from harness.contracts import ModelCard
from harness.errors import HarnessError, RecordError
from harness.runs.plan import PLAN_SCHEMA, Arm, Group
from harness.suite.schema import Suite
from harness.suite.scripts import scripts_of
from harness.system.files import read_regular, reason

T = TypeVar("T")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "None": (NoneType,), "Mapping": (dict,), "tuple": (tuple,),
    "ModelCard": (ModelCard,),
}  # fmt: skip
"""By the first word of an annotation; any other stands for a text."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file holds, as of `harness.runs.plan.Plan`, without the units."""

    suite: Suite
    device: str
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]


def read_plan(path: Path) -> PlanFile:
    """The plan in a file. Raises `RecordError`, also for a newer schema; `FileNotFoundError` where there is none."""
    try:
        body = from_json(read_regular(path))
        if body["schema"] > PLAN_SCHEMA:
            raise RecordError(f"{path}: plan schema {body['schema']} is newer than this harness reads ({PLAN_SCHEMA})")
        arms = tuple(_made(Arm, {**arm, "card": _made(ModelCard, arm["card"])}) for arm in body["arms"])
        groups = tuple(_made(Group, {**group, "keys": tuple(group["keys"])}) for group in body["groups"])
        suite = Suite.model_validate(body["suite"])
        _check_groups(suite, {arm.label for arm in arms}, groups)
        return PlanFile(suite, str(body["device"]), arms, groups)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except (FileNotFoundError, RecordError):
        raise
    except (OSError, ValueError, LookupError, TypeError, HarnessError) as error:
        raise RecordError(f"{path} cannot be read: {reason(error)}") from error


def _made(cls: type[T], body: Mapping[str, Any]) -> T:
    """`body` as a dataclass. Raises `TypeError` for a member of another type than is declared."""
    made = cls(**body)
    for member in fields(cls):  # type: ignore[arg-type]
        value, declared = getattr(made, member.name), str(member.type).split(" | ")
        if not isinstance(value, sum((_TYPES.get(word.partition("[")[0], (str,)) for word in declared), ())):
            raise TypeError(f"{member.name} of {cls.__name__} is {value!r:.60}")
    return made


def _check_groups(suite: Suite, labels: set[str], groups: Iterable[Group]) -> None:
    """Raise `ValueError` for a group that the suite does not ask for."""
    planned = {section.name: len(scripts_of(suite, section)) * len(section.seeds) for section in suite.generate}
    metrics = {section.name: {use.name for use in section.metrics} for section in suite.generate}
    measured = {section.name: section for section in suite.measure}
    for group in groups:
        what = f"a group of section {group.section!r:.60}"
        if group.kind == "measure":
            known = group.section in measured and group.plugin == measured[group.section].probe
            count = measured[group.section].rounds if known else 0
        else:
            plugins = metrics if group.kind == "score" else {name: {""} for name in planned}
            known, count = group.plugin in plugins.get(group.section, ()), planned.get(group.section, 0)
        if not known:
            raise ValueError(f"{what} is of {group.kind!r:.60} {group.plugin!r:.60}, which the suite does not ask for")
        if group.arm not in labels and (group.arm or group.kind != "measure"):
            raise ValueError(f"{what} is of {group.arm!r:.60}, which is none of its models")
        if len(group.keys) != count or not all(isinstance(key, str) for key in group.keys):
            raise ValueError(f"{what} has {len(group.keys)} keys, not {count} texts")

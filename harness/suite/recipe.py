"""Read a training recipe: a base, arms that differ from it, and seeds. Each arm and seed becomes one training."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from harness.contracts import Options, registry
from harness.contracts.base import PathRule, path_options
from harness.errors import SuiteError, nearest
from harness.suite import paths, positions
from harness.suite.part import NAME, Name, Part
from harness.suite.positions import Located
from harness.suite.schema import ErrorPolicy, JsonValue, Suite
from harness.suite.validate import explain, first, validate
from harness.system.yaml_data import Loc, Position

MAX_TRAININGS = 1000
NAME_FIX = "a grid adds its values to the arm's label: use texts and numbers, up to 80 characters in all"
PROBE = "train"
"""The registered probe whose options a resolved arm is."""
T = TypeVar("T")


class ArmEntry(Part):
    """A training that differs from the base, or several when it has a `grid`.

    Attributes:
        label: names its checkpoints; a grid adds `-value` for each of its values.
        set: options over the base's, mapping by mapping. grid: lists of values by dotted option.
    """

    label: Name
    set: dict[str, JsonValue] = Field(default_factory=dict)
    grid: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field(default_factory=dict)


class Recipe(Part):
    """Trainings that belong together.

    Attributes:
        recipe: the name; checkpoints go to `runs/training/<name>/checkpoints`. title: for people.
        errors: as in a suite. seeds: every arm is trained with each, on the same data as the other arms.
        base: options of all arms. As an origin, `{arm: LABEL, stage: NAME}` stands for that arm's weights at the same
            seed, after its last stage of that name. A path starts from the file that says it, with `--set` from the
            current folder.
        arms: the trainings to compare.
    """

    recipe: Name
    title: str = ""
    errors: ErrorPolicy = "continue"
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
    base: dict[str, JsonValue] = Field(default_factory=dict)
    arms: Annotated[list[ArmEntry], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Training:
    """One arm at one seed: its name in files, and the checked options of its chain."""

    name: str
    label: str
    seed: int
    options: Any


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[Training]]:
    """Read, check and resolve `path`; `overrides` are `key=value`. Raises `SuiteError`, one line `file:line: …`."""
    doc = positions.read(path)
    for assignment in overrides:
        positions.override(doc, assignment)
    recipe = validate(doc, Recipe)
    schema = registry.probes.get(PROBE).schema
    trainings: list[Training] = []
    for seed in recipe.seeds:
        chains: dict[str, Any] = {}
        for index, label, options in _arms(doc, recipe):
            if label in chains:
                raise SuiteError(f"{doc.where(('arms', index, 'label'))}: two arms are called {label!r}")
            place = _Place(doc, index)
            # In the order of the file: an arm may begin from one that stands before it.
            chains[label] = _checked(place, schema, _resolved({**options, "seed": seed}, chains, place, ()))
            if len(trainings) == MAX_TRAININGS:
                raise SuiteError(f"{doc.where(('arms',))}: more than {MAX_TRAININGS} trainings", "split the recipe")
            trainings.append(Training(f"{label}-{seed}", label, seed, chains[label]))
    return recipe, trainings


def chosen(trainings: Sequence[Training], names: Sequence[str]) -> list[Training]:
    """Those whose own name or whose arm's label is in `names`; all without any. Raises `SuiteError`."""
    known = [name for training in trainings for name in (training.label, training.name)]
    for name in names:
        if name not in known:
            raise SuiteError(f"no such training: {name!r}; {nearest(name, known)}")
    return [training for training in trainings if not names or {training.name, training.label} & set(names)]


def suite_of(recipe: Recipe, trainings: Sequence[Training], device: str) -> Suite:
    """The suite whose measurements are these trainings: of no model, and each a section."""
    measure = [
        {"name": t.name, "probe": PROBE, "options": t.options.model_dump(mode="json"), "frames": 1} for t in trainings
    ]
    return Suite.model_validate(
        {"suite": recipe.recipe, "title": recipe.title, "device": device, "errors": recipe.errors, "measure": measure}
    )


def _arms(doc: Located, recipe: Recipe) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Index in the file, label and options of every arm after its grid."""
    for index, arm in enumerate(recipe.arms):
        if (size := math.prod(map(len, arm.grid.values()))) * len(recipe.seeds) > MAX_TRAININGS:
            raise SuiteError(f"{doc.where(('arms', index, 'grid'))}: {size} combinations (at most {MAX_TRAININGS})")
        for point in itertools.product(*arm.grid.values()):
            options = _merged(recipe.base, arm.set)
            for key, value in zip(arm.grid, point, strict=True):
                _put(doc, index, options, key, value)
            label = "-".join([arm.label, *map(str, point)])
            if not re.fullmatch(NAME, label):
                raise SuiteError(f"{doc.where(('arms', index))}: {label[:200]!r} is no name of a file", NAME_FIX)
            yield index, label, options


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(old))
    for key, value in new.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if nested else copy.deepcopy(value)
    return result


def _put(doc: Located, index: int, options: Any, dotted: str, value: Any) -> None:
    """Set the option `dotted`, in which a list entry is named by its number."""
    *path, last = (int(part) if part.isdecimal() else part for part in dotted.split("."))
    try:
        for part in path:
            options = options.setdefault(part, {}) if isinstance(options, dict) else options[part]
        options[last] = value
    except (LookupError, TypeError, ValueError) as error:
        where = doc.where(("arms", index, "grid", dotted))
        raise SuiteError(f"{where}: grid {dotted!r} names nothing that the base has") from error


@dataclass(frozen=True, slots=True)
class _Place:
    """Positions of one arm's options in the file."""

    doc: Located
    arm: int

    def __call__(self, loc: Loc) -> Position:
        """The position of an option or of what holds it: in the arm's own `set`, or its `grid`, or the base."""
        for end in range(len(loc), 0, -1):
            if (position := self.exact(loc[:end])) is not None:
                return position
        return self.doc.where(("arms", self.arm))

    def exact(self, loc: Loc) -> Position | None:
        """The position of an option; None where the recipe does not say it."""
        dotted = ".".join(map(str, loc))
        for at in (("arms", self.arm, "set", *loc), ("arms", self.arm, "grid", dotted), ("base", *loc)):
            if self.doc.marked(at):
                return self.doc.where(at)
        return None


def _resolved(value: Any, chains: Mapping[str, Any], place: _Place, loc: Loc) -> Any:
    """`value` with every `{arm: LABEL}` replaced by that arm's checked chain."""
    if isinstance(value, list):
        return [_resolved(item, chains, place, (*loc, number)) for number, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "arm" not in value:
        return {key: _resolved(item, chains, place, (*loc, key)) for key, item in value.items()}
    if unknown := value.keys() - {"arm", "stage"}:
        raise SuiteError(f"{place(loc)}: unknown key {sorted(unknown)[0]!r} beside `arm`; known: stage")
    if not isinstance(value["arm"], str) or value["arm"] not in chains:
        raise SuiteError(
            f"{place(loc)}: no arm {value['arm']!r} stands before this one; {nearest(str(value['arm']), chains)}"
        )
    chain = chains[value["arm"]]
    if "stage" in value:
        stage_names = [stage.stage for stage in chain.stages]
        if value["stage"] not in stage_names:
            raise SuiteError(
                f"{place(loc)}: arm {value['arm']!r} has no stage {value['stage']!r}; known: {', '.join(stage_names)}"
            )
        chain = chain.until(value["stage"])
    return {"chain": chain.model_dump(mode="json")}


def _checked(place: _Place, schema: type[Options], options: dict[str, Any]) -> Any:
    try:
        checked: Any = schema.model_validate(options)
        checked = schema.model_validate(_with_paths(place, checked, options))
    except ValidationError as error:
        fault = first(error)
        option = _written(tuple(fault["loc"]), options)
        raise SuiteError(f"{place(option)}: {explain(fault, schema)}") from None
    for loc, problem in checked.problems():
        raise SuiteError(f"{place(loc)}: {problem}")
    return checked


def _with_paths(place: _Place, checked: Options, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the paths that the recipe says as the process finds them."""
    for loc, rule, text in _paths(checked):
        # An arm that this one begins from holds its paths as they are found already.
        if (where := place.exact(loc)) is not None:
            holder: Any = options
            for part in loc[:-1]:
                holder = holder[part]
            holder[loc[-1]] = paths.placed(where, rule, text)
    return options


def _paths(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, PathRule, str]]:
    """Every option inside `value` that names a file or folder: where, the rule, and the name."""
    if isinstance(value, Options):
        rules = path_options(type(value))
        for name in type(value).model_fields:
            option = getattr(value, name)
            if name in rules and isinstance(option, str) and option:
                yield (*loc, name), rules[name], option
            else:
                yield from _paths(option, (*loc, name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _paths(item, (*loc, number))


def _written(loc: Loc, options: Any) -> Loc:
    """`loc` without the names that pydantic gives to members of a union, which the file does not hold."""
    path: list[str | int] = []
    node = options
    for part in loc:
        if isinstance(node, dict) and part not in node and node.get("stage") == part:
            continue
        path.append(part)
        inside = node if isinstance(node, dict) else dict(enumerate(node)) if isinstance(node, list) else {}
        node = inside.get(part)
    return tuple(path)

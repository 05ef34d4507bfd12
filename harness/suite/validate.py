"""Check a located document against a schema. The first fault becomes one line with file, line and nearest name."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from harness.errors import SuiteError, nearest
from harness.suite.positions import Located
from harness.system.yaml_data import Loc

T = TypeVar("T", bound=BaseModel)


def validate(doc: Located, schema: type[T]) -> T:
    """`doc` as an instance of `schema`. Raises `SuiteError`."""
    try:
        return schema.model_validate(doc.data)
    except ValidationError as error:
        fault = first(error)
    raise SuiteError(f"{doc.where(fault['loc'])}: {explain(fault, schema, doc.data)}")


def first(error: ValidationError) -> Any:
    """The fault to show: an unknown key before the missing one that it may be a misspelling of."""
    faults: list[Any] = list(error.errors())
    # A misspelt key is both unknown and missing, and pydantic reports the missing one first.
    return next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])


def explain(fault: Any, schema: type[BaseModel], data: Any = None) -> str:
    """pydantic's fault in one line, with the nearest key or choice."""
    loc: Loc = tuple(fault["loc"])
    last = str(loc[-1]) if loc else "file"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {last!r}; {nearest(last, fields(schema, loc[:-1], isinstance(data, dict)))}"
    if fault["type"] == "missing":
        return f"key {last!r} is missing"
    dotted = ".".join(str(part) for part in loc)
    message = fault["msg"].removeprefix("Value error, ")
    value = repr(fault["input"])
    received = f" (got {value if len(value) < 60 else value[:57] + '...'})" if "Value error" not in fault["msg"] else ""
    return f"{dotted}: {message}{received}{_near_literal(fault)}"


def _near_literal(fault: Any) -> str:
    key = {"literal_error": "expected", "union_tag_invalid": "expected_tags"}.get(fault["type"])
    if key is None:
        return ""
    value = fault["input"] if isinstance(fault["input"], str) else fault["ctx"].get("tag", "")
    choices = str(fault["ctx"][key]).replace(" or ", ", ").replace("'", "").split(", ")
    return f"; {nearest(value, choices)}" if value else ""


def fields(schema: type[BaseModel], loc: Loc, included: bool = True) -> list[str]:
    """The keys that the mapping at `loc` may have."""
    models: list[type[BaseModel]] = [schema]
    for part in loc:
        if not isinstance(part, str):
            continue
        containers = [model for model in models if part in model.model_fields]
        inner = [m for model in containers for m in _within(model.model_fields[part].annotation)]
        tagged = [m for m in models if _tag(m) == part]
        models = inner or tagged or models
    names = list(dict.fromkeys(name for model in models for name in model.model_fields))
    return [*names, *(["include"] if models == [schema] and included else [])]


def _within(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _within(inner)]


def _tag(model: type[BaseModel]) -> str:
    """The one value of a field `stage`, by which pydantic names a member of a union."""
    field = model.model_fields.get("stage")
    choices = get_args(field.annotation) if field else ()
    return str(choices[0]) if len(choices) == 1 else ""

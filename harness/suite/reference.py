"""The keys of suites, recipes and options as their schemas and docstrings tell them: for pages and for `describe`.

The meaning of a key stands in the docstring of its class, below `Attributes:`. Torch-free.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

UNITS = {
    name: unit
    for unit, names in {
        "seconds": "ceiling_s load_timeout measure_s min_seconds second seconds start_timeout timeout timeout_s "
        "warmup_s",
        "bytes": "budget_bytes cache_bytes copy_bytes",
        "pixels": "height width",
        "pixel frames": "frame frames n chunk first_chunk",
        "frames/s": "frame_rate",
        "latent frames": "clip clips latent longest sink sink_frames window window_frames windows Chain.chunk "
        "ComplexityOptions.chunk WindowOptions.frames",
        "share": "audit_tolerance average betas crosses decay half_width min_clock_ratio noisy_context p text_drop",
        "steps": "denoising keep step steps substeps warmup",
        "clips": "batch max_batch DataOptions.clips",
        "generations": "max_warmups min_repeats warmups",
        "channels": "d_c d_nope d_q d_rope dim ffn",
        "tokens": "grid keys queries",
        "streams": "batches",
        "pairs": "audit_repeats",
        "prompts": "limit longest_script",
        "frames": "ClipOptions.batch HPSv3Options.batch JudgeOptions.frames",
        "directions": "ActivationOptions.width RankOptions.width WeightRankOptions.width",
    }.items()
    for name in names.split()
}
"""Units of the keys that have one, by name, or by `Class.name` where classes differ."""

_NUMBER = re.compile(r"\b(?:integer|number)\b")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping.

    Attributes:
        type: in words. default: as JSON, or in words; empty where the key is required.
        unit: empty where it has none. meaning: of its docstring.
    """

    name: str
    type: str
    default: str
    unit: str
    meaning: str


def about(schema: type[BaseModel]) -> str:
    """What the docstring of `schema` says of the whole."""
    return inspect.cleandoc(schema.__doc__ or "").partition("\n\nAttributes:")[0]


def mappings(root: type[BaseModel]) -> list[type[BaseModel]]:
    """`root` and every mapping below it, in the order in which they are met."""
    schemas = [root]
    for schema in schemas:
        inner = [each for field in schema.model_fields.values() for each in within(field.annotation)]
        schemas += [each for each in dict.fromkeys(inner) if each not in schemas]
    return schemas


def within(annotation: Any) -> list[type[BaseModel]]:
    """The mappings that a value of this type may be, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [schema for inner in get_args(annotation) for schema in within(inner)]


def keys(schema: type[BaseModel], linked: Callable[[str], str] = str, complete: bool = True) -> Iterator[Key]:
    """The keys of `schema`, in its order; `linked` gives the text that stands for another mapping.

    Raises `LookupError` where a docstring says nothing of a key, if all of them must be `complete`.
    """
    if not schema.model_fields:
        return
    body = schema.model_json_schema()
    properties = body.get("properties") or body["$defs"][schema.__name__]["properties"]
    meanings = _meanings(schema)
    if complete and (missing := [name for name in schema.model_fields if name not in meanings]):
        raise LookupError(f"{schema.__module__}.{schema.__name__}: no meaning of {', '.join(missing)}")
    for name, field in schema.model_fields.items():
        default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
        own = (UNITS.get(f"{base.__name__}.{name}") for base in schema.__mro__)
        unit = next(filter(None, own), UNITS.get(name, ""))
        kind = _type(properties[name], linked)
        yield Key(name, kind, default, unit if _NUMBER.search(kind) else "", meanings.get(name, ""))


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    return "none" if value is None else f"`{json.dumps(value)}`"


def _type(body: dict[str, Any], linked: Callable[[str], str]) -> str:
    """A JSON schema in words."""
    if "$ref" in body:
        return linked(body["$ref"].rpartition("/")[2])
    if options := body.get("anyOf") or body.get("oneOf"):
        return " or ".join("none" if option.get("type") == "null" else _type(option, linked) for option in options)
    if "enum" in body or "const" in body:
        return " or ".join(f"`{choice}`" for choice in body.get("enum", [body.get("const")]))
    kind = body.get("format") or body.get("type", "any")
    if kind == "array":
        inner = body.get("items") or body.get("prefixItems", [{}])[0]
        return f"list of {_type(inner, linked)}"
    if kind == "object":
        inner = body.get("additionalProperties")
        return f"mapping to {_type(inner, linked)}" if isinstance(inner, dict) and inner else "mapping"
    ends = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {_limit(body[name])}" for name, sign in ends.items() if name in body)
    words: str = {"string": "text", "boolean": "true or false"}.get(kind, kind)
    return words + (f" {limits}" if limits else "")


def _limit(number: float) -> str:
    power = int(number).bit_length() - 1
    return f"2^{power}" if power > 30 else f"{number:,}"


def _meanings(schema: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of `schema` and its bases say of each key."""
    names = sorted(schema.model_fields, key=len, reverse=True)
    one = "(?:" + "|".join(map(re.escape, names)) + ")"
    start = re.compile(rf"(?:^|(?<=[.;] ))({one}(?:, {one})*): ")
    meanings: dict[str, str] = {}
    for base in schema.__mro__:
        said = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for entry in re.split(r"\n(?=    \S)", f"\n{inspect.cleandoc(said)}".replace("\n", "\n    ")):
            parts = start.split(" ".join(entry.split()))
            for written, meaning in zip(parts[1::2], parts[2::2], strict=True):
                for name in written.split(", "):
                    meanings.setdefault(name, meaning.strip().rstrip(".;"))
    return meanings

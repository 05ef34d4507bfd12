"""Write docs/cli.md and docs/suite-reference.md: python docs/reference.py, from the repository's root.

The first comes from the commands, the second from the schemas of suites, recipes and plug-in options. The meaning of a
key stands in the docstring of its class, below `Attributes:`. A test compares both pages byte for byte.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

from harness.cli.main import app
from harness.contracts import Options, registry
from harness.suite.recipe import Recipe
from harness.suite.schema import Suite

DOCS = Path(__file__).parent
WRITTEN = "Written by `python docs/reference.py`; change the code instead."

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


def cells(*texts: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts) + " |"


# ----------------------------------------------------------------------------------------------- commands


def commands() -> str:
    """The page about the commands."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="harness")
    lines = [
        "# Commands",
        WRITTEN,
        "Every command exits 0 when it is done, 1 when something failed, 2 for bad input and 3 for results that are "
        "missing; `gate` says its own. A message on stderr says what is wrong and, below it, what to do.",
        *_parameters(root, context),
    ]
    for heading, names in root.groups_of(context).items():
        lines.append(f"## {heading}")
        for name in names:
            lines += _command(root.get_command(context, name), f"harness {name}", context)
    return "\n\n".join(lines) + "\n"


def _command(command: Any, title: str, parent: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=title, parent=parent)
    yield f"### {title}"
    yield _inert(inspect.cleandoc(command.help or ""))
    if names := getattr(command, "commands", None):
        for name in names:
            yield from _command(command.get_command(context, name), f"{title} {name}", context)
        return
    pieces = " ".join(
        piece.strip("{}") if piece[0] == "{" else piece for piece in command.collect_usage_pieces(context)
    )
    yield f"    {title} {pieces}"
    yield from _parameters(command, context)


def _parameters(command: Any, context: Any) -> Iterator[str]:
    rows = [
        cells(f"`{re.sub(' <.*>$', '', record[0])}`", _inert(record[1]))
        for parameter in command.get_params(context)
        if parameter.name != "help" and (record := parameter.get_help_record(context))
    ]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows])


def _inert(text: str) -> str:
    return text.replace("<", "&lt;")


# --------------------------------------------------------------------------------------------------- keys


def suite_reference() -> str:
    """The page about the keys of suites and recipes, and the options of plug-ins."""
    lines = [
        "# Suite reference",
        WRITTEN,
        "A suite is a YAML file ([what one looks like](concepts.md#a-suite)). Unknown keys are refused with the "
        "nearest name. `include: FILE` takes over what another file says. A key without a default is required.",
        "## Suites",
        *_schema(Suite),
        "## Recipes",
        "`harness train` takes a recipe ([training](training.md)); what `base` and an arm's `set` may hold are the "
        "options of the probe `train` below.",
        *_schema(Recipe),
    ]
    for kind in (registry.models, registry.metrics, registry.probes):
        owners: dict[type[Options], list[str]] = {}
        for name in kind:
            if kind.get(name).__module__.startswith(("harness.", "videomla_models.")):
                owners.setdefault(kind.get(name).schema, []).append(name)
        lines.append(f"## Options of {kind.kind}s")
        for schema, names in owners.items():
            if schema.model_fields:
                lines.append("### " + ", ".join(names))
                lines += _schema(schema)
    return "\n\n".join(lines) + "\n"


def _schema(root: type[BaseModel]) -> Iterator[str]:
    """A table for `root` and for each mapping below it, in the order in which they are met."""
    waiting, seen = [root], {root}
    while waiting:
        schema = waiting.pop(0)
        yield f"#### {schema.__name__}"
        yield inspect.cleandoc(schema.__doc__ or "").partition("\n\nAttributes:")[0]
        yield _keys(schema)
        inner = [each for field in schema.model_fields.values() for each in _mappings(field.annotation)]
        waiting += [each for each in dict.fromkeys(inner) if each not in seen]
        seen.update(inner)


def _mappings(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [schema for inner in get_args(annotation) for schema in _mappings(inner)]


def _keys(schema: type[BaseModel]) -> str:
    body = schema.model_json_schema()
    properties = body.get("properties") or body["$defs"][schema.__name__]["properties"]
    meanings = _meanings(schema)
    rows = []
    for name, field in schema.model_fields.items():
        default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
        own = (UNITS.get(f"{base.__name__}.{name}") for base in schema.__mro__)
        unit = next(filter(None, own), UNITS.get(name, ""))
        shown = _type(properties[name])
        rows.append(cells(f"`{name}`", shown, default, unit if _NUMBER.search(shown) else "", meanings[name]))
    return "\n".join([cells("key", "type", "default", "unit", "meaning"), "|---|---|---|---|---|", *rows])


_NUMBER = re.compile(r"\b(?:integer|number)\b")


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    return "none" if value is None else f"`{json.dumps(value)}`"


def _type(body: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in body:
        return _linked(body["$ref"])
    if options := body.get("anyOf") or body.get("oneOf"):
        return " or ".join("none" if option.get("type") == "null" else _type(option) for option in options)
    if "enum" in body or "const" in body:
        return " or ".join(f"`{choice}`" for choice in body.get("enum", [body.get("const")]))
    kind = body.get("format") or body.get("type", "any")
    if kind == "array":
        inner = body.get("items") or body.get("prefixItems", [{}])[0]
        return f"list of {_type(inner)}"
    if kind == "object":
        inner = body.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    ends = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {_limit(body[name])}" for name, sign in ends.items() if name in body)
    return {"string": "text", "boolean": "true or false"}.get(kind, kind) + (f" {limits}" if limits else "")


def _limit(number: float) -> str:
    power = int(number).bit_length() - 1
    return f"2^{power}" if power > 30 else f"{number:,}"


def _linked(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return f"[{name}](#{name.lower()})"


def _meanings(schema: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of `schema` and its bases say of each key. Raises `LookupError` where they say nothing."""
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
    if missing := [name for name in names if name not in meanings]:
        raise LookupError(f"{schema.__module__}.{schema.__name__}: no meaning of {', '.join(missing)}")
    return meanings


PAGES = {"cli.md": commands, "suite-reference.md": suite_reference}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")

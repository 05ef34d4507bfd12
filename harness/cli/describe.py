"""`harness describe`: what a model, a metric, a probe or a key of a suite is. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.arguments import Plugins, Sets, load_plugins, options_of
from harness.contracts import Metric, Options, Probe, Value, VideoModel, enforce, registry
from harness.errors import HarnessError, OptionError, RegistryError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel


ROOTS = ("suite", "recipe")
"""The files whose keys are described; keys of a suite may be named without it."""


def describe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A model, metric or probe, or a key as in suite.generate.frames.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Say what a model, a metric, a probe or a suite's key is.

    Of a model its size, window and cache, without its weights; of metrics and probes their values; of each every
    option with type, default, unit and meaning. Keys are named as in `suite.generate.frames`, `generate` or `recipe`.
    """
    load_plugins(plugin)
    kind: registry.Registry[Any] | None = next((each for each in _kinds() if name in each.names()), None)
    if kind is not None:
        body = _plugin(kind, name, options_of(set_))
        yield json.dumps(body, indent=2) if as_json else "\n".join(_plugin_lines(body, options_of(set_)))
        return
    schema, key = _place(name)
    if set_:
        raise OptionError(f"--set sets options of a model, and {name} is a key", "leave --set out")
    keys = _keys(schema)
    keys = [each for each in keys if key in ("", each["name"])]
    if as_json:
        yield json.dumps({"name": name, "kind": "key", "about": _about(schema), "keys": keys}, indent=2)
        return
    yield f"{name}: {_about(schema)}" if not key else f"{name}, of {schema.__name__}"
    yield _table(keys)


def _kinds() -> tuple[registry.Registry[Any], ...]:
    return registry.models, registry.metrics, registry.probes


# ---------------------------------------------------------------------------------------- what is registered


def _plugin(kind: registry.Registry[Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All there is to say of a registered name, as JSON. Raises `HarnessError`."""
    from harness.suite import reference

    cls = kind.get(name)
    body: dict[str, Any] = {"name": name, "kind": kind.kind, "version": cls.version, "about": _about(cls)}
    required = [option for option, field in cls.schema.model_fields.items() if field.is_required()]
    if lacking := [option for option in required if option not in options]:
        if options:
            kind.create(name, options)  # says which is lacking, or wrong
        body["needs"] = lacking
    else:
        body |= _instance(name, kind.create(name, options))
    if issubclass(cls, Metric | Probe):
        body["values"] = list(map(_value, cls.values))
    if issubclass(cls, Metric):
        body |= {"environment": cls.environment, "derived": list(map(_value, cls.derived))}
        body["curves"] = [{**_value(curve.value), "kind": curve.kind} for curve in cls.curves]
    if issubclass(cls, Probe):
        body |= {"needs_model": cls.needs_model, "plots": list(cls.plots)}
    below = reference.mappings(cls.schema)[1:]
    return {**body, "keys": _keys(cls.schema), "mappings": {each.__name__: _keys(each) for each in below}}


def _instance(name: str, plugin: VideoModel | Metric | Probe) -> dict[str, Any]:
    """What only a plug-in with its options can say."""
    body: dict[str, Any] = {"options": plugin.options.model_dump(mode="json")}
    if isinstance(plugin, VideoModel):
        return {**body, "card": asdict(enforce.card(name, plugin))}
    if isinstance(plugin, Metric):
        try:
            state = plugin.available()
        except HarnessError as error:
            return {**body, "here": False, "reason": error.message, "fix": error.fix}
        return {**body, "here": state.ready, "reason": state.reason, "fix": state.fix}
    return body


def _value(value: Value) -> dict[str, Any]:
    return {"name": value.name, "unit": value.unit, "better": value.direction, "meaning": value.label}


def _plugin_lines(body: Mapping[str, Any], set_: Collection[str]) -> Iterator[str]:
    from harness.cli.columns import columns

    yield f"{body['name']}, {body['kind']}, version {body['version']}"
    yield body["about"]
    card = {name.replace("_", " "): value for name, value in body.get("card", {}).items() if value not in (None, "")}
    facts = {"environment": body.get("environment"), "plots": ", ".join(body.get("plots", ())) or None}
    if body["kind"] == "probe":
        facts["measures"] = "a model" if body["needs_model"] else "the device alone"
    if "here" in body:
        facts["here"] = "yes" if body["here"] else f"no: {body['reason']}" + f" ({body['fix']})" * bool(body["fix"])
    rows = [(name, _plain(value)) for name, value in {**card, **facts}.items() if value is not None]
    if rows:
        yield columns(rows)
    for heading in ("values", "derived", "curves"):
        if body.get(heading):
            yield f"{heading}:"
            yield _table(body[heading])
    if "needs" in body:
        yield f"needs options: {', '.join(body['needs'])}"
    options = body.get("options", {})
    changed = {name: _plain(options[name]) for name in set_ if name in options}
    if body["keys"]:
        yield "options:"
        yield _table([{**each, "set": changed.get(each["name"], "")} for each in body["keys"]])
    for heading, keys in body["mappings"].items():
        yield f"{heading}:"
        yield _table(keys)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


# --------------------------------------------------------------------------------------------------- keys


def _roots() -> dict[str, type[BaseModel]]:
    from harness.suite.recipe import Recipe
    from harness.suite.schema import Suite

    return dict(zip(ROOTS, (Suite, Recipe), strict=True))


def _place(name: str) -> tuple[type[BaseModel], str]:
    """The mapping that a dotted name leads to, and the key of it that is meant; none where it is the mapping itself.

    Raises `RegistryError` with the nearest names.
    """
    from harness.suite import reference

    roots = _roots()
    first, *rest = name.split(".")
    schema, path = (roots[first], rest) if first in roots else (roots["suite"], [first, *rest])
    for number, part in enumerate(path):
        if part not in schema.model_fields:
            near = [".".join([*path[:number], key]) for key in schema.model_fields]
            near += [each for kind in _kinds() for each in kind] + list(ROOTS) if not number else []
            raise RegistryError(f"nothing is called {name!r}", nearest(".".join(path[: number + 1]), set(near)))
        inner = [each for each in reference.within(schema.model_fields[part].annotation) if each is not schema]
        if not inner:
            if part is not path[-1]:
                raise RegistryError(f"nothing is called {name!r}", f"{part!r} has no keys of its own")
            return schema, part
        schema = inner[0]
    return schema, ""


def _about(cls: type) -> str:
    import inspect

    return " ".join(inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:")[0].split())


def _keys(schema: type[BaseModel] | type[Options]) -> list[dict[str, str]]:
    from pydantic.errors import PydanticInvalidForJsonSchema

    from harness.suite import reference

    try:
        return [asdict(key) for key in reference.keys(schema, complete=False)]
    except PydanticInvalidForJsonSchema as error:
        raise RegistryError(f"{schema.__name__} has an option that no suite can say: {error.message}") from error


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mappings of the same keys as a table, without columns that say nothing."""
    from harness.cli.columns import columns

    texts = [{name: str(cell).replace("`", "") for name, cell in row.items()} for row in rows]
    headings = [name for name in texts[0] if any(row[name] for row in texts)] if texts else []
    return columns([[row[name] for name in headings] for row in texts], headings)

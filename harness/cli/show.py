"""The texts of `harness plan`, `list`, `describe` and `show`. Imports no torch."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.cli.progress import shown
from harness.contracts import Json, registry
from harness.errors import HarnessError, OptionError, RecordError, RegistryError, nearest
from harness.runs.line import Record, encode
from harness.runs.plan import Plan
from harness.runs.records import RecordFile
from harness.system.digests import canonical

KINDS = ("models", "metrics", "probes", "suites")


def plan_lines(plan: Plan) -> Iterator[str]:
    """Units by section and arm, and their total."""
    rows = [
        (group.section, group.arm or "-", group.kind, group.plugin or "-", f"{len(group.keys):,}")
        for group in plan.groups
    ]
    yield tabulate(rows, ("section", "model", "kind", "by", "units"), tablefmt="simple", disable_numparse=True)
    kinds = Counter(unit.kind for unit in plan.units)
    counted = ", ".join(f"{kinds[kind]:,} to {kind}" for kind in ("generate", "score", "measure") if kinds[kind])
    yield f"{len(plan.units):,} units on {plan.device}: {counted}"


def preimages(plan: Plan) -> Iterator[str]:
    """One line a unit: its key, a space, and the canonical JSON whose SHA-256 it is."""
    for unit in plan.units:
        yield f"{unit.key} {canonical(unit.preimage)}"


def listing(kind: str, folder: Path = Path("suites")) -> Iterator[str]:
    """What `harness list KIND` says; `folder` is where suites are looked for."""
    if kind not in KINDS:
        raise RegistryError(f"cannot list {kind!r}", nearest(kind, KINDS))
    if kind == "suites":
        rows = _suites(folder)
        headings = ["suite", "about"]
    else:
        known: registry.Registry[Any] = getattr(registry, kind)
        rows = [_plugin(known, name) for name in known]
        headings = ["name", "about"] if kind == "models" else ["name", "about", "values"]
        if kind == "metrics":
            headings.append("here")
    if not rows:
        yield f"no {kind}" + (f" in {folder}/" if kind == "suites" else " are registered")
        return
    yield tabulate(rows, headings, tablefmt="simple", disable_numparse=True)


def _suites(folder: Path) -> list[list[str]]:
    import yaml

    rows = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            rows.append([str(path), shown(f"cannot be read: {error}", 80)])
            continue
        if isinstance(body, dict) and "suite" in body:
            rows.append([str(path), shown(str(body.get("title", "")), 80)])
    return rows


def _plugin(known: registry.Registry[Any], name: str) -> list[str]:
    """The row of one registered name; one that cannot be imported says why."""
    try:
        cls = known.get(name)
    except HarnessError as error:
        return [name, shown(error.message, 80), *[""] * {"model": 0, "metric": 2, "probe": 1}[known.kind]]
    about = (inspect.getdoc(cls) or "").partition("\n")[0]
    row = [name, shown(about, 80)]
    if known.kind == "model":
        return row
    row.append(", ".join(value.name for value in cls.values))
    if known.kind == "metric":
        row.append(availability(name))
    return row


def availability(name: str) -> str:
    """Whether the metric `name` can run here with its default options, and what brings it."""
    cls = registry.metrics.get(name)
    try:
        found = cls(cls.schema()).available()
    except ValueError:
        return "needs options"
    except HarnessError as error:
        return f"no: {error.message}"
    if found.ready:
        return "yes"
    return f"no: {found.reason}" + (f" ({found.fix})" if found.fix else "")


def options_of(assignments: Sequence[str]) -> dict[str, Json]:
    """Options from `--set key=value`, the values read as YAML. Raises `OptionError`."""
    import yaml

    found: dict[str, Json] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"--set {assignment}: expected key=value")
        try:
            found[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise OptionError(f"--set {assignment}: the value is not YAML") from error
    return found


def card_json(name: str, options: Mapping[str, Json]) -> dict[str, Any]:
    """`harness describe NAME --json`: name, every option with its value, version and card."""
    model = registry.models.create(name, options)
    return {
        "name": name,
        "version": model.version,
        "options": model.options.model_dump(mode="json"),
        "card": asdict(model.describe()),
    }


def card_lines(name: str, options: Mapping[str, Json]) -> Iterator[str]:
    """The same for reading; members that do not apply are left out."""
    body = card_json(name, options)
    rows = [(key.replace("_", " "), _plain(value)) for key, value in body["card"].items() if value not in (None, "")]
    yield f"{name}, version {body['version']}"
    yield tabulate([row for row in rows if row[1]], tablefmt="plain", disable_numparse=True)
    if body["options"]:
        yield "options:"
        options_shown = [(f"  {key}", _plain(value)) for key, value in body["options"].items()]
        yield tabulate(options_shown, tablefmt="plain", disable_numparse=True)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def find_record(prefix: str, folders: Sequence[Path]) -> tuple[Path, Record]:
    """The newest record whose key starts with `prefix`, in the first of `folders` that has one, and that folder.

    Raises `RecordError` when none or several keys do.
    """
    for folder in folders:
        file = RecordFile(folder / "records.jsonl")
        found = {key: entry for key, entry in file.newest().items() if key.startswith(prefix)}
        if len(found) > 1:
            some = ", ".join(key[: len(prefix) + 6] for key in sorted(found)[:3])
            raise RecordError(f"{len(found)} keys in {folder} start with {prefix!r}: {some}, …", "give more digits")
        for entry in found.values():
            return folder, file.at(entry.offset)
    searched = ", ".join(str(folder) for folder in folders) or "no run folder"
    raise RecordError(f"no record starts with {prefix!r} (searched: {searched})", "name the run with --run DIR")


def record_text(record: Record) -> str:
    """The record as indented JSON, and its traceback as it would be printed."""
    body = json.loads(encode(record))
    traceback = record.error.get("traceback", "") if record.error else ""
    if traceback:
        body["error"] = {**record.error, "traceback": "(below)"}
    text = json.dumps(body, indent=2, ensure_ascii=True)
    return f"{text}\n\n{traceback}" if traceback else text

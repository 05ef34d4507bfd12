"""What another machine needs for a plan: plug-in files and small inputs go there, code and weights are compared there.

The driver packs, each node unpacks. Everything is held by its SHA-256, so that no node works with other bytes than the
plan was made with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.contracts import Json, registry
from harness.errors import HarnessError, RegistryError
from harness.runs.plan import Arm, Plan, Unit
from harness.system import devices
from harness.system.digests import canonical, digest, file_sha256, remembered_sha256
from harness.system.files import weights_folder

TRAVELS = 64 << 20
"""Bytes up to which an input file travels; a larger one has to be on each node."""
TRAVELS_IN_ALL = 512 << 20
"""Bytes of all input files that travel, the smallest first."""
PLUGIN_BYTES = 16 << 20
"""Bytes of all Python files of a plug-in's folder."""
SHORT = 12
"""Digits of a digest that a message shows."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file that an option or a unit names; `content` is None where it is too large to travel."""

    sha256: str
    size: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class PluginFolder:
    """The Python files of a folder by their relative paths, and the plug-ins among them."""

    files: Mapping[str, bytes]
    plugins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Luggage:
    """What a plan needs on every node.

    Attributes:
        folder: working directory of the driver, from which relative paths count where a node has it too.
        code: digest of each package's Python files. versions: of what could change a result.
        plugins: folders of plug-in files. inputs: by the path that an option or a unit states.
        arms, metrics, device: of the plan; each metric with the identity that its units state.
    """

    folder: Path
    code: Mapping[str, str]
    versions: Mapping[str, Json]
    plugins: tuple[PluginFolder, ...]
    inputs: Mapping[str, Parcel]
    arms: tuple[Arm, ...]
    metrics: tuple[Mapping[str, Any], ...]
    device: str


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Luggage on a node.

    Attributes:
        plugins: files to load. paths: where an input lies that is not where the plan says.
        faults: what differs or is missing, one line each; empty where the node may work.
        unavailable: why a metric cannot run there, by the canonical JSON of its name and options.
    """

    plugins: tuple[Path, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def arm(self, arm: Arm) -> Arm:
        """The arm with the paths of this node in its options."""
        return replace(arm, options=self._placed(arm.options)) if self.paths else arm

    def unit(self, unit: Unit) -> Unit:
        """The unit with the paths of this node in its context."""
        return replace(unit, context=self._placed(unit.context)) if self.paths else unit

    def _placed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.paths.get(value, value)
        if isinstance(value, Mapping):
            return {name: self._placed(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._placed(item) for item in value)
        return value


# ------------------------------------------------------------------------------------------ the driver


def pack(plan: Plan) -> Luggage:
    """The luggage of `plan`. Raises `HarnessError` for a plug-in that no other process could load."""
    names = [(registry.models, arm.name) for arm in plan.arms]
    metrics = {canonical(_use(unit)): unit.preimage["metric"] for unit in plan.units if unit.kind == "score"}
    uses: list[Any] = list(metrics.values())
    plugins: list[tuple[registry.Registry[Any], str]] = [
        *names,
        *((registry.metrics, use["name"]) for use in uses),
        *((registry.probes, section.probe) for section in plan.suite.measure),
    ]
    for kind, name in plugins:
        if not kind.importable(name):
            raise RegistryError(
                f"{kind.kind} {name!r} is defined in this process alone, so that no worker finds it",
                "put it into a file, and name that with --plugin",
            )
    modules = {kind.get(name).__module__ for kind, name in plugins}
    roots = {module.partition(".")[0] for module in modules if not module.startswith(registry.PLUGIN_MODULE)}
    return Luggage(
        folder=Path.cwd(),
        code={name: code_digest(name) for name in sorted({"harness", *roots})},
        versions=devices.versions(),
        plugins=tuple(_plugin_folders()),
        inputs=dict(_parcels(_input_files(plan))),
        arms=plan.arms,
        metrics=tuple(uses),
        device=plan.device,
    )


def _use(unit: Unit) -> dict[str, Json]:
    use: Any = unit.preimage["metric"]
    return {"name": use["name"], "options": use["options"]}


def code_digest(package: str) -> str:
    """SHA-256 over the Python files of an importable package and their names; empty where it is not here."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    folders = spec.submodule_search_locations
    files = {Path(spec.origin).name: Path(spec.origin)}
    for folder in map(Path, folders or ()):
        files |= {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    return digest("\n".join(f"{name} {file_sha256(path)}" for name, path in sorted(files.items())))


def _plugin_folders() -> Iterator[PluginFolder]:
    by_folder: dict[Path, list[str]] = {}
    for path in registry.plugin_files:
        by_folder.setdefault(path.parent, []).append(path.name)
    for folder, plugins in by_folder.items():
        packages = [path.parent for path in folder.glob("*/__init__.py")]
        paths = [*folder.glob("*.py"), *(path for package in packages for path in package.rglob("*.py"))]
        if sum(path.stat().st_size for path in paths) > PLUGIN_BYTES:
            raise HarnessError(
                f"{folder} holds more than {PLUGIN_BYTES >> 20} MiB of Python files, too many to send to workers",
                "keep the plug-in, with what it imports, in a folder of its own",
            )
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        yield PluginFolder(files, tuple(plugins))


def _input_files(plan: Plan) -> set[str]:
    """Paths of files that options of models and contexts of units state."""
    texts = {text for arm in plan.arms for text in _texts(arm.options)}
    for unit in plan.units:
        files = [unit.context["prefix"]] if "prefix" in unit.context else unit.context.get("prefixes", ())
        texts |= {file["file"] for file in files}
    return {text for text in texts if _is_file(text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _parcels(texts: set[str]) -> Iterator[tuple[str, Parcel]]:
    room = TRAVELS_IN_ALL
    for size, text in sorted((Path(text).stat().st_size, text) for text in texts):
        travels = size <= min(TRAVELS, room)
        room -= size * travels
        try:
            yield text, Parcel(remembered_sha256(Path(text)), size, Path(text).read_bytes() if travels else None)
        except OSError as error:
            raise HarnessError(f"{text} cannot be read: {error.strerror}", "make it readable") from error


# --------------------------------------------------------------------------------------------- a node


def settle(folder: Path, plugins: tuple[Path, ...]) -> None:
    """Have this process find what relative paths name, where the node has the driver's folder, and the plug-ins."""
    if folder.is_dir():
        os.chdir(folder)
    for path in plugins:
        registry.load_plugin(path)


def unpack(luggage: Luggage, folder: Path) -> Unpacked:
    """Lay the luggage down in `folder` of this node, and compare the rest with what is here."""
    faults = [*_other_code(luggage)]
    if faults:
        return Unpacked(faults=tuple(faults))  # what other code makes of the rest says nothing
    plugins = tuple(_lay_down(luggage.plugins, folder / "plugins"))
    try:
        settle(luggage.folder, plugins)
    except HarnessError as error:
        return Unpacked(faults=(str(error),))
    paths: dict[str, str] = {}
    for text, parcel in luggage.inputs.items():
        place = _place(text, parcel, folder / "inputs")
        if place is None:
            faults.append(
                f"{text} is missing (SHA-256 {parcel.sha256[:SHORT]}…, {parcel.size:,} bytes): "
                f"put it there, or below {weights_folder()}"
            )
        elif place != text:
            paths[text] = place
    unpacked = Unpacked(plugins, paths)
    faults += [fault for arm in luggage.arms if (fault := _other_model(unpacked.arm(arm), luggage.device))]
    unavailable: dict[str, str] = {}
    for use in luggage.metrics:
        fault, reason = _other_metric(use)
        faults += [fault] if fault else []
        if reason:
            unavailable[canonical({"name": use["name"], "options": use["options"]})] = reason
    return Unpacked(plugins, paths, tuple(faults), unavailable)


def _other_code(luggage: Luggage) -> Iterator[str]:
    for package, expected in luggage.code.items():
        here = code_digest(package)
        if here != expected:
            state = f"has the code {here[:SHORT]}" if here else "is not installed"
            yield f"package {package} {state}, not {expected[:SHORT]}: install the driver's version"
    here_versions = devices.versions()
    for name in sorted({*luggage.versions, *here_versions}):
        if luggage.versions.get(name) != here_versions.get(name):
            yield f"{name} is {here_versions.get(name)}, not {luggage.versions.get(name)}: install the driver's version"


def _lay_down(folders: tuple[PluginFolder, ...], target: Path) -> Iterator[Path]:
    for number, plugins in enumerate(folders):
        for name, content in plugins.files.items():
            path = target / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield from (target / str(number) / name for name in plugins.plugins)


def _place(text: str, parcel: Parcel, folder: Path) -> str | None:
    """Where this node has the file: as stated, among its weights, or brought along."""
    if _holds(Path(text), parcel):
        return text
    for path in weights_folder().rglob(Path(text).name) if weights_folder().is_dir() else ():
        if _holds(path, parcel):
            return str(path)
    if parcel.content is None or digest(parcel.content) != parcel.sha256:
        return None
    path = folder / parcel.sha256 / Path(text).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parcel.content)
    return str(path)


def _holds(path: Path, parcel: Parcel) -> bool:
    try:
        return path.is_file() and path.stat().st_size == parcel.size and remembered_sha256(path) == parcel.sha256
    except OSError:
        return False


def _other_model(arm: Arm, device: str) -> str:
    """What makes the model another one here than planned; empty where nothing does."""
    try:
        model = registry.models.create(arm.name, arm.options)
        card, identity = model.describe(), dict(model.identity(device.partition(":")[0]))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        return (
            f"model {arm.label!r}: {error if isinstance(error, HarnessError) else f'{type(error).__name__}: {error}'}"
        )
    if dict(card.weight_digests) != dict(arm.card.weight_digests):
        differ = {*card.weight_digests.items()} ^ {*arm.card.weight_digests.items()}
        return f"model {arm.label!r}: other weights than planned: {', '.join(sorted({name for name, _ in differ}))}"
    planned: Any = arm.identity["identity"]
    if canonical(identity) != canonical(planned):
        parts = sorted(name for name in {*identity, *planned} if identity.get(name) != planned.get(name))
        return f"model {arm.label!r}: its identity differs from the plan's in {', '.join(parts)}"
    return ""


def _other_metric(use: Mapping[str, Any]) -> tuple[str, str]:
    """What makes a metric another one than planned, and why it is not available; each empty where it is."""
    try:
        metric = registry.metrics.create(use["name"], use["options"])
        state = metric.available()
        if not state.ready:
            return "", state.reason
        same = canonical(dict(metric.identity())) == canonical(use["identity"])
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        return "", f"{type(error).__name__}: {error}"
    return ("" if same else f"metric {use['name']}: its identity differs from the plan's"), ""

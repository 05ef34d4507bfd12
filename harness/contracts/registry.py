"""Find plug-ins by name: registered by a decorator, by an installed entry point, or from a file of `--plugin`.

Entry points are read by name and imported only when that name is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from harness.contracts.base import Json, Options
from harness.contracts.kernels import Bench
from harness.contracts.metric import Metric
from harness.contracts.model import VideoModel
from harness.contracts.probe import Probe
from harness.errors import HarnessError, OptionError, RegistryError, nearest

T = TypeVar("T", bound=VideoModel | Metric | Probe)


class Registry(Generic[T]):
    """Classes of one kind by name.

    Args:
        kind: what is registered, as in `model`. A package adds one by an entry point of the group `harness.<kind>s`,
            and several by one of `harness.<kind>_families`, a function that returns classes by name.
        base: the contract that every entry must subclass.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}
        self._points: dict[str, EntryPoint] | None = None

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that enters a class under `name`; a name already taken is an error."""

        def enter(cls: type[T]) -> type[T]:
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise RegistryError(f"{self.kind} {name!r}: {cls!r} is no subclass of {self.base.__name__}")
            if name in self._classes and self._classes[name] is not cls:
                owners = f"{self._classes[name].__module__} and {cls.__module__}"
                raise RegistryError(
                    f"{self.kind} {name!r} is registered twice: by {owners}", "give one of them another name"
                )
            point = self._entry_points().get(name)
            if point is not None and point.module != cls.__module__:
                raise RegistryError(
                    f"{self.kind} {name!r} is already registered by the entry point {point.value}",
                    "give the new one another name",
                )
            self._classes[name] = cls
            return cls

        return enter

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._points is None:
            point_by_name: dict[str, EntryPoint] = {}
            for point in (*entry_points(group=f"harness.{self.kind}s"), *self._members()):
                earlier = point_by_name.setdefault(point.name, point)
                if earlier.value != point.value:
                    raise RegistryError(
                        f"{self.kind} {point.name!r} is registered twice: by {earlier.value} and {point.value}",
                        "uninstall one of the two packages",
                    )
            self._points = point_by_name
        return self._points

    def _members(self) -> Iterator[EntryPoint]:
        """An entry point for each class of the families; one that fails stands for itself, and `get` says why."""
        for point in entry_points(group=f"harness.{self.kind}_families"):
            try:
                names = list(self._load(point.name, point))
            except RegistryError:
                names = [point.name]
            yield from (EntryPoint(name, point.value, point.group) for name in names)

    def _load(self, name: str, point: EntryPoint) -> Any:
        """What `point` names: a class, or of a family all of its classes by name. Raises `RegistryError`."""
        try:
            return dict(point.load()()) if point.group.endswith("_families") else point.load()
        except Exception as error:  # a package may raise anything
            raise RegistryError(
                f"{self.kind} {name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
            ) from error

    def names(self) -> list[str]:
        """Every known name, sorted; imports no plug-in but families."""
        return sorted({*self._classes, *self._entry_points()})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> type[T]:
        """The class behind `name`. Raises `RegistryError` with the nearest names."""
        while offered and name not in self._classes and name not in self._entry_points():
            load_plugin(offered.pop(0))
        if name not in self._classes:
            point = self._entry_points().get(name)
            if point is None:
                near = nearest(name, self.names())
                more = "" if near.startswith("did you mean") else "; --plugin FILE brings one of your own"
                if withheld:
                    flags = "".join(f" --plugin {file}" for file in withheld)
                    more = f"; if you trust the files that its plan names:{flags}"
                raise RegistryError(f"unknown {self.kind} {name!r}", near + more)
            cls = self._load(name, point)
            if point.group.endswith("_families"):
                cls = cls[name]
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise RegistryError(f"{self.kind} {name!r}: {point.value} is no subclass of {self.base.__name__}")
            self._classes[name] = cls
        cls = self._classes[name]
        if issubclass(cls, Probe):
            _check_measure(name, cls)
        return cls

    def importable(self, name: str) -> bool:
        """Whether a fresh process finds `name` too: by its entry point, or in one of `plugin_files`."""
        return name in self._entry_points() or self.get(name).__module__.startswith(PLUGIN_MODULE)

    def is_plugin(self, name: str) -> bool:
        """Whether `name` comes from a file of `load_plugin`, or from what such a file imports, not from a package."""
        return name not in self._entry_points()

    def create(self, name: str, options: Mapping[str, Json]) -> T:
        """The plug-in `name` with checked options. Raises `OptionError` for an unknown or wrong option."""
        cls = self.get(name)
        return cls(check_options(f"{self.kind} {name}", cls.schema, options))


@cache
def _check_measure(name: str, cls: type[Probe]) -> None:
    """Raise `RegistryError` for a probe that was written before `measure` had a context."""
    try:
        inspect.signature(cls.measure).bind(None, None, None, None)
    except TypeError as error:
        raise RegistryError(
            f"probe {name!r}: {cls.__module__}.{cls.__qualname__}.measure takes no context",
            "write def measure(self, subject, workload, context: ProbeContext); it holds device, scratch and progress",
        ) from error


def check_options(owner: str, schema: type[Options], options: Mapping[str, Json]) -> Options:
    """`options` as a frozen, checked instance of `schema`; the first fault becomes an `OptionError`."""
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            raise OptionError(f"{owner} has no option {where!r}", nearest(where, schema.model_fields)) from error
        message = str(fault["msg"]).removeprefix("Value error, ")  # what a validator of the schema itself said
        raise OptionError(f"{owner}, option {where!r}: {message}" if where else f"{owner}: {message}") from error


models: Registry[VideoModel] = Registry("model", VideoModel)  # type: ignore[type-abstract]

metrics: Registry[Metric] = Registry("metric", Metric)  # type: ignore[type-abstract]

probes: Registry[Probe] = Registry("probe", Probe)  # type: ignore[type-abstract]


PLUGIN_MODULE = "harness_plugin_"
"""How the names of modules begin that `load_plugin` has imported."""
plugin_files: list[Path] = []
"""Files that `load_plugin` has imported, so that a fresh process can import them too."""
offered: list[Path] = []
"""Files that plans name, to be loaded when a name is asked for that nothing registers."""
withheld: list[Path] = []
"""Files that plans name and that are not to be loaded unasked, for messages."""


def load_plugin(path: Path) -> None:
    """Import the Python file `path`, whose decorators register what it defines. Loading a file twice is harmless.

    It may import what lies beside it (`_search`). Raises `RegistryError`.
    """
    path = path.resolve()
    if not path.is_file():
        raise RegistryError(f"plug-in file {path} does not exist")
    name = f"{PLUGIN_MODULE}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RegistryError(f"plug-in file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _search(path.parent)
    try:
        with chdir(os.curdir):  # whatever it does, this process stays where it is
            spec.loader.exec_module(module)
    except HarnessError:
        del sys.modules[name]
        raise
    except Exception as error:  # a plug-in may raise anything
        del sys.modules[name]
        says = f"plug-in file {path} fails on import: {type(error).__name__}: {error}"
        raise RegistryError(says, _other_package(error, path.parent)) from error
    plugin_files.append(path)


def sources(cls: type) -> list[Path]:
    """The plug-in files, and files beside them, that define `cls` and what it inherits; none of a package."""
    folders = {file.parent for file in plugin_files}
    modules = (sys.modules.get(base.__module__) for base in cls.__mro__)
    files = (Path(file) for module in modules if (file := getattr(module, "__file__", None)))
    return list(dict.fromkeys(file for file in files if file.parent in folders))


def _search(folder: Path) -> None:
    """Let plug-ins import what lies in `folder`, at the end of the path, so that it hides no package of a library.

    In a clone it comes before the clone's own folder `models`, which is imported as `videomla_models` alone.
    """
    clone = Path(__file__).resolve().parents[2]
    entries = [Path(entry).resolve() for entry in sys.path]
    if folder not in entries:
        is_clone = clone in entries and (clone / "models").is_dir()
        sys.path.insert(entries.index(clone) if is_clone else len(entries), str(folder))


def _other_package(error: Exception, folder: Path) -> str:
    """What to do where the package beside a plug-in is hidden by another one of its name; empty where none is."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    other = getattr(sys.modules.get(package), "__file__", None)
    if other is None or folder in Path(other).resolve().parents:
        return ""
    if not any((folder / name).exists() for name in (package, f"{package}.py")):
        return ""
    return f"`{package}` is {other} here; give {folder / package} another name, or keep both plug-ins in one folder"


KERNELS_GROUP = "harness.kernels"


def kernel_family(name: str) -> type[Bench]:
    """The family registered as `name`. Raises `RegistryError`."""
    points = {point.name: point for point in entry_points(group=KERNELS_GROUP)}
    if name not in points:
        raise RegistryError(f"unknown family of kernels {name!r}", nearest(name, points))
    family = points[name].load()
    if not (isinstance(family, type) and issubclass(family, Bench)):
        raise RegistryError(f"kernels {name!r}: {points[name].value} is no subclass of Bench")
    return family

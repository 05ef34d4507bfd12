"""videomla-bench: run suites over streaming video models, keep records, make tables.

The names below are those of `harness.api`. Each is imported when it is first asked for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import compare, load_suite, plan, read_runs, run, tables

    __version__: str

__all__ = ["__version__", "compare", "load_suite", "plan", "read_runs", "run", "tables"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("videomla-bench")
    if name in __all__:
        return getattr(import_module("harness.api"), name)
    if f"harness.{name}" in _MOVED:
        return sys.modules[f"harness.{name}"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Moved(ModuleType):
    """Stands where plug-ins that exist look for a module; the module itself is imported when a name is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its file, and must not import one by that
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MOVED[self.__name__]), name)


_MOVED = {"harness.registry": "harness.contracts.registry", "harness.check": "harness.testing"}
sys.modules.update({name: _Moved(name) for name in _MOVED if name not in sys.modules})

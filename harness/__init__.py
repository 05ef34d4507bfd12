"""videomla-bench: run suites over streaming video models, keep records, make tables.

The names below are those of `harness.api`. Each is imported when it is first asked for.
"""

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
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

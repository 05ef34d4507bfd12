"""videomla-bench: run suites over streaming video models, keep records, make tables."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("videomla-bench")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

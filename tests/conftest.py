"""Shared by all tests: each module finds the plug-ins of an installation, and a small heap."""

import gc
import signal
import sys
from collections.abc import Iterator

import pytest

from harness.contracts import registry

# Tests interrupt runs. What is started in the background of a shell ignores the signal, and so would these processes.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _own_plugins() -> Iterator[None]:
    """Forgets the plug-ins that a module's tests bring, so that no other module's tests need them or meet them."""
    kinds = (registry.models, registry.metrics, registry.probes)
    classes, files = [dict(kind._classes) for kind in kinds], list(registry.plugin_files)
    modules, path = set(sys.modules), list(sys.path)
    yield
    for kind, before in zip(kinds, classes, strict=True):
        kind._classes.clear()
        kind._classes.update(before)
    registry.plugin_files[:], sys.path[:] = files, path
    for name in set(sys.modules) - modules:
        if name.startswith(registry.PLUGIN_MODULE):
            del sys.modules[name]


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Leaves what is alive before a module's tests out of the collections during them.

    Every measurement begins with one, and the modules that the session has imported by then make it cost more than what
    most tests do.
    """
    gc.collect()
    gc.freeze()

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
    lists = (registry.plugin_files, registry.offered, registry.withheld, sys.path)
    classes, before_lists = [dict(kind._classes) for kind in kinds], [list(each) for each in lists]
    modules = set(sys.modules)
    yield
    for kind, before in zip(kinds, classes, strict=True):
        kind._classes.clear()
        kind._classes.update(before)
    for each, earlier in zip(lists, before_lists, strict=True):
        each[:] = earlier
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

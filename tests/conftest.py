"""Shared by all tests."""

import gc
import signal

import pytest

# Tests interrupt runs. What is started in the background of a shell ignores the signal, and so would these processes.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Leaves what is alive before a module's tests out of the collections during them.

    Every measurement begins with one, and the modules that the session has imported by then make it cost more than what
    most tests do.
    """
    gc.collect()
    gc.freeze()

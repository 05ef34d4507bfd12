"""The `harness` program, also as `python -m harness`. What ends a run is heeded from here on."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run in order, as Ctrl-C does: batch systems, containers and `timeout` send the first, terminals
that close the second."""
INCOMPLETE = 3


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> None:
    """Run the command line and exit."""
    for number in ENDING:
        # Under `nohup` the second is ignored, and stays so.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    try:
        from harness.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt as interrupt:
        with suppress(OSError, AttributeError):  # it may be full or closed
            sys.stderr.write(f"interrupted{f' by {interrupt}' if str(interrupt) else ''}\n")
        sys.exit(INCOMPLETE)


if __name__ == "__main__":
    main()

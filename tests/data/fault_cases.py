"""How much of the suite of faults is tried, and how a test says how many cases it tried."""

from __future__ import annotations

import os
from collections.abc import Callable

ALL = os.environ.get("FAULTS") == "all"
TRIED = "tried"
"""The property that a report holds the number in."""

Tried = Callable[[int], None]

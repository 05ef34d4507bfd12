"""What the values of a metric and of a probe must be alike."""

from __future__ import annotations

from collections.abc import Sequence

from harness.contracts import Value
from harness.errors import PluginFault


def declared(values: Sequence[Value]) -> None:
    """Raise `PluginFault` unless each is declared once, under a name that a table can show."""
    names = [value.name for value in values]
    if not names or len(set(names)) != len(names):
        raise PluginFault(f"values must be declared, each once; declared: {', '.join(names) or 'none'}")
    if wrong := [name for name in names if not name or ":" in name or not name.isprintable()]:
        raise PluginFault(f"a table cannot name the values {wrong}")

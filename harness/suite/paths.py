"""The one rule for paths in suites and recipes: they start from the file that says them, with `--set` from here."""

from __future__ import annotations

import os
from pathlib import Path

from harness.contracts.base import PathRule
from harness.errors import SuiteError
from harness.system.files import expanded
from harness.system.yaml_data import Position


def placed(where: Position, rule: PathRule, text: str) -> str:
    """A path that an option says at `where`, as the process finds it; a name that is none, as it is."""
    if not text or rule.is_name(text) or (rule.keyed and (Path(text).is_absolute() or text.startswith("~"))):
        return text
    if not (rule.may_be_name(text) and not (where.folder / text).exists()):
        return path_from(where.folder, text)
    if Path(text).exists():
        raise SuiteError(
            f"{where}: {text} lies in the current folder, and a path starts from {where.folder}",
            "write the path from there, or with --set",
        )
    return text


def path_from(folder: Path, name: str) -> str:
    """A path that starts from `folder`, as the process finds it; below the current folder, relative to that."""
    path = os.path.normpath(folder / expanded(name))
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here) or "."

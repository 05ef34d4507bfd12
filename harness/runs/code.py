"""Digests of code that stands in no key: plug-in files, and what a model names besides (`VideoModel.unkeyed_files`).

A plug-in's `version` says when its results change. Where a new one was forgotten, the digests in the records tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.contracts import Json, Metric, Probe, VideoModel, registry
from harness.system.digests import remembered_sha256

CODE = "code"
"""The member of a record's context that holds digests by the name of the file."""


def code_of(*plugins: VideoModel | Metric | Probe) -> Mapping[str, Json]:
    """The member of a unit's context for the code of `plugins`; empty where all of it is in packages or in the key."""
    paths: list[Path] = []
    for plugin in plugins:
        paths += registry.sources(type(plugin))
        if isinstance(plugin, VideoModel):
            paths += plugin.unkeyed_files()
    digests: dict[str, Json] = {}
    for path in dict.fromkeys(paths):
        try:
            name = path.name if path.name not in digests else str(path)
            digests[name] = remembered_sha256(path)
        except OSError:
            continue  # what cannot be read is told by whoever needs it
    return {CODE: digests} if digests else {}

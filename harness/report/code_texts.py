"""Tell of results that were made with several texts of one plug-in file or program under one version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from harness.report.view import View
from harness.runs.code import CODE
from harness.runs.plan import Group


def remarks(section: str, groups: Iterable[tuple[View, Group]]) -> Iterator[str]:
    """A sentence for each file of which the results of `groups` saw several texts."""
    texts: dict[str, set[str]] = defaultdict(set)
    for view, group in groups:
        entries = view.run.done(group)
        # Either all records of a group have digests or none, but for those of older versions of the harness.
        for entry in entries if entries and CODE in entries[-1].context else ():
            for file, digest in entry.context.get(CODE, {}).items():
                texts[file].add(str(digest))
    for file, digests in texts.items():
        if len(digests) > 1:
            yield (
                f"{section}: its results were made with {len(digests)} texts of {file} under one version; records hold "
                "the digests."
            )

"""Write a study as a folder that needs no server: raters open its page and save their votes to a file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.errors import RecordError
from harness.study import page
from harness.study.design import MEDIA, Study
from harness.system import files

INDEX = "index.html"
MARKER = b'<meta name="generator" content="videomla-bench study">'


def export(folder: Path, study: Study, target: Path) -> Path:
    """Write the page and the clips of the study in `folder` to `target`; neither its secret nor its arms go along.

    Raises `RecordError` where `target` holds something else, a clip is gone, or a page has no room for all tasks;
    `StorageError`.
    """
    index = target / INDEX
    taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if taken and not (index.is_file() and MARKER in files.read_regular(index)[:2000]):
        raise RecordError(f"{target} holds something else than a study", "name an empty folder with --out DIR")
    html, _ = page.render(study, served=False)
    shown = {study.clips[number].media for item in study.items for number in item.clips}
    for name in sorted(shown):
        source, copy = folder / MEDIA / name, target / MEDIA / name
        if not source.is_file():
            raise RecordError(f"{source} is gone", "make the study again with harness study new")
        if copy.exists():
            continue
        with files.storage(copy):
            files.make_folder(copy.parent)
            try:
                os.link(source, copy)
            except OSError:
                shutil.copyfile(source, copy)
    files.write_atomic(index, html)
    return index

"""Files that measurements leave in the scratch folder: whether they are still there, and their names in the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.contracts import Product
from harness.runs.folder import inside
from harness.runs.line import Record
from harness.runs.measured import PRODUCTS
from harness.system import files
from harness.system.digests import file_sha256

SCRATCH = "scratch"
"""Folder of a run in which probes may keep files."""


def placed(record: Record, scratch: Path, folder: Path, look_only: bool = False) -> bool:
    """Give every product of a measurement its name in the run `folder`, as a hard link, unless `look_only`.

    False where one is gone or has changed, so that the record counts no more. Raises `RecordError` for a name that
    leads out of either folder, and `StorageError`.
    """
    entries: Any = record.notes.get(PRODUCTS, ())
    links = []
    try:
        products = [Product(**entry) for entry in entries]
    except TypeError:
        return False
    for product in products:
        source = inside(scratch, product.file)
        if not source.is_file() or (product.sha256 and file_sha256(source) != product.sha256):
            return False
        links.append((source, inside(folder, f"{product.folder}/{record.context['section']}/{product.name}")))
    for source, target in links if not look_only else ():
        with files.storage(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.exists() and target.samefile(source)):
                target.unlink(missing_ok=True)
                os.link(source, target)
    return True

"""How frames are prepared for a CLIP network, and with which activation it runs.

Published weights say it: by a tag, by the digest of a file, or by the form of OpenAI's archives. Of all other files the
options must say it, since no file of weights does, and a wrong guess is a wrong score without an error.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from harness.contracts import Json
from harness.environments.weights.manifest import Preparation, WeightSet, read_manifest
from harness.system.digests import remembered_sha256

FIELDS = tuple(Preparation.model_fields)
OPENAI = Preparation(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), quick_gelu=True
)
"""Of every network that OpenAI published (github.com/openai/CLIP, `clip.py` and `model.py`)."""
QUICK_GELU = "-quickgelu"
"""Ending of open_clip's names of networks that have this activation."""


def of_tag(weights: str, group: str) -> Mapping[str, Json]:
    """What the published weights `group` of a set were trained with; empty where they are not listed."""
    files = (file for file in read_manifest().get(weights).files if group in file.groups)
    return next((file.preparation.model_dump() for file in files if file.preparation), {})


def of_file(weights: str, model: str, path: Path) -> Mapping[str, Json]:
    """What a file says of it, by its digest or its form; empty for weights that are not known."""
    if not path.is_file():
        return {}
    if published := _published(read_manifest().get(weights), path):
        return published.model_dump()
    if is_script(path):
        return OPENAI.model_dump()
    return {"quick_gelu": True} if model.endswith(QUICK_GELU) else {}


def _published(weights: WeightSet, path: Path) -> Preparation | None:
    sha256 = remembered_sha256(path)
    for file in weights.files:
        fetched = weights.folder / file.path
        digest = file.sha256 or (remembered_sha256(fetched) if fetched.is_file() else "")
        if digest == sha256:
            return file.preparation
    return None


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive, the form in which OpenAI published its networks. Runs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return False

"""Where weights lie: a path, a folder or a Hub id become files, and files become digests. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json

from harness.contracts import PathRule
from harness.errors import NotAvailable, WeightsError
from harness.system.digests import remembered_sha256
from harness.system.files import expanded, read_limited, weights_folder
from videomla_models.spec.published_models import FETCHED

SUFFIXES = (".safetensors", ".pt", ".pth")
INDEX_SUFFIX = ".index.json"
LARGEST_INDEX = 64 * 2**20
"""Bytes; that of a full-size network, a line a tensor, has a thousandth of it."""
COMPONENTS = {"transformer": "diffusion_pytorch_model*", "text_encoder": "models_t5_*", "vae": "Wan2.1_VAE*"}
"""Parts of a pipeline: subfolder in a diffusers repository, and file name in an original Wan2.1 one."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w][\w./-]*)?")


def weights_path(*words: str) -> PathRule:
    """The rule of an option that names weights: a path, a Hub id, or one of `words`."""
    return PathRule(words.__contains__, is_hub_id, keyed=True)


def is_hub_id(text: str) -> bool:
    """Whether a text can be a Hub id: `org/name` or `org/name:file`, and no name of a checkpoint file."""
    return bool(_HUB_ID.fullmatch(text)) and (Path(text).suffix not in SUFFIXES or ":" in text)


@dataclass(frozen=True, slots=True)
class Source:
    """Resolved weight files.

    Attributes:
        name: what the user wrote.
        files: the files that hold tensors; several only when `index` is set.
        index: the `*.index.json` of a sharded checkpoint.
    """

    name: str
    files: tuple[Path, ...]
    index: Path | None = None

    def digests(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {path.name: remembered_sha256(path) for path in self.files}


def resolve(name: str | Path, component: str = "transformer") -> Source:
    """Files behind a path, a folder, or a Hub id `org/name` or `org/name:file/in/the/repository`.

    In the folder of a whole pipeline, `component` (a key of `COMPONENTS`) is the part that is meant.

    A Hub id is looked up as `org/name` in the weights folder (`$VIDEOMLA_WEIGHTS`, or the user's cache folder, where
    `harness fetch` puts files), then in the local Hub cache. Nothing is ever downloaded.

    Raises:
        WeightsError: no such path, no weights in the folder, several where one is meant, a shard is missing.
        NotAvailable: a Hub id that is not on this machine.
    """
    text = str(name)
    path = expanded(text)
    if path.exists():
        return _from_path(text, path, component)
    if isinstance(name, Path) or not is_hub_id(text):
        raise WeightsError(
            f"{text} does not exist",
            f"give a file ({', '.join(SUFFIXES)}), a folder, or a Hub id such as org/name",
        )
    return _from_hub(text, component)


def _from_hub(text: str, component: str) -> Source:
    repository, _, inner = text.partition(":")
    if ".." in inner.split("/"):
        raise WeightsError(f"{text}: the file lies outside its repository", "give a path inside it")
    root = weights_folder()
    folder: Path | None = root / repository
    if folder is None or not (folder / inner).exists():
        folder = _hub_snapshot(repository)
    if folder is None or not (folder / inner).exists():
        raise NotAvailable(
            f"weights {text} are not on this machine (looked below {root}, and in the Hub's cache)",
            _how_to_bring(repository, inner, root),
        )
    return _from_path(text, folder / inner, component)


def _how_to_bring(repository: str, inner: str, root: Path) -> str:
    if repository in FETCHED:
        part = Path(inner).parent.name
        return " ".join(["harness fetch", FETCHED[repository], *([f"--with {part}"] if part else [])])
    return " ".join(["hf download", repository, *([inner] if inner else []), "--local-dir", str(root / repository)])


def _hub_snapshot(repository: str) -> Path | None:
    """The repository's folder in the local Hub cache, where huggingface_hub and the repository are here."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _from_path(text: str, path: Path, component: str) -> Source:
    if path.is_dir():
        path = _pick(path, component)
    if path.name.endswith(INDEX_SUFFIX):
        return Source(text, _shards(path), path)
    if path.suffix not in SUFFIXES or not path.is_file():
        raise WeightsError(f"{path} is no checkpoint that can be read", f"give one of {', '.join(SUFFIXES)}")
    return Source(text, (path,))


def _pick(folder: Path, component: str) -> Path:
    """The checkpoint of a folder that is meant: the component's subfolder, a sharded index, or a single file."""
    if (folder / component).is_dir():
        return _pick(folder / component, component)
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES or path.name.endswith(INDEX_SUFFIX))
    for candidates in (files, [path for path in files if path.match(COMPONENTS[component])]):
        indices = [path for path in candidates if path.name.endswith(INDEX_SUFFIX)]
        if len(indices or candidates) == 1:
            return (indices or candidates)[0]
    if files:
        names = ", ".join(path.name for path in files[:10])
        raise WeightsError(f"{folder} holds {len(files)} checkpoints: {names}", "name the file that is meant")
    raise WeightsError(f"{folder} holds no checkpoint", f"put one there ({', '.join(SUFFIXES)})")


def read_index(path: Path) -> dict[str, str]:
    """Tensor name to shard name of a `*.index.json`. Raises `WeightsError` when it is malformed."""
    try:
        table = from_json(read_limited(path, LARGEST_INDEX))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no shard index: {type(error).__name__}", "copy it again") from error
    if not isinstance(table, dict) or not table or not all(isinstance(shard, str) for shard in table.values()):
        raise WeightsError(f"{path} is no shard index: weight_map is empty or malformed", "copy it again")
    for shard in table.values():
        if Path(shard).name != shard or Path(shard).suffix not in SUFFIXES:
            raise WeightsError(f"{path} names {shard!r}, which is no file beside it", "copy it again")
    return table


def _shards(index: Path) -> tuple[Path, ...]:
    shards = sorted({index.parent / shard for shard in read_index(index).values()})
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:10])}",
            f"put them into {index.parent}",
        )
    return tuple(shards)

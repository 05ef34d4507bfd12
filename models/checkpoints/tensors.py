"""Files of named tensors, read one tensor at a time: safetensors (one or sharded) and pickles without code."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import WeightsError
from harness.system.files import aside, open_regular
from videomla_models.checkpoints.locate import Source, read_index
from videomla_models.checkpoints.parts import DEEPEST, choose_entry
from videomla_models.checkpoints.quantised import Quantisation

TRUNCATED = "copy or download it again"
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What torch raises, among others, for a pickle with changed bytes."""


LARGEST_VIEW = 1 << 30
"""Bytes of a tensor up to which it may be a view that shows its numbers more than once."""


class TensorFile(ABC):
    """Named tensors on disk.

    Attributes:
        shapes: shape by stored name.
        metadata: strings by name, as in a safetensors header.
        part: the entry of a pickled dictionary that the tensors come from (`generator_ema`); empty otherwise.
        entries: all entries of that dictionary, in order; empty otherwise.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.metadata: dict[str, str] = {}
        self.part = ""
        self.entries: tuple[str, ...] = ()
        self._quantisation: Quantisation | None = None

    def dequantise(self, source: str) -> TensorFile:
        """This file, with quantised weights read as the numbers that they stand for. Raises `WeightsError`."""
        self._quantisation = Quantisation(source, self.shapes, self.metadata, self.stored)
        for name in self._quantisation.helpers:
            del self.shapes[name]
        return self

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU; it may share memory with the file."""
        tensor = self.stored(name)
        return tensor if self._quantisation is None else self._quantisation.apply(name, tensor)

    @abstractmethod
    def stored(self, name: str) -> Tensor:
        """One tensor on the CPU as the file has it."""


def open_tensors(source: Source, ema: bool | None = None, parts: tuple[str, ...] = ()) -> TensorFile:
    """The tensors of `source`. `ema` and `parts` choose within a pickled dictionary: see `choose_entry`.

    Raises `WeightsError` naming the file when it is truncated, unsafe or no mapping of names to tensors.
    """
    file: TensorFile
    if source.files[0].suffix == ".safetensors":
        file = Safetensors(source)
    elif len(source.files) > 1:
        file = Pickles(source)
    else:
        file = Pickle(source.files[0], ema, parts)
    return file.dequantise(source.name)


class Safetensors(TensorFile):
    """One or several safetensors files; each shard is mapped while one of its tensors is read."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._where: dict[str, Path] = {}
        for path in source.files:
            with _safe_open(path) as file:
                self.metadata.update(file.metadata() or {})
                for name in file.keys():  # noqa: SIM118  (a handle, not a mapping)
                    if name in self._where:
                        raise WeightsError(f"{name} is in {self._where[name].name} and in {path.name}", TRUNCATED)
                    self._where[name] = path
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
        if source.index is not None:
            check_index(source.index, self._where)

    def stored(self, name: str) -> Tensor:
        """One tensor of whichever shard holds it."""
        with _safe_open(self._where[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def check_index(index: Path, where: Mapping[str, Path]) -> None:
    """Refuse a sharded checkpoint whose shards do not hold what its index says."""
    wrong = [name for name, shard in read_index(index).items() if name not in where or where[name].name != shard]
    if wrong:
        shown = ", ".join(wrong[:10])
        raise WeightsError(f"{index}: {len(wrong)} tensors are not in the shard it names: {shown}", TRUNCATED)


def _safe_open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is truncated or no safetensors file ({error})", TRUNCATED) from error


class Pickle(TensorFile):
    """A `.pt` or `.pth` file, mapped into memory; anything in it but tensors and plain containers is refused."""

    def __init__(self, path: Path, ema: bool | None = None, parts: tuple[str, ...] = ()) -> None:
        super().__init__()
        content = _unpickle(path)
        self.entries = tuple(name for name, value in content.items() if isinstance(value, dict))
        self.part, state = choose_entry(str(path), content, ema, parts)
        others = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if others:
            raise WeightsError(
                f"{path}: {len(others)} entries are no tensors: {', '.join(others[:10])}",
                "give a file that maps parameter names to tensors",
            )
        for name, tensor in state.items():
            _check_held(path, name, tensor)
        self._tensors: dict[str, Tensor] = dict(state)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def stored(self, name: str) -> Tensor:
        """One tensor, backed by the file until it is copied."""
        return self._tensors[name].detach()


class Pickles(TensorFile):
    """Several `.pt` shards named by an index."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._shards: dict[str, Pickle] = {}
        where: dict[str, Path] = {}
        for path in source.files:
            shard = Pickle(path)
            self._shards.update(dict.fromkeys(shard.shapes, shard))
            self.shapes.update(shard.shapes)
            where.update(dict.fromkeys(shard.shapes, path))
        if source.index is not None:
            check_index(source.index, where)

    def stored(self, name: str) -> Tensor:
        """One tensor of whichever shard holds it."""
        return self._shards[name].stored(name)


def load_pickle(path: Path) -> object:
    """What a pickle holds, mapped where it can be; `WeightsError` for what would run code, and for damage."""
    try:
        zipped = _is_zip(path)
        with warnings.catch_warnings():  # what torch finds odd is either read or refused below
            warnings.simplefilter("ignore")
            # Files older than torch 1.6 are no archives and cannot be mapped.
            return _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=zipped))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        if "weights_only" not in str(error).lower():
            raise WeightsError(f"{path} is truncated or no checkpoint ({reason})", TRUNCATED) from error
        raise WeightsError(
            f"{path} is refused: loading it would run code ({_culprit(str(error))})",
            "convert it to safetensors where it was made",
        ) from error
    except (*UNREADABLE, zipfile.BadZipFile, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is truncated or no checkpoint ({reason})", TRUNCATED) from error


def _is_zip(path: Path) -> bool:
    """Whether a pickle is in an archive. Raises `WeightsError` for one without its end, and `OSError`."""
    with open_regular(path) as file:
        start = file.read(2)
    try:
        zipped = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end says that it spans several disks
        zipped = True
    if not zipped and start == b"PK":
        raise WeightsError(f"{path} is truncated: its table of contents is missing", TRUNCATED)
    return zipped


def _plain(value: Any, depth: int = DEEPEST + 2) -> Any:
    """`value` with plain dictionaries and tensors: a pickle may give both attributes that stand before their methods.

    Keys that are no texts are shown as such.
    """
    if isinstance(value, Tensor):
        return Tensor.detach(value)
    if not isinstance(value, dict) or not depth:
        return value
    return {_name(key): _plain(inner, depth - 1) for key, inner in dict.items(value)}


def _name(key: object) -> str:
    return key if isinstance(key, str) else str(key) if isinstance(key, int) else f"a {type(key).__name__}"


def _check_held(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor without numbers or without one shape, and one far larger than what the file holds of it."""
    if tensor.is_meta:
        raise WeightsError(f"{path}: {name} has a shape and no numbers", "save the model when it has its weights")
    if tensor.is_nested:
        raise WeightsError(f"{path}: {name} is a nested tensor", "save it as one of a single shape")
    if tensor.layout == torch.strided and not tensor.is_quantized:
        size = tensor.numel() * tensor.itemsize
        if size > LARGEST_VIEW and size > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{path}: {name} repeats what it holds over {size:,} bytes", "save what it repeats")


def _unpickle(path: Path) -> dict[str, Any]:
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}", "give a file that maps names to tensors")
    return content


def _culprit(message: str) -> str:
    for line in message.splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip()[:200]
    return "it holds more than tensors"


def save_tensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors as safetensors; the file appears whole or not at all. Makes the folder.

    Tensors that share memory, as a pickle's may, are written each for itself.

    Raises `StorageError` when the disk refuses it.
    """
    apart, seen = dict[str, Tensor](), set[int]()
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    with aside(path) as part:
        try:
            save_file(apart, part, dict(metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from error

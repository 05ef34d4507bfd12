"""Files that people name, cut and changed at random: each is read, or refused in one line, and runs no code."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from fault_cases import ALL, Tried
from safetensors.torch import save_file

from harness.errors import ClipError, HarnessError, WeightsError
from harness.system import source_clips, video
from videomla_models.checkpoints.load import open_checkpoint

CASES = 2000 if ALL else 60


def tensors() -> dict[str, torch.Tensor]:
    return {f"blocks.{n}.weight": torch.full((4, 3), float(n)) for n in range(3)}


def safetensors(path: Path) -> Path:
    save_file(tensors(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def pickled(path: Path) -> Path:
    torch.save(tensors(), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def index(path: Path) -> Path:
    name = path.with_name("model.safetensors.index.json")
    name.write_text('{"metadata": {}, "weight_map": {"blocks.0.weight": "a.safetensors", "x": "b.safetensors"}}')
    return name


def clip(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8)
    video.write(path.with_suffix(".mp4"), [pixels], 8.0, 20, "ultrafast")
    return path.with_suffix(".mp4")


def read_tensors(path: Path) -> None:
    checkpoint = open_checkpoint(path, "any")
    for name in checkpoint.shapes:
        checkpoint.read(name)


def read_clip(path: Path) -> None:
    video.read(path)


def changed(content: bytes, dice: random.Random) -> bytes:
    kind = dice.choice(["cut", "flip", "zero", "insert", "repeat", "swap"])
    at = dice.randrange(len(content))
    length = min(dice.choice([1, 4, 64, 1000]), len(content) - at)
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return (
            content[:at]
            + bytes(byte ^ dice.randrange(256) for byte in content[at : at + length])
            + content[at + length :]
        )
    if kind == "zero":
        return content[:at] + bytes(length) + content[at + length :]
    if kind == "insert":
        return content[:at] + dice.randbytes(length) + content[at:]
    if kind == "repeat":
        return content[: at + length] + content[at:]
    return content[at:] + content[:at]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "read"), [(safetensors, read_tensors), (pickled, read_tensors), (index, read_tensors), (clip, read_clip)]
)
def test_files_that_were_changed_at_random_are_read_or_refused(
    tmp_path: Path, tried: Tried, make: Callable[[Path], Path], read: Callable[[Path], None]
) -> None:
    path = make(tmp_path / "model")
    content, dice = path.read_bytes(), random.Random(7)
    refused = 0
    for _ in range(CASES):
        path.write_bytes(changed(content, dice))
        try:
            read(path)
        except HarnessError:
            refused += 1
    tried(CASES)
    assert refused


class Runs:
    """Creates a file when it is read by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_checkpoint_that_holds_code_is_refused_and_runs_none(tmp_path: Path, form: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pt"
    torch.save({"weight": Runs(mark)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(HarnessError):
        read_tensors(path)
    assert not mark.exists()


def test_a_pickle_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pth"
    path.write_bytes(pickle.dumps({"weight": Runs(mark)}))
    with pytest.raises(HarnessError):
        read_tensors(path)
    assert not mark.exists()


def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\0" * (1 << 24))
    with pytest.raises(HarnessError):
        read_tensors(path)


WAITS = """
import sys
from pathlib import Path
from harness.errors import HarnessError
from harness.suite.load import load_suite
from harness.system import video
from videomla_models.checkpoints.load import open_checkpoint
path = Path(sys.argv[2])
readers = {"clip": video.read, "checkpoint": lambda p: open_checkpoint(p, "any"), "suite": load_suite}
try:
    readers[sys.argv[1]](path)
except HarnessError as error:
    print("refused", error.message)
"""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("clip", "a.mp4"),
        ("checkpoint", "a.safetensors"),
        ("checkpoint", "a.pt"),
        ("suite", "a.yaml"),
        ("suite", "p.yaml"),
    ],
)
def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(tmp_path / "pipe.txt" if name == "p.yaml" else path)
    if name == "p.yaml":
        path.write_text("suite: s\nmodels: [{name: toy/dense}]\nprompts: {p: {file: pipe.txt}}\n"
                        "generate: [{name: g, prompts: p, frames: 3}]\n")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WAITS, kind, str(path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.startswith("refused"), done.stderr


def test_large_frames_are_read_one_after_the_other_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(tmp_path / "clip")
    whole = video.read(path)
    monkeypatch.setattr(video, "LARGEST_CHUNK", 2 * 16 * 16 * 3)
    assert [len(chunk) for chunk in video.stream(path, 64)] == [3, 2]
    assert np.array_equal(video.read(path), whole)
    monkeypatch.setattr(video, "MAX_WHOLE", 4 * 16 * 16)
    with pytest.raises(ClipError, match="longer than 4 frames of 16x16"):
        video.read(path)


def test_a_clip_in_memory_that_is_no_clip_is_refused() -> None:
    with pytest.raises(ClipError):
        list(video.pictures(io.BytesIO(b"<html></html>"), "the file", 4, 1000))


class _Surplus:
    def __reduce__(self) -> tuple[object, tuple[int, ...]]:
        return torch._utils._rebuild_tensor_v2, tuple(range(8))


def test_a_tensor_with_surplus_parts_is_refused(tmp_path: Path) -> None:
    torch.save({"a": _Surplus()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="truncated or no checkpoint"):
        read_tensors(tmp_path / "a.pt")


class _Shadowed:
    """A tensor whose methods are texts."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        storage = torch.storage.TypedStorage(wrap_storage=torch.zeros(2).untyped_storage(), dtype=torch.float32)
        state = dict.fromkeys(("detach", "float", "to", "dim", "numel"), "none")
        tensor = (storage, 0, (2,), (1,), False, OrderedDict())
        return torch._tensor._rebuild_from_type_v2, (torch._utils._rebuild_tensor_v2, torch.Tensor, tensor, state)


class _Mapping:
    """A mapping whose methods are texts, of a tensor whose are, too, and of a sound one."""

    def __reduce__(self) -> tuple[object, ...]:
        state = dict.fromkeys(("items", "keys", "values", "get"), "none")
        return OrderedDict, (), state, None, iter([("a", _Shadowed()), ("b", torch.ones(2))])


@pytest.mark.filterwarnings("ignore")
def test_a_tensor_and_a_mapping_whose_methods_are_texts_are_read_by_their_own(tmp_path: Path) -> None:
    torch.save({"generator": _Mapping()}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt", "any")
    assert {name: checkpoint.read(name).tolist() for name in checkpoint.shapes} == {"a": [0, 0], "b": [1, 1]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (lambda: torch.empty(3, device="meta"), "w has a shape and no numbers"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "w is a nested tensor"),
        (lambda: torch.zeros(1).expand(1 << 30, 1 << 20), "w repeats what it holds over 4,503,599,627,370,496 bytes"),
    ],
    ids=["meta", "nested", "expanded"],
)
def test_a_tensor_that_holds_no_such_numbers_is_refused(
    tmp_path: Path, tensor: Callable[[], torch.Tensor], says: str
) -> None:
    torch.save({"w": tensor()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=says):
        read_tensors(tmp_path / "a.pt")


def test_names_that_are_no_texts_are_shown(tmp_path: Path) -> None:
    deep: object = 0
    for _ in range(300):
        deep = (deep,)
    torch.save({1: torch.zeros(2), deep: 3}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="1 entries are no tensors: a tuple"):
        read_tensors(tmp_path / "a.pt")


def test_frames_that_are_ages_apart_have_a_rate() -> None:
    times = [Fraction(number * 10**12) for number in range(4)]
    assert source_clips.frame_rate(times, (), Fraction(1, 1000)) == (1e-12, False)


def test_a_title_in_another_encoding_keeps_no_clip_from_being_read(tmp_path: Path) -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf_ title"
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 16
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.count(b"caf_ title") == 1
    path.write_bytes(content.replace(b"caf_ title", b"caf\xe9 title"))
    assert len(video.read(path)) == 4


def test_an_archive_that_says_it_spans_disks_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    content = pickled(tmp_path / "a").read_bytes()
    # Where the end of a larger archive stands, and of how many disks: before the last record of 22 bytes.
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    (tmp_path / "a.pt").write_bytes(content[:-22] + locator + content[-22:])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(tmp_path / "a.pt")
    read_tensors(tmp_path / "a.pt")

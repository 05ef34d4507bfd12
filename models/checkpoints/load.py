"""Checkpoints of the transformer: opened in any published layout, checked against a module, loaded tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import WeightsError
from videomla_models.checkpoints.checks import check_finite, listed, shown
from videomla_models.checkpoints.locate import Source, resolve
from videomla_models.checkpoints.lora import Lora
from videomla_models.checkpoints.lora_config import check_strength
from videomla_models.checkpoints.name_mapping import NameMap, unmatched
from videomla_models.checkpoints.names import Asked, canonical
from videomla_models.checkpoints.parts import check_averaged, is_averaged, network_names
from videomla_models.checkpoints.tensors import TensorFile, open_tensors


class Checkpoint:
    """Named tensors on disk under the names that a module gives them; nothing is read until asked for.

    Args:
        source: the files. file: their tensors.
        stored: name in the file by name in the module.

    Attributes:
        part: the entry taken from a training checkpoint, as in `generator_ema`; empty for a plain state dict.
        shapes: shape by the module's names.
        metadata: strings of a safetensors header.
        layout: the layout the files are in.
    """

    def __init__(
        self, source: Source, file: TensorFile, stored: Mapping[str, str], layout: str, lora: Lora | None = None
    ) -> None:
        self.source = source
        self.layout = layout
        self.part = file.part
        self.metadata = dict(file.metadata)
        self._file = file
        self._stored = dict(stored)
        self.shapes = {name: file.shapes[stored] for name, stored in self._stored.items()}
        self._lora = lora
        if lora is not None:
            lora.fit(self.shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, LoRA merged. Raises `WeightsError` when it is absent or not finite."""
        if name not in self._stored:
            raise WeightsError(f"{self.source.name} has no {name}", "give a checkpoint of the whole model")
        tensor = self._file.read(self._stored[name])
        check_finite(self.source.name, name, tensor)
        return tensor if self._lora is None else self._lora.merge(name, tensor)

    def digests(self) -> dict[str, str]:
        """SHA-256 by file name; those of a merged LoRA start with `lora/`."""
        merged = self._lora.digests() if self._lora else {}
        return self.source.digests() | {f"lora/{name}": sha256 for name, sha256 in merged.items()}


def open_checkpoint(
    source: str | Path | Source,
    layout: Asked = "auto",
    ema: bool | None = None,
    lora: str | Path | Source | None = None,
    lora_alpha: float | None = None,
    mapping: NameMap | None = None,
) -> Checkpoint:
    """Open a checkpoint of the transformer, under the names of the original Wan2.1 checkpoint.

    Args:
        source: a file, a folder, or a Hub id (see `videomla_models.checkpoints.locate.resolve`).
        ema: averaged weights or raw ones, where a training checkpoint holds both; None prefers `generator_ema`, and
            asks where others stand beside raw ones.
        lora: low-rank update to merge: W + alpha / rank * B A.
        lora_alpha: its alpha; None takes what its files state, else alpha = rank, which holds for LongLive (both 256).
        mapping: names of tensors in no known layout to ours.

    Raises:
        WeightsError: the file is missing, truncated, unsafe or in no known layout.
        NotAvailable: a Hub id that is not on this machine.
    """
    resolved = source if isinstance(source, Source) else resolve(source)
    update = None
    check_strength(lora, lora_alpha)
    if lora is not None:
        update = Lora(lora if isinstance(lora, Source) else resolve(lora), lora_alpha)
    file = open_tensors(resolved, ema)
    below = network_names(resolved.name, file.shapes, None if is_averaged(file.part) else ema)
    if ema:
        check_averaged(resolved.name, resolved.files[0], file.part, below.values(), file.entries)
    if mapping:  # which may name what stands beside the network, too
        taken = set(below.values())
        below |= {name: name for name in file.shapes if name not in taken}
    names, kind = canonical(resolved.name, below, layout, mapping)
    stored = {name: below[theirs] for name, theirs in names.items()}
    return Checkpoint(resolved, file, stored, kind, update)


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Give every parameter and buffer of `module` the checkpoint's values, one tensor at a time.

    Build the module on the meta device: then memory peaks at the model plus one tensor (a shard, at most). Floating
    tensors become `dtype` (None keeps the file's). Whether a parameter wants gradients stays as it was.

    Raises:
        WeightsError: names are missing, unexpected or misshapen (all in one message), or a tensor holds NaN or Inf.
    """
    groups = _tied(module, checkpoint)
    expected = {names[0]: tuple(old.shape) for names, old in groups}
    aliases = {alias for names, _ in groups for alias in names[1:]}
    stored = {name: shape for name, shape in checkpoint.shapes.items() if name not in aliases}
    check_names(checkpoint.source.name, expected, stored)
    for names, old in groups:
        tensor = checkpoint.read(names[0])
        _check_one(checkpoint, names, tensor, old)
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        # A copy always: what is read may be a view of the mapped file.
        fresh = torch.empty(tensor.shape, dtype=kind, device=device).copy_(tensor)
        value = nn.Parameter(fresh, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else fresh
        for name in names:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, value)


def _check_one(checkpoint: Checkpoint, names: Sequence[str], tensor: Tensor, old: Tensor) -> None:
    """Refuse whole numbers for a weight, and a file in which the names of one tensor have two values."""
    source = checkpoint.source.name
    if old.is_floating_point() and not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise WeightsError(f"{source}: {names[0]} is {kind}", "give weights in a floating-point dtype")
    for alias in names[1:]:
        if alias in checkpoint and not torch.equal(checkpoint.read(alias).to(tensor.dtype), tensor):
            raise WeightsError(
                f"{source}: {names[0]} and {alias} are one tensor of the model, and differ",
                "keep the one that the model was trained with",
            )


def _tied(module: nn.Module, checkpoint: Checkpoint) -> list[tuple[list[str], Tensor]]:
    """Every tensor of `module` with all its names; the one that the checkpoint holds comes first."""
    groups: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), ([], tensor))[0].append(name)
    for names, _ in groups.values():
        names.sort(key=lambda name: name not in checkpoint)
    return list(groups.values())


def check_names(source: str, expected: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]]) -> None:
    """Raise one `WeightsError` with every disagreement between two tables of shapes, and what is nearest to each."""
    missing = {name: shape for name, shape in expected.items() if name not in stored}
    unexpected = {name: shape for name, shape in stored.items() if name not in expected}
    lacks, has = unmatched(missing, unexpected)
    misshapen = [
        f"{name} {shown(stored[name])} instead of {shown(expected[name])}"
        for name in expected
        if name in stored and tuple(stored[name]) != tuple(expected[name])
    ]
    parts = [
        f"{count} {kind}: {text}"
        for kind, count, text in (
            ("missing", len(missing), lacks),
            ("unexpected", len(unexpected), has),
            ("misshapen", len(misshapen), listed(misshapen)),
        )
        if count
    ]
    if parts:
        sizes = "choose the preset whose sizes and attention the checkpoint has"
        if missing and unexpected:
            sizes += "; or, if these are the same tensors, name them: harness convert SRC DST --map FILE"
        raise WeightsError(f"{source} does not fit the model; {'; '.join(parts)}", sizes)

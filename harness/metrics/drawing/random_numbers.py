"""Random numbers for networks: such that signals get through, and drawn and written fast. Runs inside environments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

PERIOD = 1_000_003
"""Random numbers drawn for a network, then repeated: large networks cost seconds otherwise."""
SLACK = 2**18
"""Numbers by which a run is longer than its longest piece, so that pieces can begin at different places."""
STRIDE = 4099
"""From the place where one tensor's piece begins to that of the next."""


def randomise(network: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Random weights that let signals through: matrices scaled by their fan-in, norms near one."""
    numbers = torch.randn(PERIOD, generator=torch.Generator().manual_seed(seed))
    used = 0
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not _is_drawn(name, tensor):
                continue
            start, used = used % PERIOD, used + tensor.numel()
            times = -(-(start + tensor.numel()) // PERIOD)
            drawn = numbers.repeat(times)[start : start + tensor.numel()].view(tensor.shape)
            if tensor.ndim > 1:
                tensor.copy_(drawn * (gain / tensor[0].numel() ** 0.5))
            else:
                tensor.copy_(drawn * 0.1 + (1.0 if name.endswith("weight") else 0.0))
    return network


def folded(state: Mapping[str, torch.Tensor], seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random tensors as of `randomise` for large networks: pieces of a few runs of numbers, so that a file is small.

    Matrices of one fan-in are pieces of one run, and no two of them begin at the same place.
    """
    generator = torch.Generator().manual_seed(seed)
    longest: dict[tuple[bool, int], int] = {}
    for name, tensor in state.items():
        longest[_kind(name, tensor)] = max(longest.get(_kind(name, tensor), 0), tensor.numel())
    runs: dict[tuple[bool, int], torch.Tensor] = {}
    folded_state: dict[str, torch.Tensor] = {}
    for index, (name, tensor) in enumerate(state.items()):
        if not _is_drawn(name, tensor):
            folded_state[name] = tensor.clone()
            continue
        matrix, size = kind = _kind(name, tensor)
        if kind not in runs:
            numbers = torch.randn(longest[kind] + SLACK, generator=generator)
            runs[kind] = (numbers / size**0.5 if matrix else 0.1 * numbers + size).to(dtype)
        start = STRIDE * index % SLACK
        folded_state[name] = runs[kind][start : start + tensor.numel()].view(tensor.shape)
    return folded_state


def _is_drawn(name: str, tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and "running_var" not in name


def _kind(name: str, tensor: torch.Tensor) -> tuple[bool, int]:
    """Whether it is a matrix, and its fan-in; of a vector the number that its values lie around."""
    return (True, tensor[0].numel()) if tensor.ndim > 1 else (False, int(name.endswith("weight")))


@contextlib.contextmanager
def uninitialised() -> Iterator[None]:
    """Networks made inside keep whatever their memory held: they are about to be filled anyway."""
    names = ("trunc_normal_", "normal_", "uniform_", "xavier_uniform_", "kaiming_uniform_", "kaiming_normal_")
    before = {name: getattr(nn.init, name) for name in names}

    def untouched(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return tensor

    try:
        for name in names:
            setattr(nn.init, name, untouched)
        yield
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


def save(content: object, path: Path) -> None:
    """As a checkpoint of PyTorch; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


class Holder(nn.Module):
    """A module without code of its own, for archives of which the weights alone are read."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` itself."""
        return x


def archive(state: Mapping[str, torch.Tensor], path: Path, **sizes: int) -> None:
    """A TorchScript archive as OpenAI publishes its CLIPs: weights in half precision, and some sizes beside them."""
    root = Holder()
    for name, value in {**state, **{name: torch.tensor(size) for name, size in sizes.items()}}.items():
        *folders, last = name.split(".")
        place: Any = root
        for folder in folders:
            if folder not in place._modules:
                place.add_module(folder, Holder())
            place = place._modules[folder]
        stored = value.detach().half() if value.is_floating_point() else value
        if name in sizes:
            place.register_buffer(last, stored)
        else:
            place.register_parameter(last, nn.Parameter(stored, requires_grad=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    script: Any = torch.jit.script(root)
    script.save(str(path))

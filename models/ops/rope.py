"""Three-axis rotary positions: angles from time, height and width, applied to interleaved channel pairs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import OptionError
from videomla_models.ops.inplace import reuse
from videomla_models.ops.step import step


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of a run of tokens, each float32 [tokens, pairs]; `phase` is cos + i sin."""

    cos: Tensor
    sin: Tensor
    phase: Tensor

    @staticmethod
    def of(angles: Tensor) -> Rotation:
        """From angles in radians, float64 [tokens, pairs]."""
        cos, sin = angles.cos().float(), angles.sin().float()
        return Rotation(cos, sin, torch.complex(cos, sin))

    def to(self, device: torch.device) -> Rotation:
        """On `device`, for whose copies nothing waits."""
        return Rotation(*(t.to(device, non_blocking=True) for t in (self.cos, self.sin, self.phase)))

    def pairs(self, first: int, last: int | None = None) -> Rotation:
        """Of the pairs `first` to `last` alone, contiguous."""
        chosen = slice(first, last)
        return Rotation(*(t[:, chosen].contiguous() for t in (self.cos, self.sin, self.phase)))

    def only(self, first: int, last: int | None = None) -> Rotation:
        """Of the pairs `first` to `last` alone, the others left as they are by an angle of zero."""
        others = torch.ones(self.cos.shape[1], dtype=torch.bool, device=self.cos.device)
        others[first:last] = False
        cos, sin = self.cos.masked_fill(others, 1.0), self.sin.masked_fill(others, 0.0)
        return Rotation(cos, sin, torch.complex(cos, sin))

    def tokens(self, first: int, last: int) -> Rotation:
        """Of the tokens `first` to `last` alone."""
        if last - first == len(self.cos):
            return self
        return Rotation(self.cos[first:last], self.sin[first:last], self.phase[first:last])


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Complex pairs of (time, height, width): height and width get a third each, time the rest (Wan2.1 `model.py`)."""
    third = head_dim // 6
    return head_dim // 2 - 2 * third, third, third


class RotaryTable:
    """Angles of every position of the three axes.

    Args:
        head_dim: channels of a full head; it fixes the exponents.
        pairs: pairs kept per axis, the highest-frequency ones first; all of the head's when None (VideoMLA keeps
            (6, 5, 5) of Wan's (22, 21, 21), with Wan's exponents; paper section 3).
        theta: base of the exponents. positions: length of the table per axis.

    Attributes:
        capacity: rotations that are kept for a call with the same positions. A full window with relative positions
            takes turns among few of them; four are enough where a chunk takes a half of the ring or all of it.
    """

    def __init__(
        self, head_dim: int, pairs: tuple[int, int, int] | None = None, theta: float = 10000.0, positions: int = 1024
    ) -> None:
        full = axis_pairs(head_dim)
        pairs = pairs or full
        if any(not 0 <= k <= f for k, f in zip(pairs, full, strict=True)):
            raise OptionError(
                f"rope pairs {pairs} are not among the head's {full} (time, height, width)",
                "choose at least 0 and at most so many",
            )
        self.positions, self.capacity = positions, 4
        self._latest: OrderedDict[tuple[object, ...], Rotation] = OrderedDict()
        index = torch.arange(positions, dtype=torch.float64)
        self.axes = [
            torch.outer(index, theta ** -(torch.arange(k, dtype=torch.float64) / f))
            for k, f in zip(pairs, full, strict=True)
        ]

    def __call__(self, frames: Sequence[int], height: int, width: int, device: torch.device) -> Rotation:
        """Rotation of the tokens of `frames`, as `angles` takes them: [len(frames) * height * width, pairs] each.

        Callers share the tensors and must not write to them.
        """
        key = (tuple(frames), height, width, device)
        rotation = self._latest.pop(key, None)
        if rotation is None:
            # The first caller may be in inference mode, and the next may need gradients through what this rotates.
            with torch.inference_mode(False):
                rotation = Rotation.of(self.angles(frames, height, width)).to(device)
        self._latest[key] = rotation
        while len(self._latest) > self.capacity:
            self._latest.popitem(last=False)
        return rotation

    def angles(self, frames: Sequence[int], height: int, width: int) -> Tensor:
        """Angles of the tokens of `frames` (temporal positions), frame by frame, row by row.

        Returns radians, float64 [len(frames) * height * width, pairs]. Raises `OptionError` for a position beyond the
        table.
        """
        last = max(max(frames, default=0), height - 1, width - 1)
        if last >= self.positions or min(frames, default=0) < 0:
            raise OptionError(
                f"position {last} lies beyond the rope table of {self.positions} positions",
                f"use fewer frames (0 to {self.positions - 1}), or a window policy with positions: relative",
            )
        time, row, column = self.axes
        shape = (len(frames), height, width, -1)
        return torch.cat(
            [
                time[torch.tensor(list(frames), dtype=torch.long)][:, None, None, :].expand(shape),
                row[:height][None, :, None, :].expand(shape),
                column[:width][None, None, :, :].expand(shape),
            ],
            dim=-1,
        ).flatten(0, 2)


@step("rope")
def rotate(x: Tensor, rotation: Rotation, out: Tensor | None = None) -> Tensor:
    """Rotate the channel pairs (x[2i], x[2i+1]) of `x` (Wan2.1 `rope_apply`), in float32 or wider.

    Args:
        x: [batch, tokens, ..., 2 * pairs], one rotation for each token.
        out: where to write, in the shape and dtype of `x`, which it may be; new unless given.

    Returns:
        The shape and dtype of `x`.
    """
    heads = [1] * (x.dim() - 3)
    if x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # One complex product reads and writes a pair once; sums of even and odd channels pass over memory six times.
        pairs, phase = _complex(x), rotation.phase.view(rotation.phase.shape[0], *heads, -1)
        if out is None:
            return torch.view_as_real(pairs * phase).flatten(-2)
        torch.mul(pairs, phase, out=pairs if out is x else _complex(out))
        return out
    wide = x if x.dtype == torch.float64 else x.float()
    cos, sin = (t.view(t.shape[0], *heads, -1) for t in (rotation.cos, rotation.sin))
    even, odd = wide[..., 0::2], wide[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
    return rotated if out is None else out.copy_(rotated)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


def rotate_own(x: Tensor, rotation: Rotation) -> Tensor:
    """`rotate` of a tensor that the caller gives up."""
    return rotate(x, rotation, reuse(x))

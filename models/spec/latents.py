"""Which latents from a file a model can be run behind; torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import OptionError
from videomla_models.spec.config import TransformerConfig
from videomla_models.spec.window import WindowPolicy, check_patches

AXES = "[batch, channel, frame, height, width]"


def check_latents(shape: Sequence[int], config: TransformerConfig, policy: WindowPolicy, chunk: int) -> None:
    """Raise `OptionError` for latents of a shape (`AXES`) that a model cannot be run behind.

    Sides are any that the patch divides; frames beyond whole chunks are left out.
    """
    batch, channels, frames, *sides = shape
    patch, table = config.patch[1:], config.rope_positions
    if channels != config.in_channels or any(side % size for side, size in zip(sides, patch, strict=True)):
        raise OptionError(
            f"latents are {list(shape)} as {AXES}",
            f"the model takes {config.in_channels} channels, and sides that {patch[0]} and {patch[1]} divide",
        )
    whole = frames - frames % chunk
    if not whole or policy.schedule == "rolling":
        raise OptionError(
            f"{frames} latent frames for a {policy.schedule} schedule of {chunk} a chunk",
            f"give at least {chunk}, and a model whose schedule is not rolling",
        )
    rows, columns = (side // size for side, size in zip(sides, patch, strict=True))
    if max(rows, columns, whole if policy.positions == "absolute" else 0) > table:
        raise OptionError(
            f"latents are {list(shape)} as {AXES}, and its rope table has {table} positions an axis",
            "give shorter or smaller ones",
        )
    check_patches(policy, rows * columns)
    if policy.head_current and batch > 1:
        raise OptionError("classes of heads are found for one clip at a time", "give latents of one clip")

"""Latents of a file that stand in a probe's rollouts for what the model makes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from harness.contracts import Json, Request, VideoModel, Workload
from harness.errors import OptionError, WeightsError
from harness.system.digests import remembered_sha256
from videomla_models.checkpoints.latents import latents_shape, read_latents
from videomla_models.spec.latents import AXES

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class _TakesLatents(Protocol):
    """What every streaming model of this project says before it is loaded."""

    def check_latents(self, shape: Sequence[int]) -> None: ...


def keyed(options: Mapping[str, Json], file: str) -> dict[str, Json]:
    """`options` with `latents` by the digest of `file`, and not at all where there is none.

    Keys were made before there was the option. Raises `WeightsError` for a name of no file.
    """
    kept = {name: value for name, value in options.items() if name != "latents"}
    if not file:
        return kept
    if not Path(file).is_file():
        raise WeightsError(f"{file} is no file", f"give a file of latents {AXES}")
    return {**kept, "latents": remembered_sha256(Path(file))}


def check_file(file: str, model: VideoModel) -> None:
    """Refuse a `file` that `model` cannot be run behind, by its shape. Raises `OptionError` and `WeightsError`."""
    if not file:
        return
    if not isinstance(model, _TakesLatents):
        raise OptionError(
            "latents stand in the cache of this project's streaming models, and it is none of them",
            "leave the model out of the section (`models:`)",
        )
    try:
        model.check_latents(latents_shape(Path(file)))
    except OptionError as error:
        raise OptionError(f"{file}: {error.message}", error.fix) from error


def behind(file: str, workload: Workload) -> tuple[Tensor, Request]:
    """The latents of `file` [batch, frames, C, H, W], and as many requests: the first prompt, seeds from the first."""
    latents = read_latents(Path(file))
    batch = len(latents)
    seeds = tuple(workload.seeds[0] + clip for clip in range(batch))
    return latents, Request(workload.prompts[:1] * batch, seeds, 1)

"""The header of a checkpoint that a training wrote: sizes, window, stage. Imports no torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import OptionError, WeightsError, shown
from harness.system.files import open_regular
from videomla_models.spec.config import LatentSizes, TransformerConfig, check_sizes
from videomla_models.training.options import AnyStage, Chain

LARGEST_HEADER = 100 << 20
DAMAGED = (
    ArithmeticError, AttributeError, LookupError, OptionError, OSError, RecursionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
"""What comes of a header that says anything."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        config: sizes. chain: how it was trained, up to its own stage. step: of that stage.
    """

    config: TransformerConfig
    chain: Chain
    step: int

    @property
    def stage(self) -> AnyStage:
        """The stage that wrote it."""
        return self.chain.stages[-1]


def read_header(path: Path) -> Header:
    """Read `path`'s header alone. Raises `WeightsError` for a file that no training of this project wrote."""
    try:
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LARGEST_HEADER:
                raise ValueError("no header")
            tensors = json.loads(file.read(length))
        said = json.loads(tensors.pop("__metadata__")["config"])
        training, latent = said.pop("training"), said.pop("latent")
        sizes = LatentSizes(**(latent | {"pairs": tuple(latent["pairs"])}))
        config = TransformerConfig(**(said | {"latent": sizes, "patch": tuple(said["patch"])}))
        check_sizes(config)
        if config.layers > len(tensors):
            raise ValueError(f"{config.layers} layers, and {len(tensors)} tensors")
        return Header(config, Chain.model_validate(training["chain"]), int(training["step"]))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist", "train it first: harness train RECIPE") from error
    except DAMAGED as error:
        reason = shown(error.message if isinstance(error, OptionError) else str(error), 120)
        raise WeightsError(
            f"{path} is no checkpoint that `harness train` wrote ({reason})", "give one of those"
        ) from error

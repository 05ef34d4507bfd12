"""What the files of a low-rank update say of its strength: peft's `adapter_config.json`, and a safetensors header.

Sources: peft `LoraConfig`, huggingface/diffusers `loaders/lora_base.py` (`lora_adapter_metadata`), kohya-ss
`networks/lora.py` (`ss_network_alpha`). Imports no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.contracts import Json
from harness.errors import OptionError, WeightsError
from harness.system.digests import file_sha256
from harness.system.files import read_limited
from videomla_models.checkpoints.locate import Source

CONFIG = "adapter_config.json"
LARGEST_CONFIG = 1 << 20
"""Bytes; one with a pattern for every linear map of a large network has a tenth of it."""
LARGEST = 1e9
"""No alpha or rank is as large; the products of one that is would exceed float32."""

_IN_HEADER = ("lora_adapter_metadata", "adapter_config", "peft_config", "lora_config")
_NUMBERS = {"lora_alpha": "lora_alpha", "alpha": "lora_alpha", "use_rslora": "use_rslora"}
# What changes a merge into something that a product of two maps and a factor does not say.
_NOT_MERGED = (
    "use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "monteclora_config",
)  # fmt: skip
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # those that leave the base weights as they were
_NAME = re.compile(r"\^?[\w.]{1,300}")


@dataclass(frozen=True, slots=True)
class Strength:
    """Factors of an update's products, as its files state them.

    Attributes:
        origin: where they were read. alpha: of all maps but those of `alphas`. rank: likewise; None where unsaid.
        rank_stabilised: alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, arXiv 2312.03732).
        alphas, ranks: of the maps whose names end in a key, by the first that fits.
    """

    origin: str
    alpha: float
    rank: int | None = None
    rank_stabilised: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)

    def factor(self, module: str, rank: int) -> float:
        """Of the product of a module's two maps. Raises `WeightsError` where its rank is not the one that is stated."""
        stated = _of(module, self.ranks, self.rank)
        if stated is not None and stated != rank:
            raise WeightsError(
                f"{self.origin} says that the rank of {module} is {stated:g}, and its maps have {rank}",
                "put the configuration of this update beside it",
            )
        alpha = _of(module, self.alphas, self.alpha)
        assert alpha is not None
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def identity(self) -> dict[str, Json]:
        """What of it decides a merge, for a key."""
        return {
            "alpha": self.alpha,
            "rank_stabilised": self.rank_stabilised,
            "alphas": dict(self.alphas),
        }


def _of(module: str, patterns: Mapping[str, float], otherwise: float | None) -> float | None:
    for pattern, value in patterns.items():
        whole = pattern.removeprefix("^")
        if module == whole or (whole == pattern and module.endswith(f".{pattern}")):
            return value
    return otherwise


def stated_strength(source: Source) -> Strength | None:
    """The strength that `adapter_config.json` beside an update states, or its safetensors header; None where neither.

    Raises:
        WeightsError: a configuration that cannot be read, that says more than a merge can keep, or two that differ.
    """
    path = source.files[0].with_name(CONFIG)
    stated = []
    if path.exists():
        stated.append(_strength(CONFIG, _read(path)))
    header = _header(source.files[0])
    for name in _IN_HEADER:
        if name in header:
            stated.append(_strength(f"{name} in the header", _transformer(_parse(name, header[name]))))
    if numbers := {ours: _parse(name, header[name]) for name, ours in _NUMBERS.items() if name in header}:
        stated.append(_strength("its header", numbers))
    strengths = [strength for strength in stated if strength is not None]
    for strength in strengths[1:]:
        if strength.identity() != strengths[0].identity():
            raise WeightsError(
                f"{source.name}: {strengths[0].origin} and {strength.origin} state two strengths",
                "keep the one that it was trained with",
            )
    return strengths[0] if strengths else None


def lora_digests(source: Source) -> dict[str, str]:
    """SHA-256 by file name of all that decides a merge: the update, and its configuration where there is one."""
    path = source.files[0].with_name(CONFIG)
    return source.digests() | ({CONFIG: file_sha256(path)} if path.is_file() else {})


def trained_factor(header: Mapping[str, str]) -> float | None:
    """Alpha over rank by kohya's header. Converted files keep it after multiplying it into the maps."""
    try:
        factor = float(header["ss_network_alpha"]) / float(header["ss_network_dim"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return factor if math.isfinite(factor) else None


def _header(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}  # reading its tensors says what is wrong


def _read(path: Path) -> Any:
    try:
        return _parse(CONFIG, read_limited(path, LARGEST_CONFIG))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}", "copy it again") from error


def _parse(origin: str, text: str | bytes) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{origin} is no JSON", "copy the update and its configuration again") from error


def _transformer(config: Any) -> Any:
    """Diffusers writes the fields of every part of a pipeline under the part's name."""
    if not isinstance(config, dict) or not any(str(name).startswith("transformer.") for name in config):
        return config
    return {
        name.removeprefix("transformer."): value for name, value in config.items() if name.startswith("transformer.")
    }


def _strength(origin: str, config: Any) -> Strength | None:
    if not isinstance(config, dict):
        raise WeightsError(f"{origin} is no mapping", "copy the update and its configuration again")
    if (kind := config.get("peft_type") or "LORA") != "LORA":
        raise WeightsError(f"{origin}: {str(kind)[:40]} is no LoRA", "merge it where it was trained")
    changing = [name for name in _NOT_MERGED if config.get(name)]
    if config.get("init_lora_weights") not in _STARTS:
        changing.append(f"init_lora_weights: {str(config['init_lora_weights'])[:40]}")
    if changing:
        raise WeightsError(
            f"{origin} asks for {', '.join(changing)}, which is not merged", "merge it where it was trained"
        )
    alphas, ranks = (_patterns(origin, name, config.get(name)) for name in ("alpha_pattern", "rank_pattern"))
    alpha, rank = (stated_number(origin, name, config.get(name)) for name in ("lora_alpha", "r"))
    stabilised = bool(config.get("use_rslora"))
    if alpha is None:
        if stabilised or alphas:
            raise WeightsError(f"{origin} has no lora_alpha", "add the one that it was trained with")
        return None
    return Strength(origin, alpha, None if rank is None else int(rank), stabilised, alphas, ranks)


def _patterns(origin: str, name: str, patterns: Any) -> dict[str, float]:
    if not patterns:
        return {}
    if not isinstance(patterns, dict) or any(not _NAME.fullmatch(key) for key in patterns):
        raise WeightsError(
            f"{origin}: {name} is no mapping from names to numbers", "name modules, or the ends of their names"
        )
    values = {key: stated_number(origin, f"{name} of {key}", value) for key, value in patterns.items()}
    return {key: value for key, value in values.items() if value is not None}


def check_strength(lora: object, alpha: float | None) -> None:
    """Refuse the alpha of no update, which would change nothing. Raises `OptionError`."""
    if alpha is not None and not lora:
        raise OptionError(
            f"lora_alpha is {alpha:g}, and there is no lora", "name its file as lora, or leave the alpha out"
        )


def stated_number(origin: str, name: str, value: Any) -> float | None:
    """An alpha or a rank, None where there is none. Raises `WeightsError` for what is no number below `LARGEST`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
        raise WeightsError(f"{origin}: {name} is {str(value)[:40]!r}", f"give a number below {LARGEST:g}")
    return float(value)

"""A dense checkpoint to VideoMLA's latent attention: by truncated SVD of its maps, or at random.

The paper names the sizes and "an SVD-style decomposition" but not the recipe; every choice made here is a field of
`Recipe` and is written into the output's metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from harness.errors import OptionError, WeightsError
from videomla_models.checkpoints.checks import check_finite, shown
from videomla_models.checkpoints.load import Checkpoint
from videomla_models.checkpoints.spectrum import TOO_LARGE, decomposing, energy, layer_count, operator_of, solvable
from videomla_models.checkpoints.tensors import save_tensors
from videomla_models.ops.rope import axis_pairs
from videomla_models.spec.config import LatentSizes, TransformerConfig, check_sizes

FIXED = {
    "rope_bands": "highest_frequency",  # each head keeps the first `pairs` of each axis, with the dense exponents
    "content_bands": "lowest_frequency",  # of the others, where not all fit: content is compared unrotated
    "rope_key": "mean_over_heads",  # the head-shared positional key is the mean of the heads' key maps on those bands
    "factors": "balanced",  # U S V^T is split with sqrt(S) on each side
    "qk_gain": "folded",  # gains of the query and key RMSNorm are multiplied into the maps
    "scale": "folded",  # query maps absorb sqrt((d_nope + d_rope) / head width), so that the score's scale stays
    "qk_bias": "dropped",  # query and key biases have no place in the latent form
}
"""What the paper leaves open and every conversion here does alike; written into the file beside the recipe."""

WIDEST = 1 << 16
"""Width of a latent, which is of use up to the model's own, 1,536 or 5,120."""
CONFIG_KEY = "config"
RECIPE_KEY = "conversion"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How dense attention becomes latent attention.

    Attributes:
        latent: widths of the result.
        init: `svd`, or `random` (normal, standard deviation 1/sqrt(fan in), from `seed`).
        qk_rms: what stands in for their input-dependent 1/rms: `expected`, the constant it has for white inputs of
            unit variance (mean square of the bias included), or `one`.
        latent_gain: gains of the two latent norms: `expected`, each latent's rms for white inputs, so that the norm
            changes nothing on average; or `one`.
        value_bias: `into_output` adds W_O b_V to the output bias, which is exact because attention weights sum to 1.
    """

    latent: LatentSizes = field(default_factory=LatentSizes)
    init: Literal["svd", "random"] = "svd"
    seed: int = 0
    qk_rms: Literal["expected", "one"] = "expected"
    latent_gain: Literal["expected", "one"] = "expected"
    value_bias: Literal["into_output", "dropped"] = "into_output"


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Share of squared singular values that one layer keeps: of the stacked key and value maps, and of the queries."""

    layer: int
    key_value: float
    query: float


def convert_file(
    checkpoint: Checkpoint,
    destination: Path,
    recipe: Recipe,
    heads: int | None = None,
    progress: Callable[[LayerReport], None] = lambda report: None,
) -> TransformerConfig:
    """Write `checkpoint` with latent attention to `destination` (safetensors, original names, the source's dtype).

    Memory holds the output and one layer. The file appears whole or not at all; its metadata hold the sizes, the
    recipe and the digests of the source.

    Args:
        heads: of the source; None takes its metadata, else width / 128.
        progress: called after each layer.

    Raises:
        WeightsError: the source is no dense checkpoint, lacks tensors, or holds numbers too large to be converted.
        OptionError: the recipe's widths do not fit the source's heads.
    """
    config = dense_config(checkpoint, heads)
    check_latent(recipe.latent, config)
    if destination.suffix != ".safetensors":
        raise OptionError(f"the output is {destination}", "give a name that ends in .safetensors")
    draw = torch.Generator().manual_seed(recipe.seed)
    state: dict[str, Tensor] = {}
    for layer in range(config.layers):
        prefix = f"blocks.{layer}.self_attn."
        dense = {
            name.removeprefix(prefix): checkpoint.read(name) for name in checkpoint.shapes if name.startswith(prefix)
        }
        latent, report = convert_layer(layer, dense, recipe, config, draw)
        state |= in_dtype(prefix, latent, dense["k.weight"].dtype)
        progress(report)
    for name in checkpoint.shapes:
        if ".self_attn." not in name:
            state[name] = checkpoint.read(name).contiguous()
    result = replace(config, attention="latent", latent=recipe.latent)
    metadata = {
        CONFIG_KEY: json.dumps(asdict(result)),
        RECIPE_KEY: json.dumps(asdict(recipe) | FIXED | {"source": checkpoint.digests(), "part": checkpoint.part}),
    }
    save_tensors(state, destination, metadata)
    return result


def convert_layer(
    layer: int, dense: dict[str, Tensor], recipe: Recipe, config: TransformerConfig, draw: torch.Generator
) -> tuple[dict[str, Tensor], LayerReport]:
    """One layer's latent attention from its dense `q.weight`, `q.bias`, …, `norm_k.weight`; float64 throughout.

    Raises `WeightsError` naming the layer where numbers are too large for that.
    """
    dense = {name: tensor.double() for name, tensor in dense.items()}
    result = _random_maps(recipe.latent, config, draw) if recipe.init == "random" else {}
    report = LayerReport(layer, 0.0, 0.0)
    if recipe.init == "svd":
        with decomposing(f"layer {layer}"):
            result, report = _svd_maps(layer, dense, recipe, config)
    result["o.weight"] = dense["o.weight"]
    bias = dense["o.bias"]
    if recipe.init == "svd" and recipe.value_bias == "into_output":
        bias = bias + dense["o.weight"] @ dense["v.bias"]
    result["o.bias"] = bias
    return result, report


def in_dtype(prefix: str, maps: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """`maps` by their whole names, contiguous in `dtype`. Raises `WeightsError` for a number that it does not hold."""
    kind = str(dtype).removeprefix("torch.")
    state = {prefix + name: tensor.to(dtype).contiguous() for name, tensor in maps.items()}
    for name, tensor in state.items():
        check_finite(f"in {kind}", name, tensor, f"{kind} does not hold its numbers: take a wider dtype")
    return state


def _svd_maps(
    layer: int, dense: dict[str, Tensor], recipe: Recipe, config: TransformerConfig
) -> tuple[dict[str, Tensor], LayerReport]:
    sizes, heads = recipe.latent, config.heads
    rope, nope = rope_channels(sizes, config), content_channels(sizes, config)
    query = _normed_map(dense, "q", recipe).reshape(heads, -1, config.dim)
    query = query * math.sqrt((sizes.d_nope + sizes.d_rope) / config.head_dim)
    key = _normed_map(dense, "k", recipe).reshape(heads, -1, config.dim)
    content = heads * sizes.d_nope
    up, kv_down, kv_kept = factor(torch.cat([key[:, nope].flatten(0, 1), dense["v.weight"]]), sizes.d_c)
    q_both, q_down, q_kept = factor(torch.cat([query[:, nope].flatten(0, 1), query[:, rope].flatten(0, 1)]), sizes.d_q)
    maps = {
        "kv_down.weight": kv_down,
        "kv_norm.weight": _latent_gain(kv_down, recipe),
        "k_up.weight": up[:content],
        "v_up.weight": up[content:],
        "k_rope.weight": key[:, rope].mean(0),
        "q_down.weight": q_down,
        "q_norm.weight": _latent_gain(q_down, recipe),
        "q_up.weight": q_both[:content],
        "q_rope.weight": q_both[content:],
    }
    return maps, LayerReport(layer, kv_kept, q_kept)


def factor(matrix: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Balanced truncated SVD: U sqrt(S) [m, width], sqrt(S) V^T [width, n], and the energy kept.

    Where `width` exceeds the number of singular values, the surplus rows and columns are zero.
    """
    left, singular, right = torch.linalg.svd(solvable(matrix), full_matrices=False)
    kept = min(width, len(singular))
    root = singular[:kept].sqrt()
    up, down = matrix.new_zeros(matrix.shape[0], width), matrix.new_zeros(width, matrix.shape[1])
    up[:, :kept] = left[:, :kept] * root
    down[:kept] = root[:, None] * right[:kept]
    return up, down, energy(singular, width)


def _normed_map(dense: dict[str, Tensor], name: str, recipe: Recipe) -> Tensor:
    """The map of the queries or keys with its RMSNorm's gain, and a constant for its 1/rms."""
    weight = dense[f"{name}.weight"]
    rms: Tensor | float = 1.0
    if recipe.qk_rms == "expected":
        rms = (weight.square().sum(1) + dense[f"{name}.bias"].square()).mean().sqrt()
        if not torch.isfinite(rms):
            raise WeightsError(f"float64 does not hold the squares of {name}.weight and {name}.bias", TOO_LARGE)
        rms = rms if rms > 0 else 1.0  # of a map to nothing, which its norm keeps
    return weight * (dense[f"norm_{name}.weight"] / rms)[:, None]


def _latent_gain(down: Tensor, recipe: Recipe) -> Tensor:
    expected = down.square().sum(1).mean().sqrt()
    return torch.full_like(down[:, 0], float(expected) if recipe.latent_gain == "expected" else 1.0)


def _random_maps(sizes: LatentSizes, config: TransformerConfig, draw: torch.Generator) -> dict[str, Tensor]:
    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=draw, dtype=torch.float64) / math.sqrt(columns)

    heads, dim = config.heads, config.dim
    return {
        "kv_down.weight": normal(sizes.d_c, dim),
        "kv_norm.weight": torch.ones(sizes.d_c, dtype=torch.float64),
        "k_up.weight": normal(heads * sizes.d_nope, sizes.d_c),
        "v_up.weight": normal(dim, sizes.d_c),
        "k_rope.weight": normal(sizes.d_rope, dim),
        "q_down.weight": normal(sizes.d_q, dim),
        "q_norm.weight": torch.ones(sizes.d_q, dtype=torch.float64),
        "q_up.weight": normal(heads * sizes.d_nope, sizes.d_q),
        "q_rope.weight": normal(heads * sizes.d_rope, sizes.d_q),
    }


# ------------------------------------------------------------------------------------------ rotary bands


def rope_channels(sizes: LatentSizes, config: TransformerConfig) -> list[int]:
    """Channels of a dense head that stay positional: the first bands of each axis, both channels of each pair."""
    return _channels(_rope_bands(sizes, config.head_dim))


def content_channels(sizes: LatentSizes, config: TransformerConfig) -> list[int]:
    """Channels of a dense head that become content: of the remaining bands, the d_nope / 2 that turn slowest."""
    taken = set(_rope_bands(sizes, config.head_dim))
    speed: dict[int, float] = {}
    start = 0
    for count in axis_pairs(config.head_dim):
        speed |= {start + i: config.rope_theta ** (-i / count) for i in range(count)}
        start += count
    free = sorted((band for band in speed if band not in taken), key=lambda band: (speed[band], band))
    return _channels(sorted(free[: sizes.d_nope // 2]))


def _rope_bands(sizes: LatentSizes, head_dim: int) -> list[int]:
    bands: list[int] = []
    start = 0
    for count, chosen in zip(axis_pairs(head_dim), sizes.pairs, strict=True):
        bands += range(start, start + chosen)
        start += count
    return bands


def _channels(bands: list[int]) -> list[int]:
    return [channel for band in bands for channel in (2 * band, 2 * band + 1)]


# ------------------------------------------------------------------------------------------------ checks


def check_latent(sizes: LatentSizes, config: TransformerConfig) -> None:
    """Raise `OptionError` naming the width that a dense head cannot give."""
    if not (1 <= sizes.d_c <= WIDEST and 1 <= sizes.d_q <= WIDEST):
        raise OptionError(f"d_c is {sizes.d_c} and d_q is {sizes.d_q}", f"both must be from 1 to {WIDEST:,}")
    check_pairs(sizes.pairs, config.head_dim)
    if sizes.d_rope != 2 * sum(sizes.pairs):
        raise OptionError(f"d_rope is {sizes.d_rope}, pairs are {sizes.pairs}", "d_rope must be twice their sum")
    room = config.head_dim - sizes.d_rope
    if sizes.d_nope % 2 or not 2 <= sizes.d_nope <= room:
        raise OptionError(
            f"d_nope is {sizes.d_nope}", f"it must be even and between 2 and {room} (head width - d_rope)"
        )


def check_pairs(pairs: tuple[int, int, int], head_dim: int) -> None:
    """Raise `OptionError` for rotary pairs that a head of `head_dim` channels does not have."""
    limits = axis_pairs(head_dim)
    if any(not 0 <= chosen <= limit for chosen, limit in zip(pairs, limits, strict=True)):
        raise OptionError(f"pairs are {pairs}", f"a head of {head_dim} has {limits} for time, height, width")


def dense_config(checkpoint: Checkpoint, heads: int | None = None) -> TransformerConfig:
    """Sizes of a dense checkpoint from its shapes; what shapes cannot say comes from its metadata or Wan2.1's values.

    Raises `WeightsError` for a checkpoint that is not dense or lacks tensors, `OptionError` for impossible heads.
    """
    if operator_of(checkpoint) != "stacked":
        raise WeightsError(f"{checkpoint.source.name} already has latent attention", "give a dense checkpoint")
    parts = [*(f"{part}.{leaf}" for part in "qkvo" for leaf in ("weight", "bias")), "norm_q.weight", "norm_k.weight"]
    layers = range(layer_count(checkpoint))
    _require(checkpoint, [f"blocks.{i}.self_attn.{part}" for i in layers for part in parts])
    config = network_config(checkpoint, heads)
    shapes = {part: (config.dim,) * (2 if part[1:] == ".weight" else 1) for part in parts}
    check_shapes(checkpoint, {f"blocks.{i}.self_attn.{part}": shapes[part] for i in layers for part in parts})
    return config


def check_shapes(checkpoint: Checkpoint, expected: Mapping[str, Sequence[int]]) -> None:
    """Raise `WeightsError` where a tensor has another shape than expected; 0 there stands for any number but it."""
    for name, shape in expected.items():
        has = checkpoint.shapes[name]
        if (
            len(has) != len(shape)
            or not all(has)
            or any(n not in (0, size) for n, size in zip(shape, has, strict=True))
        ):
            raise WeightsError(
                f"{checkpoint.source.name}: {name} is {shown(has)}", "give a checkpoint of this kind of network"
            )


def _require(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in checkpoint]:
        raise WeightsError(
            f"{checkpoint.source.name} lacks {len(missing)} tensors: {', '.join(missing[:10])}", "give the whole model"
        )


def network_config(checkpoint: Checkpoint, heads: int | None = None) -> TransformerConfig:
    """As `dense_config`, of everything but self-attention."""
    outside = ("patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "blocks.0.ffn.0.weight")
    _require(checkpoint, outside)
    check_shapes(checkpoint, {name: (0,) * (5 if name.startswith("patch") else 2) for name in outside})
    dim, channels, *patch = checkpoint.shapes["patch_embedding.weight"]
    metadata = _metadata_config(checkpoint)
    if heads is None:
        heads = metadata.get("heads") or max(1, dim // 128)
    if heads < 1 or dim % heads or dim // heads % 2:
        raise OptionError(f"{heads} heads over a width of {dim}", "give --heads, which must divide it into even parts")
    config = TransformerConfig(
        dim=dim,
        heads=heads,
        layers=layer_count(checkpoint),
        ffn=checkpoint.shapes["blocks.0.ffn.0.weight"][0],
        in_channels=channels,
        patch=(patch[0], patch[1], patch[2]),
        text_width=checkpoint.shapes["text_embedding.0.weight"][1],
        text_tokens=metadata.get("text_tokens") or TransformerConfig().text_tokens,
        freq_dim=checkpoint.shapes["time_embedding.0.weight"][1],
    )
    check_sizes(config)
    return config


def _metadata_config(checkpoint: Checkpoint) -> dict[str, int]:
    try:
        config = json.loads(checkpoint.metadata.get(CONFIG_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in config.items() if isinstance(value, int)} if isinstance(config, dict) else {}

"""What a transformer weighs and costs, by arithmetic on its sizes; torch-free, so that a plan can say it anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from videomla_models.spec.config import SamplerConfig, TransformerConfig
from videomla_models.spec.storage import EXACT, Storage
from videomla_models.spec.window import CLASSES, CURRENT, LOCAL, SINK, WindowPolicy

ELEMENT_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
MEAN_BYTES = 4
"""Means of latents are float32."""


def parameters(config: TransformerConfig) -> int:
    """Weights of the network, norms and modulation included; equal to those of the module."""
    dim, ffn = config.dim, config.ffn
    cross = 4 * (dim * dim + dim) + 2 * dim
    block = _self_attention(config) + cross + 2 * dim + (2 * dim * ffn + ffn + dim) + 6 * dim
    patch = math.prod(config.patch) * config.in_channels
    text = config.text_width * dim + dim + dim * dim + dim
    time = config.freq_dim * dim + dim + 7 * (dim * dim + dim)
    return config.layers * block + (patch * dim + dim) + text + time + (dim * patch + patch + 2 * dim)


def _self_attention(config: TransformerConfig) -> int:
    dim, heads, sizes = config.dim, config.heads, config.latent
    if config.attention != "latent":
        return 4 * (dim * dim + dim) + 2 * dim
    queries = dim * sizes.d_q + sizes.d_q + sizes.d_q * heads * (sizes.d_nope + sizes.d_rope)
    keys = dim * sizes.d_c + sizes.d_c + sizes.d_c * (heads * sizes.d_nope + dim) + dim * sizes.d_rope
    return queries + keys + dim * dim + dim


@dataclass(frozen=True, slots=True)
class Workload:
    """The geometry that a network runs at.

    Attributes:
        tokens: per latent frame. chunk: latent frames per chunk. window: latent frames that attention sees.
        forwards: network calls per chunk, clean pass included, guidance counted as a second batch element.
        spare: latent frames that the cache holds besides.
        head_frames: where classes of heads have windows of their own, latent frames that their heads hold in all layers
            together, at most; 0 elsewhere.
    """

    tokens: int
    chunk: int
    window: int
    forwards: int
    spare: int = 0
    head_frames: int = 0


def workload(
    config: TransformerConfig, policy: WindowPolicy, chunk: int, sampler: SamplerConfig, height: int, width: int
) -> Workload:
    """The workload of a rollout over latents of `height` x `width`."""
    guided = 2 if sampler.guidance != 1 else 1
    passes = 2 if policy.schedule == "rolling" else len(sampler.steps) + 1
    tokens = (height // config.patch[1]) * (width // config.patch[2])
    window = policy.capacity(chunk) + (0 if policy.by_head else policy.front)
    return Workload(tokens, chunk, window, guided * passes, policy.spare(chunk), _head_frames(config, policy, chunk))


def _head_frames(config: TransformerConfig, policy: WindowPolicy, chunk: int) -> int:
    """Of all heads once their classes hold; of classes that are to be found, the larger window of the other two."""
    if not policy.by_head:
        return 0
    classes = {letter: policy.of_class(letter, chunk) for letter in CLASSES}
    frames = {letter: own.total(chunk) + own.front for letter, own in classes.items()}
    if policy.head_classes:
        return sum(frames[letter] for letter in "".join(policy.head_classes))
    heads = config.layers * config.heads
    current = round(policy.head_current * heads)
    return current * frames[CURRENT] + (heads - current) * max(frames[SINK], frames[LOCAL])


def cache_bytes(
    config: TransformerConfig, work: Workload, element_bytes: int, guided: bool, storage: Storage = EXACT
) -> int:
    """Bytes of one request's self-attention cache with the window full; guidance keeps a second one.

    The linear form keeps a [head, head] matrix and a vector for every head, whatever the window.
    """
    if config.attention == "linear":
        layer = config.dim * (config.head_dim + 1) * element_bytes
    elif work.head_frames:
        return work.head_frames * work.tokens * 2 * config.head_dim * element_bytes * (2 if guided else 1)
    else:
        layer = storage.layer_bytes(config, work.tokens, work.window + work.spare, element_bytes)
    return config.layers * layer * (2 if guided else 1)


def kept_bytes(
    config: TransformerConfig, policy: WindowPolicy, work: Workload, sampler: SamplerConfig, element_bytes: int
) -> dict[str, int]:
    """Bytes that one request's stream keeps from chunk to chunk beside the cache, by name; guidance's included.

    `text_keys`: keys and values of the prompt in every layer. `latents`: finished frames that a rebuild runs again, or
    chunks in flight of the rolling schedule. `queries`: of the clean pass, summed, where tokens are chosen by them.
    `means`: of latents over each frame of a pool and of the latest chunk, where a bank is chosen by them.
    Rotary angles and what is made of the timesteps alone are left out, one set for all requests of a batch, and so is
    what the decoder keeps.
    """
    text = 2 * config.layers * config.text_tokens * config.dim * (2 if sampler.guidance != 1 else 1)
    chunks = -(-(work.window - policy.front) // work.chunk) if policy.rebuilds else 0
    chunks = len(sampler.steps) - 1 if policy.schedule == "rolling" else chunks
    latents = chunks * work.chunk * work.tokens * math.prod(config.patch) * config.in_channels
    kept = {"text_keys": text * element_bytes, "latents": latents * element_bytes}
    if policy.select and policy.select_at == "clean":
        width = config.dim if config.attention == "dense" else config.cached_scalars
        kept["queries"] = config.layers * width * element_bytes * (2 if sampler.guidance != 1 else 1)
    if policy.bank and policy.bank_by == "latents":
        kept["means"] = (policy.bank_pool + work.chunk) * config.in_channels * MEAN_BYTES
    return kept


def transient_bytes(
    config: TransformerConfig,
    policy: WindowPolicy,
    work: Workload,
    form: str,
    element_bytes: int,
    guided: bool,
    storage: Storage = EXACT,
) -> dict[str, int]:
    """Bytes of what one layer makes of one request's cache for its own attention, by name; the next layer needs none.

    `rotated`: keys rotated at read. `gathered`: entries brought together (the rolling schedule; in the absorbed form
    latents beside their rope keys, which its kernel on CUDA reads where they lie). `rebuilt`: keys and values of every
    head, in the expanded form. `decoded`, where the cache is encoded: what attention reads in its place, and
    frames that the policy keeps besides.

    Args:
        form: of latent attention, `expanded` or `absorbed`.
    """
    tokens, sizes = work.window * work.tokens, config.latent
    if work.head_frames:
        tokens = work.head_frames * work.tokens // (config.layers * config.heads)
    scalars = {"rotated": 0, "gathered": 0, "rebuilt": 0}
    if config.attention != "linear" and policy.schedule == "rolling":
        scalars["gathered"] = (tokens - policy.sink * work.tokens) * config.cached_scalars
    elif config.attention != "linear" and policy.rotation == "read":
        scalars["rotated"] = tokens * (config.dim if config.attention == "dense" else sizes.d_rope)
    if config.attention == "latent" and form == "absorbed":
        scalars["gathered"] += tokens * config.cached_scalars
    elif config.attention == "latent":
        scalars["rebuilt"] = tokens * (config.heads * (sizes.d_nope + sizes.d_rope) + config.dim)
    if storage.coded:
        scalars["decoded"] = (tokens + work.spare * work.tokens) * storage.decoded_scalars(config)
    return {name: count * element_bytes * (2 if guided else 1) for name, count in scalars.items()}


def flops_per_forward(config: TransformerConfig, queries: int, keys: int, form: str = "expanded") -> dict[str, int]:
    """Floating-point operations of one forward pass of one clip by part; a multiply-add counts two.

    Args:
        queries: tokens in the pass. keys: tokens that self-attention sees, the queries' own included.
        form: of latent attention, `expanded` or `absorbed`.

    Parts: `projections` into and out of self-attention, `rebuild` of keys and values from latents, `attention`
    (scores and mix), `cross_attention`, `feed_forward`, `rest` (patches, timestep, head). Keys and values of the
    prompt are made once per clip and are not counted.
    """
    dim, layers = config.dim, config.layers
    patch = math.prod(config.patch) * config.in_channels
    inner = {
        "cross_attention": 4 * queries * dim * dim + 4 * queries * config.text_tokens * dim,
        "feed_forward": 4 * queries * dim * config.ffn,
        **_attention_flops(config, queries, keys, form),
    }
    rest = 4 * queries * dim * patch + 2 * (config.freq_dim * dim + 7 * dim * dim)
    return {name: layers * count for name, count in inner.items()} | {"rest": rest}


def _attention_flops(config: TransformerConfig, queries: int, keys: int, form: str) -> dict[str, int]:
    dim, heads, sizes = config.dim, config.heads, config.latent
    if config.attention == "linear":
        state = 4 * queries * dim * config.head_dim + 2 * queries * dim
        return {"projections": 8 * queries * dim * dim, "rebuild": 0, "attention": state}
    if config.attention == "dense":
        return {"projections": 8 * queries * dim * dim, "rebuild": 0, "attention": 4 * queries * keys * dim}
    down = 2 * queries * (dim * (sizes.d_q + sizes.d_c + sizes.d_rope) + sizes.d_q * heads * sizes.d_rope)
    if form == "absorbed":
        maps = 2 * queries * heads * sizes.d_c * (sizes.d_q + dim)
        mix = attention_flops(1, queries, keys, heads, sizes.d_c + sizes.d_rope, sizes.d_c)
        return {"projections": down + maps, "rebuild": 0, "attention": mix}
    maps = 2 * queries * (sizes.d_q * heads * sizes.d_nope + dim * dim)
    rebuild = 2 * keys * sizes.d_c * (heads * sizes.d_nope + dim)
    mix = attention_flops(1, queries, keys, heads, sizes.d_nope + sizes.d_rope, config.head_dim)
    return {"projections": down + maps, "rebuild": rebuild, "attention": mix}


def attention_flops(batch: int, queries: int, keys: int, heads: int, key_width: int, value_width: int) -> int:
    """Of scores over `key_width` channels and sums of `value_width`, for every query, key and head.

    What attention needs and what the kernels do: they load values at their own width, so padding is no part of it.
    """
    return 2 * batch * queries * keys * heads * (key_width + value_width)


def flops_per_chunk(
    config: TransformerConfig, policy: WindowPolicy, work: Workload, steps: int, form: str = "expanded"
) -> Mapping[str, int]:
    """FLOPs of a chunk in the steady state, window full, by part and in all (`total`)."""
    own, window = work.chunk * work.tokens, work.window * work.tokens
    if work.head_frames:
        window = work.head_frames * work.tokens // (config.layers * config.heads)
    if policy.schedule == "rolling":
        seen = window - policy.sink * work.tokens
        passes = [
            flops_per_forward(config, steps * own, seen, form),
            flops_per_forward(config, own, seen, form),
        ]
    else:
        passes = [flops_per_forward(config, own, window, form)] * work.forwards
    parts = {name: sum(one[name] for one in passes) for name in passes[0]}
    return parts | {"total": sum(parts.values())}

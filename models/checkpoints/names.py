"""Names of one model in the layouts it is published in, mapped to those of the original Wan2.1 checkpoint.

Sources: Wan-Video/Wan2.1 `wan/modules/model.py` (names kept), huggingface/diffusers `transformer_wan.py` (renamed),
Self-Forcing and LongLive checkpoints (prefixes of the training wrappers). Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal

from harness.errors import WeightsError
from videomla_models.checkpoints.name_mapping import NameMap

Layout = Literal["wan", "diffusers"]
Asked = Layout | Literal["auto", "any"]
"""`auto` is the one that the names show; `any` leaves names that show none as they are, for a loader to list them."""

_WRAPPERS = re.compile(r"(^|\.)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)(?=\.)")
_PREFIXES = ("base_model.", "model.", "module.")

TOP = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
    "patch_embedding": "patch_embedding",
}
"""Modules outside the blocks: Wan2.1's names by those of diffusers."""
_THEIRS, _OURS = ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"), ("q", "k", "v", "o", "norm_q", "norm_k")
# norm2 and norm3 swap: in diffusers norm2 is the affine norm before cross-attention, in Wan that one is norm3.
BLOCK = {
    "scale_shift_table": "modulation",
    "norm2": "norm3",
    "norm3": "norm2",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    **{
        f"{theirs}.{name}": f"{ours}.{short}"
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for name, short in zip(_THEIRS, _OURS, strict=True)
    },
}
"""Modules of a block, likewise."""
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def unwrap(name: str) -> str:
    """`name` without what training wrappers add: FSDP, checkpointing and compile segments, `model.` prefixes."""
    name = _WRAPPERS.sub("", name).removeprefix(".")
    while True:
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        else:
            return name


def detect(source: str, names: Collection[str]) -> Layout:
    """The layout of unwrapped `names`. Raises `WeightsError` when it is none that is known."""
    if any(name.startswith("condition_embedder.") or ".attn1." in name for name in names):
        return "diffusers"
    if any(".self_attn." in name for name in names):
        return "wan"
    shown = ", ".join(sorted(names)[:5]) or "none"
    raise WeightsError(
        f"{source}: unknown layout; its first names are {shown}",
        "known: wan (blocks.0.self_attn.q), diffusers (blocks.0.attn1.to_q), each also inside training wrappers; names "
        "of another can be given: harness convert SRC DST --map FILE",
    )


def _layout(source: str, names: Collection[str], asked: Asked) -> Layout | Literal["unknown"]:
    if asked in ("wan", "diffusers"):
        return asked
    try:
        return detect(source, names)
    except WeightsError:
        if asked == "auto":
            raise
        return "unknown"


def from_diffusers(name: str) -> str:
    """The original name of a diffusers `WanTransformer3DModel` parameter; an unknown one is returned unchanged."""
    block = _IN_BLOCK.fullmatch(name)
    table, inner, prefix = (BLOCK, block[2], f"blocks.{block[1]}.") if block else (TOP, name, "")
    for stem, tail in _splits(inner):
        if stem in table:
            return prefix + table[stem] + tail
    return name


def _splits(name: str) -> Iterable[tuple[str, str]]:
    """`name` whole, then without its last segment (`weight`, `bias`)."""
    stem, dot, leaf = name.rpartition(".")
    return (name, ""), (stem, dot + leaf)


def canonical(
    source: str, names: Iterable[str], layout: Asked = "auto", mapping: NameMap | None = None
) -> tuple[dict[str, str], Layout | Literal["unknown"]]:
    """Original name to stored name for all `names`, and the layout they are in.

    Args:
        mapping: takes names, without what training wrappers add, before the layout is looked for.

    Raises `WeightsError` for an unknown layout and where two stored names mean the same tensor.
    """
    bare = {name: unwrap(name) for name in names}
    renamed = mapping.apply(source, set(bare.values())) if mapping else {}
    left = {name for name in bare.values() if name not in renamed}
    kind = _layout(source, left | {ours for ours in renamed.values() if ours}, layout)
    table: dict[str, str] = {}
    for stored, theirs in bare.items():
        name = renamed.get(theirs, from_diffusers(theirs) if kind == "diffusers" else theirs)
        if name is None:
            continue
        if name in table:
            raise WeightsError(
                f"{source}: {table[name]} and {stored} are both {name}", "keep one of them in the checkpoint"
            )
        table[name] = stored
    return table, kind

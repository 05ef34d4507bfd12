"""Latent attention in Triton on encoded latents: integers of 8 and 4 bits become numbers in registers, tile by tile.

A window is a list of segments, rows that are stored alike: encoded frames, and exact ones (a sink, recent chunks, the
chunk at work). Each segment is cut into parts and the parts are joined as those of the exact kernel are, or writes its
own rows of the rebuilt keys and values. No copy of the window in full precision exists.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from videomla_models.ops import checks, triton_absorbed, triton_expand, variants
from videomla_models.ops.encoded import Segment
from videomla_models.ops.triton_absorbed import COMBINE_OPTIONS, COMBINE_ROWS, _finish, _queries
from videomla_models.ops.triton_expand import Workspace
from videomla_models.ops.variants import CodedVariant

UNSPECIALISED = ["scale", "rows", "filled", "c_rows", "s_rows", "r_rows", "keys_per_split", "first_split"]
EXPAND_UNSPECIALISED = ["filled", "c_rows", "s_rows", "r_rows", "first", "total"]


@triton.jit
def _tile(c_base, s_base, key, live, first, piece: tl.constexpr, D_C: tl.constexpr, BITS: tl.constexpr,
          TOKENS: tl.constexpr, GROUP: tl.constexpr, DTYPE: tl.constexpr):  # fmt: skip
    """Channels `first` to `first + piece` of rows `key`, as numbers; zeros where not `live` or past the width."""
    column = first + tl.arange(0, piece)
    mask = live[:, None] & (column < D_C)[None, :]
    if BITS == 0:
        tile = tl.load(c_base + key[:, None] * D_C + column[None, :], mask=mask, other=0.0)
    else:
        # Two channels come at a time: single bytes would lie in registers as products of bytes want them, and spill.
        pair_column = first // 2 + tl.arange(0, piece // 2)
        inside = live[:, None] & (pair_column < D_C // 2)[None, :]
        pair = tl.load(c_base + key[:, None] * (D_C // 2) + pair_column[None, :], mask=inside, other=0)
        if BITS == 8:
            low = ((pair << 8) >> 8).to(tl.float32)
            high = (pair >> 8).to(tl.float32)
        else:
            low = (pair & 15).to(tl.float32) - 8.0
            high = (pair >> 4).to(tl.float32) - 8.0
        level = tl.interleave(low, high)
        place = (key // TOKENS)[:, None] * (D_C // GROUP) + (column // GROUP)[None, :]
        tile = (level * tl.load(s_base + place, mask=mask, other=0.0).to(tl.float32)).to(DTYPE)
    return tile


@triton.jit
def _attend_tile(acc0, acc1, top, total, q0, q1, qr, c_base, s_base, r_base, n, end, scale,
                 D_C: tl.constexpr, D_R: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, PR: tl.constexpr,
                 BITS: tl.constexpr, TOKENS: tl.constexpr, GROUP: tl.constexpr, BLOCK_N: tl.constexpr,
                 SEPARATE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One key tile of the online softmax in base 2, as `triton_absorbed` has it."""
    key = n + tl.arange(0, BLOCK_N)
    live = key < end
    c0 = _tile(c_base, s_base, key, live, 0, P0, D_C, BITS, TOKENS, GROUP, q0.dtype)
    r = _tile(r_base, s_base, key, live, 0, PR, D_R, 0, 1, 1, q0.dtype)
    if P1 > 0:
        c1 = _tile(c_base, s_base, key, live, P0, P1, D_C, BITS, TOKENS, GROUP, q0.dtype)
    if SEPARATE:
        s = tl.dot(q0, tl.trans(c0), input_precision=PRECISION) * scale
        s += tl.dot(qr, tl.trans(r), input_precision=PRECISION) * scale
        if P1 > 0:
            s += tl.dot(q1, tl.trans(c1), input_precision=PRECISION) * scale
    else:
        s = tl.dot(q0, tl.trans(c0), input_precision=PRECISION)
        if P1 > 0:
            s = tl.dot(q1, tl.trans(c1), s, input_precision=PRECISION)
        s = tl.dot(qr, tl.trans(r), s, input_precision=PRECISION) * scale
    s = tl.where(live[None, :], s, float("-inf"))
    new_top = tl.maximum(top, tl.max(s, 1))
    p = tl.exp2(s - new_top[:, None])
    keep = tl.exp2(top - new_top)
    total = total * keep + tl.sum(p, 1)
    p = p.to(q0.dtype)
    acc0 = tl.dot(p, c0, acc0 * keep[:, None], input_precision=PRECISION)
    if P1 > 0:
        acc1 = tl.dot(p, c1, acc1 * keep[:, None], input_precision=PRECISION)
    return acc0, acc1, new_top, total


@triton.jit(do_not_specialize=UNSPECIALISED)
def attend_coded_kernel(q_ptr, c_ptr, s_ptr, r_ptr, out_ptr, lse_ptr, scale, rows, filled, c_rows, s_rows, r_rows,
                        keys_per_split, first_split, D_C: tl.constexpr, D_R: tl.constexpr, P0: tl.constexpr,
                        P1: tl.constexpr, PR: tl.constexpr, BITS: tl.constexpr, TOKENS: tl.constexpr,
                        GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SEPARATE: tl.constexpr,
                        PRECISION: tl.constexpr):  # fmt: skip
    """Rows of one (row tile, part of a segment, batch element), as float32 sums that `combine_kernel` joins."""
    part = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M
    q_base = q_ptr + batch * rows * (D_C + D_R)
    q0 = _queries(q_base, m, rows, 0, P0, D_C, D_C + D_R, BLOCK_M, False)
    qr = _queries(q_base + D_C, m, rows, 0, PR, D_R, D_C + D_R, BLOCK_M, False)
    q1 = q0
    if P1 > 0:
        q1 = _queries(q_base, m, rows, P0, P1, D_C, D_C + D_R, BLOCK_M, False)
    STRIDE: tl.constexpr = D_C // 2 if BITS > 0 else D_C
    c_base = c_ptr + batch * c_rows * STRIDE
    s_base = s_ptr + batch * s_rows * (D_C // GROUP)
    r_base = r_ptr + batch * r_rows * D_R
    acc0 = tl.zeros([BLOCK_M, P0], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc1 = total
    if P1 > 0:
        acc1 = tl.zeros([BLOCK_M, P1], tl.float32)
    start = part * keys_per_split
    end = tl.minimum(start + keys_per_split, filled)
    for n in range(start, end, BLOCK_N):
        acc0, acc1, top, total = _attend_tile(
            acc0, acc1, top, total, q0, q1, qr, c_base, s_base, r_base, n, end, scale,
            D_C, D_R, P0, P1, PR, BITS, TOKENS, GROUP, BLOCK_N, SEPARATE, PRECISION)  # fmt: skip
    _finish(out_ptr, lse_ptr, acc0, acc1, top, total, m, rows, first_split + part, batch, P0, P1, D_C, BLOCK_M, True)


@triton.jit
def _project(c_base, s_base, up_base, key, live, D_C: tl.constexpr, BITS: tl.constexpr, TOKENS: tl.constexpr,
             GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, SLICE: tl.constexpr,
             PRECISION: tl.constexpr):  # fmt: skip
    """One head's [keys, WIDTH] = latents [keys, D_C] times up [ROWS, D_C] transposed, in slices of the channels."""
    channel = tl.arange(0, WIDTH)
    j = tl.arange(0, SLICE)
    product = tl.zeros([key.shape[0], WIDTH], tl.float32)
    for d in range(0, D_C, SLICE):
        up = tl.load(up_base + channel[:, None] * D_C + (d + j)[None, :],
                     mask=(channel < ROWS)[:, None] & (d + j < D_C)[None, :], other=0.0)  # fmt: skip
        c = _tile(c_base, s_base, key, live, d, SLICE, D_C, BITS, TOKENS, GROUP, up.dtype)
        product = tl.dot(c, tl.trans(up), product, input_precision=PRECISION)
    return product


@triton.jit(do_not_specialize=EXPAND_UNSPECIALISED)
def expand_coded_kernel(c_ptr, s_ptr, r_ptr, k_up_ptr, v_up_ptr, k_ptr, v_ptr, filled, c_rows, s_rows, r_rows, first,
                        total, D_C: tl.constexpr, D_R: tl.constexpr, D_NOPE: tl.constexpr, D_V: tl.constexpr,
                        PR: tl.constexpr, BITS: tl.constexpr, TOKENS: tl.constexpr, GROUP: tl.constexpr,
                        WIDTH_K: tl.constexpr, WIDTH_V: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
                        PRECISION: tl.constexpr):  # fmt: skip
    """Keys and values of one (key tile, head, batch element) of a segment, into rows from `first` of `total`."""
    key = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = key < filled
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    plane = (batch * tl.num_programs(1) + head) * total + first
    STRIDE: tl.constexpr = D_C // 2 if BITS > 0 else D_C
    WIDE: tl.constexpr = D_NOPE + D_R
    c_base = c_ptr + batch * c_rows * STRIDE
    s_base = s_ptr + batch * s_rows * (D_C // GROUP)
    up = k_up_ptr + head * D_NOPE * D_C
    product = _project(c_base, s_base, up, key, live, D_C, BITS, TOKENS, GROUP, D_NOPE, WIDTH_K, SLICE, PRECISION)
    channel = tl.arange(0, WIDTH_K)
    place = k_ptr + plane * WIDE + key[:, None] * WIDE
    mask = live[:, None] & (channel < D_NOPE)[None, :]
    tl.store(place + channel[None, :], product.to(k_ptr.dtype.element_ty), mask=mask)
    j = tl.arange(0, PR)
    mask = live[:, None] & (j < D_R)[None, :]
    shared = tl.load(r_ptr + batch * r_rows * D_R + key[:, None] * D_R + j[None, :], mask=mask, other=0.0)
    tl.store(place + (D_NOPE + j)[None, :], shared, mask=mask)
    up = v_up_ptr + head * D_V * D_C
    product = _project(c_base, s_base, up, key, live, D_C, BITS, TOKENS, GROUP, D_V, WIDTH_V, SLICE, PRECISION)
    channel = tl.arange(0, WIDTH_V)
    place = v_ptr + plane * D_V + key[:, None] * D_V
    mask = live[:, None] & (channel < D_V)[None, :]
    tl.store(place + channel[None, :], product.to(v_ptr.dtype.element_ty), mask=mask)


# ------------------------------------------------------------------------------------------------ host


def constants(variant: CodedVariant, d_c: int, d_rope: int, bits: int, tokens: int, group: int) -> dict[str, Any]:
    """Compile-time arguments of `attend_coded_kernel`; launch and compile gate both take them from here."""
    p0, p1, pr = variants.pieces(d_c, d_rope)
    return {
        "D_C": d_c, "D_R": d_rope, "P0": p0, "P1": p1, "PR": pr, "BITS": bits, "TOKENS": tokens, "GROUP": group,
        "BLOCK_M": variant.block_m, "BLOCK_N": variant.block_n, "SEPARATE": variant.separate,
        "PRECISION": variant.precision,
    }  # fmt: skip


def compile_options(variant: CodedVariant) -> dict[str, Any]:
    """Options of the compiler for `variant`."""
    return {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": True}


def expand_constants(
    dtype: str, d_c: int, d_rope: int, d_nope: int, d_v: int, bits: int, tokens: int, group: int
) -> dict[str, Any]:
    """Compile-time arguments of `expand_coded_kernel`."""
    usual = triton_expand.expand_constants(dtype, d_c, d_rope, d_nope, d_v)
    own = {"BITS": bits, "TOKENS": tokens, "GROUP": group, "SLICE": 16}
    names = *list(usual)[:4], "PR", "BITS", "TOKENS", "GROUP", "WIDTH_K", "WIDTH_V", "BLOCK", "SLICE", "PRECISION"
    return {name: own.get(name, usual.get(name)) for name in names}


def _latents(segment: Segment) -> Tensor:
    """The latents as the kernels load them: codes two channels at a time."""
    return segment.latents.view(torch.int16) if segment.bits == 8 else segment.latents


def _scales(segment: Segment) -> tuple[Tensor, int]:
    """The scales and their rows from one batch element to the next; any tensor for exact latents, which read none."""
    if segment.scales is None:
        return segment.keys, 0
    return segment.scales, checks.rows_apart(segment.scales)


def absorbed(
    query: Tensor, segments: Sequence[Segment], scale: float, *, variant: CodedVariant | None = None,
    workspace: Workspace | None = None,
) -> Tensor:  # fmt: skip
    """Attention of every head on a window of encoded latents, forward only.

    Args:
        query: [B, Lq, H, d_c + d_rope], as `triton_absorbed.absorbed` takes it.
        segments: the window, in any order. scale: positive. variant: a row of `variants.CODED`.

    Returns:
        [B, Lq, H, d_c] in the dtype of the query.

    Raises `OptionError` for what the kernel does not take, and `NotAvailable` without one for this device.
    """
    batch, queries, heads, width = query.shape
    d_rope = segments[0].keys.shape[2]
    d_c, rows = width - d_rope, queries * heads
    checks.contiguous(query=query)
    for segment in segments:
        segment.check(batch, d_c, d_rope, query)
    checks.runnable(query)
    dtype = str(query.dtype).removeprefix("torch.")
    chosen = variant or variants.coded(_architecture(query), dtype)
    row_tiles = -(-rows // chosen.block_m)
    cuts = []
    for segment in segments:
        tiles = -(-segment.latents.shape[1] // chosen.block_n)
        processors = triton_absorbed._processors(query.device)
        cuts.append(variants.splits(row_tiles, batch, tiles, processors, variants.MOST_PARTS // len(segments) or 1))
    parts = sum(count for count, _ in cuts)
    space = workspace or Workspace()
    out = query.new_empty((batch, queries, heads, d_c))
    partial = space.take("partial", (parts, batch, rows, d_c), query, torch.float32)
    sums = space.take("sums", (parts, batch, rows), query, torch.float32)
    first = 0
    for segment, (count, each) in zip(segments, cuts, strict=True):
        scales, scale_rows = _scales(segment)
        attend_coded_kernel[(row_tiles, count, batch)](
            query, _latents(segment), scales, segment.keys, partial, sums, float(scale) * variants.LOG2_E, rows,
            segment.latents.shape[1], checks.rows_apart(segment.latents), scale_rows, checks.rows_apart(segment.keys),
            each * chosen.block_n, first,
            **constants(chosen, d_c, d_rope, segment.bits, segment.tokens, segment.group), **compile_options(chosen),
        )  # fmt: skip
        first += count
    combine_constants = triton_absorbed.combine_constants(d_c)
    triton_absorbed.combine_kernel[(-(-batch * rows // COMBINE_ROWS),)](
        partial, sums, out, batch * rows, parts, **combine_constants, **COMBINE_OPTIONS
    )
    return out


def expand(
    segments: Sequence[Segment], k_up: Tensor, v_up: Tensor, *, workspace: Workspace | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values of every head from a window of encoded latents, forward only.

    Args:
        segments: the window, in any order. k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].

    Returns:
        k [B, H, rows, d_nope + d_rope] and v [B, H, rows, d_v], the rows of the segments one after the other.

    Raises `OptionError` for what the kernel does not take, and `NotAvailable` without one for this device.
    """
    heads, d_nope, d_c = k_up.shape
    d_v, batch, d_rope = v_up.shape[1], segments[0].keys.shape[0], segments[0].keys.shape[2]
    checks.contiguous(k_up=k_up, v_up=v_up)
    for segment in segments:
        segment.check(batch, d_c, d_rope, k_up)
    checks.runnable(k_up)
    dtype = str(k_up.dtype).removeprefix("torch.")
    total = sum(segment.latents.shape[1] for segment in segments)
    space = workspace or Workspace()
    k = space.take("k", (batch, heads, total, d_nope + d_rope), k_up)
    v = space.take("v", (batch, heads, total, d_v), k_up)
    first = 0
    for segment in segments:
        rows = segment.latents.shape[1]
        fixed = expand_constants(dtype, d_c, d_rope, d_nope, d_v, segment.bits, segment.tokens, segment.group)
        scales, scale_rows = _scales(segment)
        expand_coded_kernel[(-(-rows // fixed["BLOCK"]), heads, batch)](
            _latents(segment), scales, segment.keys, k_up, v_up, k, v, rows, checks.rows_apart(segment.latents),
            scale_rows, checks.rows_apart(segment.keys), first, total, **fixed, **triton_expand.expand_options(dtype),
        )  # fmt: skip
        first += rows
    return k, v


def _architecture(tensor: Tensor) -> int:
    return checks.column(torch.cuda.get_device_capability(tensor.device)) if tensor.device.type == "cuda" else 80

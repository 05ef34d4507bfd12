"""Absorbed latent attention in Triton: every head attends on the cached content latents themselves.

The softmax does not depend on the order of the keys, so the slots of a ring are read where they lie. Heads share
one key and value, so (query, head) pairs become the rows of one matrix by a reshape. The content width is cut into
two power-of-two pieces (192 = 128 + 64) and the positional width into one, so that no product is padded.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.errors import NotAvailable, OptionError
from videomla_models.ops import checks, variants
from videomla_models.ops.triton_expand import Workspace
from videomla_models.ops.variants import Variant

UNSPECIALISED = ["scale", "rows", "filled", "c_rows", "r_rows", "keys_per_split"]
"""Run-time scalars that must not change the compiled code, so that the compiled variants are the ones that run."""


@triton.jit
def _queries(base, m, rows, first: tl.constexpr, piece: tl.constexpr, width: tl.constexpr, stride: tl.constexpr,
             BLOCK_M: tl.constexpr, DESCRIPTORS: tl.constexpr):  # fmt: skip
    """Rows m to m + BLOCK_M of a [rows, width] matrix, `piece` columns from `first`; zeros past either edge."""
    if DESCRIPTORS:
        source = tl.make_tensor_descriptor(base, shape=[rows, width], strides=[stride, 1], block_shape=[BLOCK_M, piece])
        tile = source.load([m, first])
    else:
        row = m + tl.arange(0, BLOCK_M)
        column = first + tl.arange(0, piece)
        mask = (row < rows)[:, None] & (column < width)[None, :]
        tile = tl.load(base + row[:, None] * stride + column[None, :], mask=mask, other=0.0)
    return tile


@triton.jit
def _keys(source, n, end, first: tl.constexpr, piece: tl.constexpr, width: tl.constexpr,
          BLOCK_N: tl.constexpr, DESCRIPTORS: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """One key tile [BLOCK_N, piece]. No row at or past `end` of the last split is read."""
    if DESCRIPTORS:
        tile = source.load([n, first])
    else:
        row = tl.arange(0, BLOCK_N)
        column = first + tl.arange(0, piece)
        address = source + n * width + (row[:, None] * width + column[None, :])
        if MASKED:
            tile = tl.load(address, mask=(row < end - n)[:, None] & (column < width)[None, :], other=0.0)
        elif first + piece > width:
            tile = tl.load(address, mask=(column < width)[None, :], other=0.0)
        else:
            tile = tl.load(address)
    return tile


@triton.jit
def _step(acc0, acc1, top, total, q0, q1, qr, c0_at, c1_at, r_at, n, end, scale,
          D_C: tl.constexpr, D_R: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, PR: tl.constexpr,
          BLOCK_N: tl.constexpr, DESCRIPTORS: tl.constexpr, SEPARATE: tl.constexpr, PRECISION: tl.constexpr,
          MASKED: tl.constexpr):  # fmt: skip
    """One key tile of the online softmax (Milakov and Gimelshein 2018) in base 2."""
    # A content tile is key and value in one: loaded once, it feeds the scores here and the sums below.
    c0 = _keys(c0_at, n, end, 0, P0, D_C, BLOCK_N, DESCRIPTORS, MASKED)
    r = _keys(r_at, n, end, 0, PR, D_R, BLOCK_N, DESCRIPTORS, MASKED)
    if P1 > 0:
        c1 = _keys(c1_at, n, end, P0, P1, D_C, BLOCK_N, DESCRIPTORS, MASKED)
    if SEPARATE:
        # Scaling each product keeps the compiler from chaining them through one tensor-memory tile on sm_100.
        s = tl.dot(q0, tl.trans(c0), input_precision=PRECISION) * scale
        s += tl.dot(qr, tl.trans(r), input_precision=PRECISION) * scale
        if P1 > 0:
            s += tl.dot(q1, tl.trans(c1), input_precision=PRECISION) * scale
    else:
        # A chain of products into one tile, the widest first: no second tile of scores is held beside it.
        s = tl.dot(q0, tl.trans(c0), input_precision=PRECISION)
        if P1 > 0:
            s = tl.dot(q1, tl.trans(c1), s, input_precision=PRECISION)
        s = tl.dot(qr, tl.trans(r), s, input_precision=PRECISION)
    if MASKED:
        s = tl.where((n + tl.arange(0, BLOCK_N) < end)[None, :], s, float("-inf"))
    if SEPARATE:
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new_top[:, None])
    else:
        # The scale goes into the exponent as one multiply-add a score; scaling first would be a pass of its own.
        new_top = tl.maximum(top, tl.max(s, 1) * scale)
        p = tl.exp2(s * scale - new_top[:, None])
    keep = tl.exp2(top - new_top)
    total = total * keep + tl.sum(p, 1)
    p = p.to(c0.dtype)
    acc0 = tl.dot(p, c0, acc0 * keep[:, None], input_precision=PRECISION)
    if P1 > 0:
        acc1 = tl.dot(p, c1, acc1 * keep[:, None], input_precision=PRECISION)
    return acc0, acc1, new_top, total


@triton.jit
def _store(base, value, m, rows, first: tl.constexpr, piece: tl.constexpr, width: tl.constexpr,
           BLOCK_M: tl.constexpr):  # fmt: skip
    row = m + tl.arange(0, BLOCK_M)
    column = first + tl.arange(0, piece)
    mask = (row < rows)[:, None] & (column < width)[None, :]
    tl.store(base + row[:, None] * width + column[None, :], value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _finish(out_ptr, lse_ptr, acc0, acc1, top, total, m, rows, split, batch, P0: tl.constexpr, P1: tl.constexpr,
            D_C: tl.constexpr, BLOCK_M: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    inverse = 1.0 / total
    place = batch * rows
    if SPLIT:
        place += split.to(tl.int64) * tl.num_programs(2) * rows
        row = m + tl.arange(0, BLOCK_M)
        tl.store(lse_ptr + place + row, top + tl.log2(total), mask=row < rows)
    _store(out_ptr + place * D_C, acc0 * inverse[:, None], m, rows, 0, P0, D_C, BLOCK_M)
    if P1 > 0:
        _store(out_ptr + place * D_C, acc1 * inverse[:, None], m, rows, P0, P1, D_C, BLOCK_M)


@triton.jit(do_not_specialize=UNSPECIALISED)
def attend_kernel(q_ptr, c_ptr, r_ptr, out_ptr, lse_ptr, scale, rows, filled, c_rows, r_rows, keys_per_split,
                  D_C: tl.constexpr, D_R: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, PR: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DESCRIPTORS: tl.constexpr, SEPARATE: tl.constexpr,
                  SPECIALISE: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """Rows of one (row tile, key split, batch element).

    `scale` carries log2(e). Without SPLIT, `out` is [B, rows, D_C]; with it, float32 [splits, B, rows, D_C] and
    `lse` float32 [splits, B, rows], the base-2 logarithm of each row's sum. Every split holds at least one key.
    """
    split = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M
    q_base = q_ptr + batch * rows * (D_C + D_R)
    q0 = _queries(q_base, m, rows, 0, P0, D_C, D_C + D_R, BLOCK_M, DESCRIPTORS)
    qr = _queries(q_base + D_C, m, rows, 0, PR, D_R, D_C + D_R, BLOCK_M, DESCRIPTORS)
    q1 = q0
    if P1 > 0:
        q1 = _queries(q_base, m, rows, P0, P1, D_C, D_C + D_R, BLOCK_M, DESCRIPTORS)
    c_base = c_ptr + batch * c_rows * D_C
    r_base = r_ptr + batch * r_rows * D_R
    if DESCRIPTORS:
        # A descriptor that ends at `filled` makes the copy engine write zeros instead of reading unwritten slots.
        c0_at = tl.make_tensor_descriptor(c_base, shape=[filled, D_C], strides=[D_C, 1], block_shape=[BLOCK_N, P0])
        r_at = tl.make_tensor_descriptor(r_base, shape=[filled, D_R], strides=[D_R, 1], block_shape=[BLOCK_N, PR])
        c1_at = c0_at
        if P1 > 0:
            c1_at = tl.make_tensor_descriptor(c_base, shape=[filled, D_C], strides=[D_C, 1], block_shape=[BLOCK_N, P1])
    else:
        c0_at = c_base
        c1_at = c_base
        r_at = r_base
    acc0 = tl.zeros([BLOCK_M, P0], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc1 = total
    if P1 > 0:
        acc1 = tl.zeros([BLOCK_M, P1], tl.float32)
    start = split * keys_per_split
    end = tl.minimum(start + keys_per_split, filled)
    if SPECIALISE:
        # A second loop body or a branch makes the compiler drop warp specialisation, so every tile is masked.
        for n in tl.range(start, end, BLOCK_N, warp_specialize=True):
            acc0, acc1, top, total = _step(
                acc0, acc1, top, total, q0, q1, qr, c0_at, c1_at, r_at, n, end, scale,
                D_C, D_R, P0, P1, PR, BLOCK_N, DESCRIPTORS, SEPARATE, PRECISION, True)  # fmt: skip
    else:
        # The last tile alone can pass `end`: a mask on every tile makes 908 instructions of 618 (sm_90, by pointers).
        whole = start + (end - start) // BLOCK_N * BLOCK_N
        for n in range(start, whole, BLOCK_N):
            acc0, acc1, top, total = _step(
                acc0, acc1, top, total, q0, q1, qr, c0_at, c1_at, r_at, n, end, scale,
                D_C, D_R, P0, P1, PR, BLOCK_N, DESCRIPTORS, SEPARATE, PRECISION, False)  # fmt: skip
        if whole < end:
            acc0, acc1, top, total = _step(
                acc0, acc1, top, total, q0, q1, qr, c0_at, c1_at, r_at, whole, end, scale,
                D_C, D_R, P0, P1, PR, BLOCK_N, DESCRIPTORS, SEPARATE, PRECISION, True)  # fmt: skip
    _finish(out_ptr, lse_ptr, acc0, acc1, top, total, m, rows, split, batch, P0, P1, D_C, BLOCK_M, SPLIT)


@triton.jit(do_not_specialize=UNSPECIALISED)
def attend_sliced_kernel(q_ptr, c_ptr, r_ptr, out_ptr, lse_ptr, scale, rows, filled, c_rows, r_rows, keys_per_split,
                         D_C: tl.constexpr, D_R: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, PR: tl.constexpr,
                         BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DESCRIPTORS: tl.constexpr,
                         SEPARATE: tl.constexpr, SPECIALISE: tl.constexpr, PRECISION: tl.constexpr,
                         SPLIT: tl.constexpr):  # fmt: skip
    """`attend_kernel` for float32: queries are read again in slices of 16 channels, which holds no whole operand."""
    split = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M
    row = m + tl.arange(0, BLOCK_M)
    live = (row < rows)[:, None]
    q_base = q_ptr + batch * rows * (D_C + D_R)
    c_base = c_ptr + batch * c_rows * D_C
    r_base = r_ptr + batch * r_rows * D_R
    acc0 = tl.zeros([BLOCK_M, P0], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc1 = total
    if P1 > 0:
        acc1 = tl.zeros([BLOCK_M, P1], tl.float32)
    start = split * keys_per_split
    end = tl.minimum(start + keys_per_split, filled)
    # Sixteen channels are the least that a product takes.
    j = tl.arange(0, 16)
    for n in range(start, end, BLOCK_N):
        key = n + tl.arange(0, BLOCK_N)
        s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for d in range(0, D_C, 16):
            q = tl.load(q_base + row[:, None] * (D_C + D_R) + (d + j)[None, :], mask=live, other=0.0)
            c = tl.load(c_base + key[:, None] * D_C + (d + j)[None, :], mask=(key < end)[:, None], other=0.0)
            s = tl.dot(q, tl.trans(c), s, input_precision=PRECISION)
        for d in range(0, D_R, 16):
            q = tl.load(q_base + row[:, None] * (D_C + D_R) + (D_C + d + j)[None, :], mask=live, other=0.0)
            c = tl.load(r_base + key[:, None] * D_R + (d + j)[None, :], mask=(key < end)[:, None], other=0.0)
            s = tl.dot(q, tl.trans(c), s, input_precision=PRECISION)
        s = tl.where((key < end)[None, :], s * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new_top[:, None])
        keep = tl.exp2(top - new_top)
        total = total * keep + tl.sum(p, 1)
        top = new_top
        c0 = _keys(c_base, n, end, 0, P0, D_C, BLOCK_N, False, True)
        acc0 = tl.dot(p, c0, acc0 * keep[:, None], input_precision=PRECISION)
        if P1 > 0:
            c1 = _keys(c_base, n, end, P0, P1, D_C, BLOCK_N, False, True)
            acc1 = tl.dot(p, c1, acc1 * keep[:, None], input_precision=PRECISION)
    _finish(out_ptr, lse_ptr, acc0, acc1, top, total, m, rows, split, batch, P0, P1, D_C, BLOCK_M, SPLIT)


@triton.jit(do_not_specialize=["rows", "splits"])
def combine_kernel(part_ptr, lse_ptr, out_ptr, rows, splits, D_C: tl.constexpr, WIDTH: tl.constexpr,
                   BLOCK_M: tl.constexpr):  # fmt: skip
    """Join the splits, each weighted by its softmax's sum: float32 [splits, rows, D_C] into out [rows, D_C]."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, WIDTH)
    live = row < rows
    mask = live[:, None] & (column < D_C)[None, :]
    stride = tl.cast(rows, tl.int64)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for split in range(splits):
        top = tl.maximum(top, tl.load(lse_ptr + split * stride + row, mask=live, other=0.0))
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    for split in range(splits):
        weight = tl.exp2(tl.load(lse_ptr + split * stride + row, mask=live, other=0.0) - top)
        part = tl.load(part_ptr + (split * stride + row)[:, None] * D_C + column[None, :], mask=mask, other=0.0)
        acc += part * weight[:, None]
        total += weight
    value = (acc * (1.0 / total)[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * D_C + column[None, :], value, mask=mask)


# ------------------------------------------------------------------------------------------------ host

COMBINE_ROWS = 2
COMBINE_OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
_seen: set[tuple[str, int, int, bool, str]] = set()


def kernel_of(variant: Variant) -> Any:
    """The source that `variant` compiles."""
    return attend_sliced_kernel if variant.sliced else attend_kernel


def constants(variant: Variant, d_c: int, d_rope: int, split: bool) -> dict[str, Any]:
    """Compile-time arguments of `variant`; launch and compile gate both take them from here."""
    p0, p1, pr = variants.pieces(d_c, d_rope)
    return {
        "D_C": d_c, "D_R": d_rope, "P0": p0, "P1": p1, "PR": pr, "BLOCK_M": variant.block_m,
        "BLOCK_N": variant.block_n, "DESCRIPTORS": variant.descriptors, "SEPARATE": variant.separate,
        "SPECIALISE": variant.specialise, "PRECISION": variant.precision, "SPLIT": split,
    }  # fmt: skip


def compile_options(variant: Variant) -> dict[str, Any]:
    """Options of the compiler for `variant`, the same at launch and in the gate."""
    return {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": True}


def combine_constants(d_c: int) -> dict[str, Any]:
    """Compile-time arguments of `combine_kernel`."""
    return {"D_C": d_c, "WIDTH": triton.next_power_of_2(d_c), "BLOCK_M": COMBINE_ROWS}


def absorbed(
    query: Tensor, c: Tensor, r: Tensor, scale: float, *,
    filled: int | None = None, variant: Variant | None = None, parts: int | None = None, out: Tensor | None = None,
    workspace: Workspace | None = None,
) -> Tensor:  # fmt: skip
    """Attention of every head on the cached latents (paper App. E), forward only.

    Args:
        query: [B, Lq, H, d_c + d_rope]: the content query times its head's key map, then the rotated positional query.
        c: content latents [B, S, d_c]; r: rotated positional keys [B, S, d_rope]. Either may be the first S slots of
            a longer buffer.
        scale: positive; 1/sqrt(d_nope + d_rope) of the expanded form.
        filled: written slots, 1 .. S, in any order of time; all S unless given. What lies behind is never read.
        variant: a row of `variants.TABLE`; chosen by device, dtype and rows unless given.
        parts: into how many the keys are cut; chosen to fill the device unless given.
        out: where to write, contiguous; new unless given.
        workspace: holds the partial sums of the parts; new ones unless given.

    Returns:
        [B, Lq, H, d_c] in the dtype of the inputs.

    Raises:
        OptionError: shapes, dtypes, devices, strides or widths that the kernel does not take.
        NotAvailable: no kernel for this device, or the compiler did not specialise the warps as asked.
    """
    filled = c.shape[1] if filled is None and c.dim() == 3 else filled or 0
    checks.absorbed(query, c, r, filled, scale)
    batch, queries, heads, _ = query.shape
    d_c, rows = c.shape[2], queries * heads
    if variant is None:
        variant = _default(query, rows)
    checks.variant(variant, query)
    row_tiles, key_tiles = -(-rows // variant.block_m), -(-filled // variant.block_n)
    if parts is None:
        parts, each = variants.splits(row_tiles, batch, key_tiles, _processors(query.device))
    else:
        if not 1 <= parts <= key_tiles:
            raise OptionError(f"parts={parts} is not from 1 to {key_tiles}, the key tiles of filled={filled}")
        each = -(-key_tiles // parts)
        parts = -(-key_tiles // each)
    if out is None:
        out = query.new_empty((batch, queries, heads, d_c))
    checks.output(out, query, (batch, queries, heads, d_c))
    space = workspace or Workspace()
    target, sums = out, space.take("sums", (parts, batch, rows), query, torch.float32)
    if parts > 1:
        target = space.take("partial", (parts, batch, rows, d_c), query, torch.float32)
    arguments = (query, c, r, target, sums, float(scale) * variants.LOG2_E, rows, filled,
                 checks.rows_apart(c), checks.rows_apart(r), each * variant.block_n)  # fmt: skip
    _launch(variant, (row_tiles, parts, batch), arguments, constants(variant, d_c, r.shape[2], parts > 1))
    if parts > 1:
        combine_kernel[(-(-batch * rows // COMBINE_ROWS),)](
            target, sums, out, batch * rows, parts, **combine_constants(d_c), **COMBINE_OPTIONS
        )
    return out


def _launch(variant: Variant, grid: tuple[int, int, int], arguments: tuple[Any, ...], fixed: dict[str, Any]) -> None:
    kernel, options = kernel_of(variant), compile_options(variant)
    device = arguments[0].device
    if device.type != "cuda":
        kernel[grid](*arguments, **fixed, **options)
        return
    with torch.cuda.device(device):
        if variant.descriptors:
            triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8, device=device))
        key = (variant.name, fixed["D_C"], fixed["D_R"], fixed["SPLIT"], str(arguments[0].dtype))
        if variant.specialise and key not in _seen:
            require_specialised(variant, kernel.warmup(*arguments, grid=grid, **fixed, **options).metadata)
            _seen.add(key)
        kernel[grid](*arguments, **fixed, **options)


def require_specialised(variant: Variant, metadata: Any) -> None:
    """That the compiler made the warps which `variant` asks for; a `metadata` of Triton's says how many it made.

    Raises `NotAvailable` where it dropped the specialisation, which it does without a word.
    """
    if metadata.num_warps != variant.compiled_warps:
        raise NotAvailable(
            f"kernel {variant.name}: the compiler made {metadata.num_warps} warps, not {variant.compiled_warps}: "
            "it dropped warp specialisation", "use the variant sm90-128x128",
        )  # fmt: skip


def _default(q: Tensor, rows: int) -> Variant:
    arch = checks.column(torch.cuda.get_device_capability(q.device)) if q.device.type == "cuda" else 80
    return variants.select(arch, str(q.dtype).removeprefix("torch."), rows)


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)

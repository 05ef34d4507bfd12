"""Keys and values of every head rebuilt from the cached latents, and positional keys rotated, in Triton.

Both write into one workspace that all layers share: at full size the rebuilt keys and values of one layer are 14 times
its cached latents, and no layer needs them after its own attention.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.errors import OptionError
from videomla_models.ops import checks, variants

BLOCK_KEYS = 64
BLOCK_KEYS_FLOAT32 = 32
"""Half as many: `tf32x3` makes two operands of each."""
ROTATE_ROWS = 64
ROTATE_OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


class Workspace:
    """Buffers by name that grow to the largest request and are then reused, layer after layer."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous tensor of `shape` with unspecified contents; whatever was taken under `name` before is lost.

        It lies on the device of `like`, whose dtype it has unless given.
        """
        key, size = (name, dtype or like.dtype, like.device), math.prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = like.new_empty(size, dtype=dtype)
        return buffer[:size].view(shape)

    def poison(self) -> None:
        """Fill every buffer with NaN, so that what is not written anew shows in the result."""
        for buffer in self._buffers.values():
            buffer.fill_(math.nan)

    def bytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for t in self._buffers.values())


@triton.jit
def _project(c_base, up_base, key, live, D_C: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, ROWS: tl.constexpr,
             WIDTH: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One head's [keys, WIDTH] = c [keys, D_C] times up [ROWS, D_C] transposed; columns from ROWS on are zero."""
    channel = tl.arange(0, WIDTH)
    product = tl.zeros([key.shape[0], WIDTH], tl.float32)
    if SLICE > 0:
        # Slices are read again for every product, so that no whole operand fills the registers.
        j = tl.arange(0, SLICE)
        for d in range(0, D_C, SLICE):
            c = tl.load(c_base + key[:, None] * D_C + (d + j)[None, :], mask=live[:, None], other=0.0)
            up = tl.load(up_base + channel[:, None] * D_C + (d + j)[None, :], mask=(channel < ROWS)[:, None], other=0.0)
            product = tl.dot(c, tl.trans(up), product, input_precision=PRECISION)
    else:
        j = tl.arange(0, P0)
        c = tl.load(c_base + key[:, None] * D_C + j[None, :], mask=live[:, None], other=0.0)
        up = tl.load(up_base + channel[:, None] * D_C + j[None, :], mask=(channel < ROWS)[:, None], other=0.0)
        product = tl.dot(c, tl.trans(up), product, input_precision=PRECISION)
        if P1 > 0:
            j = P0 + tl.arange(0, P1)
            inside = (j < D_C)[None, :]
            c = tl.load(c_base + key[:, None] * D_C + j[None, :], mask=live[:, None] & inside, other=0.0)
            mask = (channel < ROWS)[:, None] & inside
            up = tl.load(up_base + channel[:, None] * D_C + j[None, :], mask=mask, other=0.0)
            product = tl.dot(c, tl.trans(up), product, input_precision=PRECISION)
    return product


@triton.jit(do_not_specialize=["filled", "c_rows", "r_rows"])
def expand_kernel(c_ptr, r_ptr, k_up_ptr, v_up_ptr, k_ptr, v_ptr, filled, c_rows, r_rows,
                  D_C: tl.constexpr, D_R: tl.constexpr, D_NOPE: tl.constexpr, D_V: tl.constexpr, P0: tl.constexpr,
                  P1: tl.constexpr, PR: tl.constexpr, WIDTH_K: tl.constexpr, WIDTH_V: tl.constexpr,
                  BLOCK: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Keys and values of one (key tile, head, batch element), straight into [B, H, filled, width]."""
    key = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = key < filled
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    plane = (batch * tl.num_programs(1) + head) * filled
    c_base = c_ptr + batch * c_rows * D_C
    WIDE: tl.constexpr = D_NOPE + D_R
    product = _project(
        c_base, k_up_ptr + head * D_NOPE * D_C, key, live, D_C, P0, P1, D_NOPE, WIDTH_K, SLICE, PRECISION
    )
    channel = tl.arange(0, WIDTH_K)
    place = k_ptr + plane * WIDE + key[:, None] * WIDE
    tl.store(
        place + channel[None, :], product.to(k_ptr.dtype.element_ty), mask=live[:, None] & (channel < D_NOPE)[None, :]
    )
    # The shared rope key is copied behind each head's own part: dense attention takes whole keys.
    j = tl.arange(0, PR)
    mask = live[:, None] & (j < D_R)[None, :]
    shared = tl.load(r_ptr + batch * r_rows * D_R + key[:, None] * D_R + j[None, :], mask=mask, other=0.0)
    tl.store(place + (D_NOPE + j)[None, :], shared, mask=mask)
    product = _project(c_base, v_up_ptr + head * D_V * D_C, key, live, D_C, P0, P1, D_V, WIDTH_V, SLICE, PRECISION)
    channel = tl.arange(0, WIDTH_V)
    place = v_ptr + plane * D_V + key[:, None] * D_V
    tl.store(
        place + channel[None, :], product.to(v_ptr.dtype.element_ty), mask=live[:, None] & (channel < D_V)[None, :]
    )


@triton.jit(do_not_specialize=["filled", "r_rows", "out_rows"])
def rotate_kernel(r_ptr, cos_ptr, sin_ptr, out_ptr, filled, r_rows, out_rows, D_R: tl.constexpr, PAIRS: tl.constexpr,
                  WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Rotate the first PAIRS channel pairs of one (row tile, batch element) and copy the others."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    batch = tl.program_id(1).to(tl.int64)
    pair = tl.arange(0, WIDTH)
    live = (row < filled)[:, None] & (pair < D_R // 2)[None, :]
    turned = live & (pair < PAIRS)[None, :]
    source = r_ptr + batch * r_rows * D_R + row[:, None] * D_R + 2 * pair[None, :]
    even = tl.load(source, mask=live, other=0.0).to(tl.float32)
    odd = tl.load(source + 1, mask=live, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + row[:, None] * PAIRS + pair[None, :], mask=turned, other=1.0)
    sin = tl.load(sin_ptr + row[:, None] * PAIRS + pair[None, :], mask=turned, other=0.0)
    place = out_ptr + batch * out_rows * D_R + row[:, None] * D_R + 2 * pair[None, :]
    tl.store(place, (even * cos - odd * sin).to(out_ptr.dtype.element_ty), mask=live)
    tl.store(place + 1, (even * sin + odd * cos).to(out_ptr.dtype.element_ty), mask=live)


# ------------------------------------------------------------------------------------------------ host


def expand_constants(dtype: str, d_c: int, d_rope: int, d_nope: int, d_v: int) -> dict[str, Any]:
    """Compile-time arguments of `expand_kernel`; launch and compile gate both take them from here."""
    p0, p1, pr = variants.pieces(d_c, d_rope)
    exact, wide_k, wide_v = dtype == "float32", *(max(16, triton.next_power_of_2(width)) for width in (d_nope, d_v))
    # Whole operands of keys and values whose tiles differ in width are held twice, which spills on sm_80.
    sliced = exact or wide_k != wide_v
    return {
        "D_C": d_c, "D_R": d_rope, "D_NOPE": d_nope, "D_V": d_v, "P0": p0, "P1": p1, "PR": pr,
        "WIDTH_K": wide_k, "WIDTH_V": wide_v,
        "BLOCK": BLOCK_KEYS_FLOAT32 if exact else BLOCK_KEYS, "SLICE": 16 if sliced else 0,
        "PRECISION": "tf32x3" if exact else "tf32",
    }  # fmt: skip


def expand_options(dtype: str) -> dict[str, Any]:
    """Options of the compiler for `expand_kernel`."""
    return {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


def rotate_constants(d_rope: int, pairs: int) -> dict[str, Any]:
    """Compile-time arguments of `rotate_kernel`."""
    return {"D_R": d_rope, "PAIRS": pairs, "WIDTH": triton.next_power_of_2(d_rope // 2), "BLOCK": ROTATE_ROWS}


def expand(
    c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor, *, filled: int | None = None, workspace: Workspace | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values of every head from the cached latents (paper App. D.4), forward only.

    Args:
        c: content latents [B, S, d_c]. r: rotated positional keys [B, S, d_rope], shared by the heads. Either may be
            the first S slots of a longer buffer.
        k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].
        filled: written slots, 1 .. S; all unless given. What lies behind is never read.
        workspace: whose buffers `k` and `v` are returned; new ones unless given.

    Returns:
        k [B, H, filled, d_nope + d_rope] and v [B, H, filled, d_v], contiguous.

    Raises:
        OptionError: shapes, dtypes, devices, strides or widths that the kernel does not take.
    """
    filled = c.shape[1] if filled is None and c.dim() == 3 else filled or 0
    checks.expand(c, r, k_up, v_up, filled)
    checks.runnable(c)
    batch, _, d_c = c.shape
    heads, d_nope, d_v, d_rope = k_up.shape[0], k_up.shape[1], v_up.shape[1], r.shape[2]
    space = workspace or Workspace()
    k = space.take("k", (batch, heads, filled, d_nope + d_rope), c)
    v = space.take("v", (batch, heads, filled, d_v), c)
    dtype = str(c.dtype).removeprefix("torch.")
    fixed = expand_constants(dtype, d_c, d_rope, d_nope, d_v)
    expand_kernel[(-(-filled // fixed["BLOCK"]), heads, batch)](
        c, r, k_up, v_up, k, v, filled, checks.rows_apart(c), checks.rows_apart(r), **fixed, **expand_options(dtype)
    )
    return k, v


def _aligned(table: Tensor) -> Tensor:
    """The table on a 16-byte boundary: a run of rows of six pairs, say, starts on one only every second row."""
    return table.clone() if table.data_ptr() % 16 else table


def rope_prepass(
    r: Tensor, cos: Tensor, sin: Tensor, *, filled: int | None = None, out: Tensor | None = None
) -> Tensor:
    """Rotate positional keys slot by slot, once per chunk, so that no kernel does it once per tile.

    Args:
        r: [B, S, d_rope], pairs interleaved (x[2i], x[2i + 1]).
        cos, sin: float32 [tokens, pairs] with a row for each slot. With fewer pairs than d_rope / 2 the first ones are
            rotated and the others copied: height and width may have been rotated when the token was written. Either
            may be rows of a longer table.
        filled: written slots, 1 .. S; all unless given.
        out: [B, >= filled, d_rope], where to write; new unless given.

    Returns:
        `out`, rotated in float32 and rounded once.

    Raises:
        OptionError: more slots than the tables have rows, or tensors that do not fit.
    """
    filled = r.shape[1] if filled is None and r.dim() == 3 else filled or 0
    cos, sin = _aligned(cos), _aligned(sin)
    checks.rotation(r, cos, sin, filled)
    if out is None:
        out = r.new_empty((r.shape[0], filled, r.shape[2]))
    elif out.dim() != 3 or out.shape[0] != r.shape[0] or out.shape[1] < filled or out.shape[2] != r.shape[2]:
        raise OptionError(f"out has shape {list(out.shape)}, not [{r.shape[0]}, >= {filled}, {r.shape[2]}]")
    checks.alike(r=r, out=out)
    checks.slots(r=r, out=out)
    checks.runnable(r)
    rotate_kernel[(-(-filled // ROTATE_ROWS), r.shape[0])](
        r, cos, sin, out, filled, checks.rows_apart(r), checks.rows_apart(out),
        **rotate_constants(r.shape[2], cos.shape[1]), **ROTATE_OPTIONS,
    )  # fmt: skip
    return out

"""Checks of what goes into latent attention, made before any launch; each failure names the tensor and what is valid.

Needs no Triton: PyTorch's own forms are checked here too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.errors import NotAvailable, OptionError
from videomla_models.ops import variants
from videomla_models.ops.variants import Variant

LARGEST_OFFSET = 2**31 - 1
"""Offsets within one batch element are 32-bit in the kernels."""


def alike(**tensors: Tensor) -> None:
    """One dtype and one device, each on a 16-byte boundary. Raises `OptionError`."""
    same(**tensors)
    for name, tensor in tensors.items():
        if tensor.data_ptr() % 16:
            raise OptionError(f"{name} does not start on a 16-byte boundary", "call .clone() on it")


def same(**tensors: Tensor) -> None:
    """One dtype, unless autocast sees to that, and one device. Raises `OptionError`."""
    names = list(tensors)
    first = tensors[names[0]]
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype and not torch.is_autocast_enabled(first.device.type):
            raise OptionError(f"{name} is {tensor.dtype} but {names[0]} is {first.dtype}", "cast them to one dtype")
        if tensor.device != first.device:
            raise OptionError(f"{name} is on {tensor.device} but {names[0]} is on {first.device}", "move them to one")


def contiguous(**tensors: Tensor) -> None:
    """Row-major without gaps. Raises `OptionError`."""
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise OptionError(f"{name} is not contiguous: strides {tensor.stride()}", "call .contiguous() on it")


def slots(**tensors: Tensor) -> None:
    """[batch, slots, width] whose rows follow each other, as in a slice of a longer buffer. Raises `OptionError`."""
    for name, tensor in tensors.items():
        width = tensor.shape[2]
        rows = tensor.shape[1] == 1 or tensor.stride(1) == width
        batches = tensor.shape[0] == 1 or tensor.stride(0) % width == 0 <= tensor.stride(0) - tensor.shape[1] * width
        if tensor.stride(2) != 1 or not rows or not batches:
            raise OptionError(f"{name} is not contiguous: strides {tensor.stride()}", "call .contiguous() on it")


def rows_apart(tensor: Tensor) -> int:
    """Rows from one batch element of a [batch, slots, width] buffer to the next."""
    return tensor.stride(0) // tensor.shape[2] if tensor.shape[0] > 1 else tensor.shape[1]


def shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """The exact shape. Raises `OptionError`."""
    if tuple(tensor.shape) != expected:
        raise OptionError(f"{name} has shape {list(tensor.shape)}, not {list(expected)}")


def attend(q_nope: Tensor, q_rope: Tensor, c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor) -> None:
    """The arguments of `dispatch.Attention.attend`. Raises `OptionError`."""
    if q_nope.dim() != 4 or q_rope.dim() != 4:
        raise OptionError("q_nope and q_rope must be [batch, queries, heads, width]")
    batch, queries, heads = q_nope.shape[:3]
    _sources(batch, heads, c, r, k_up, v_up)
    shape("q_nope", q_nope, (batch, queries, heads, k_up.shape[1]))
    shape("q_rope", q_rope, (batch, queries, heads, r.shape[2]))
    same(q_nope=q_nope, q_rope=q_rope, c=c, r=r, k_up=k_up, v_up=v_up)


def plain(query: Tensor, c: Tensor, r: Tensor, k_up: Tensor | None = None, v_up: Tensor | None = None) -> None:
    """The arguments of either form in PyTorch, of the expanded one with `k_up` and `v_up`. Raises `OptionError`."""
    if query.dim() != 4:
        raise OptionError("query must be [batch, queries, heads, width]")
    batch, queries, heads = query.shape[:3]
    _sources(batch, heads, c, r, k_up, v_up)
    width = c.shape[2] if k_up is None else k_up.shape[1]
    shape("query", query, (batch, queries, heads, width + r.shape[2]))
    tensors = {"query": query, "c": c, "r": r, "k_up": k_up, "v_up": v_up}
    same(**{name: tensor for name, tensor in tensors.items() if tensor is not None})


def _sources(batch: int, heads: int, c: Tensor, r: Tensor, k_up: Tensor | None, v_up: Tensor | None) -> None:
    if c.dim() != 3 or r.dim() != 3:
        raise OptionError("c and r must be [batch, slots, width]")
    slots, d_c = c.shape[1:]
    if slots < 1:
        raise OptionError("the window holds no slot")
    shape("c", c, (batch, slots, d_c))
    shape("r", r, (batch, slots, r.shape[2]))
    for name, up in (("k_up", k_up), ("v_up", v_up)):
        if up is not None:
            if up.dim() != 3:
                raise OptionError(f"{name} must be [heads, width, d_c]")
            shape(name, up, (heads, up.shape[1], d_c))


def window(filled: int, capacity: int) -> None:
    """1 .. capacity written slots. Raises `OptionError`."""
    if not 1 <= filled <= capacity:
        raise OptionError(f"filled={filled} is not from 1 to {capacity}, the slots of the cache")


def absorbed(query: Tensor, c: Tensor, r: Tensor, filled: int, scale: float) -> None:
    """The arguments of `latent_attention.absorbed`. Raises `OptionError`."""
    if query.dim() != 4 or c.dim() != 3 or r.dim() != 3:
        raise OptionError("query must be [batch, queries, heads, d_c + d_rope], c and r [batch, slots, width]")
    batch, queries, heads, width = query.shape
    capacity, d_c, d_rope = c.shape[1], c.shape[2], r.shape[2]
    shape("query", query, (batch, queries, heads, d_c + d_rope))
    shape("c", c, (batch, capacity, d_c))
    shape("r", r, (batch, capacity, d_rope))
    variants.pieces(d_c, d_rope)
    window(filled, capacity)
    alike(query=query, c=c, r=r)
    contiguous(query=query)
    slots(c=c, r=r)
    if not 0 < scale < float("inf"):
        raise OptionError(f"scale={scale} is not a positive number")
    if batch * queries * heads < 1:
        raise OptionError(f"query has no rows: shape {list(query.shape)}")
    if max(queries * heads, capacity) * width > LARGEST_OFFSET:
        raise OptionError(
            f"{max(queries * heads, capacity)} rows of one request are more than {LARGEST_OFFSET // width}"
        )


def output(out: Tensor, query: Tensor, expected: tuple[int, ...]) -> None:
    """A contiguous tensor of shape `expected` that goes with `query`. Raises `OptionError`."""
    shape("out", out, expected)
    alike(query=query, out=out)
    contiguous(out=out)


def variant(chosen: Variant, q: Tensor) -> None:
    """`chosen` takes the dtype of `q`, on a device that can run it. Raises `OptionError` or `NotAvailable`."""
    dtype = str(q.dtype).removeprefix("torch.")
    if dtype not in chosen.dtypes:
        raise OptionError(f"kernel {chosen.name} takes {' or '.join(chosen.dtypes)}, not {dtype}")
    runnable(q)
    if q.device.type == "cuda":
        made_for(chosen, torch.cuda.get_device_capability(q.device))


def made_for(chosen: Variant, capability: tuple[int, int]) -> None:
    """`chosen` was compiled for the table's column of `capability`. Raises `OptionError` or `NotAvailable`."""
    arch = column(capability)
    if chosen.arch != arch:
        fitting = ", ".join(v.name for v in variants.TABLE if v.arch == arch and set(v.dtypes) & set(chosen.dtypes))
        version = ".".join(map(str, capability))
        raise OptionError(f"kernel {chosen.name} is not for compute capability {version}", f"use one of {fitting}")


def column(capability: tuple[int, int]) -> int:
    """The table's column for a compute capability. Raises `NotAvailable` where it has none."""
    arch = variants.architecture(capability)
    if arch is None:
        raise NotAvailable("latent-attention kernels need compute capability 8.0", "use attention: expanded")
    return arch


def runnable(tensor: Tensor) -> None:
    """A CUDA tensor, or any tensor under Triton's interpreter. Raises `NotAvailable`."""
    import triton

    if tensor.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise NotAvailable(
            f"Triton kernels do not run on {tensor.device.type}", "use dispatch.Attention, which falls back to PyTorch"
        )


def expand(c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor, filled: int) -> None:
    """The arguments of `expand.expand`. Raises `OptionError`."""
    if c.dim() != 3 or r.dim() != 3 or k_up.dim() != 3 or v_up.dim() != 3:
        raise OptionError("c and r must be [batch, slots, width], k_up and v_up [heads, width, d_c]")
    (batch, capacity, d_c), heads = c.shape, k_up.shape[0]
    shape("r", r, (batch, capacity, r.shape[2]))
    shape("k_up", k_up, (heads, k_up.shape[1], d_c))
    shape("v_up", v_up, (heads, v_up.shape[1], d_c))
    variants.pieces(d_c, r.shape[2])
    for name, width in (("d_nope", k_up.shape[1]), ("d_v", v_up.shape[1])):
        if width % 16 or not 16 <= width <= variants.WIDEST_HEAD:
            raise OptionError(f"{name}={width} is not a multiple of 16 from 16 to {variants.WIDEST_HEAD}")
    window(filled, capacity)
    alike(c=c, r=r, k_up=k_up, v_up=v_up)
    contiguous(k_up=k_up, v_up=v_up)
    slots(c=c, r=r)
    dtype = str(c.dtype).removeprefix("torch.")
    if dtype not in (*variants.HALF, "float32"):
        raise OptionError(f"dtype {dtype} has no latent-attention kernel", "use bfloat16, float16 or float32")
    if capacity * max(d_c, k_up.shape[1] + r.shape[2], v_up.shape[1]) > LARGEST_OFFSET:
        raise OptionError(f"{capacity} slots are more than the kernel's 32-bit offsets hold")


def rotation(r: Tensor, cos: Tensor, sin: Tensor, filled: int) -> None:
    """The arguments of `expand.rope_prepass`. Raises `OptionError`."""
    if r.dim() != 3 or r.shape[2] % 2 or cos.dim() != 2:
        raise OptionError("r must be [batch, slots, 2 * pairs], cos and sin [tokens, pairs]")
    window(filled, r.shape[1])
    shape("sin", sin, (cos.shape[0], cos.shape[1]))
    if cos.shape[0] < filled:
        raise OptionError(
            f"the rope tables hold {cos.shape[0]} tokens, the window {filled}", "make the tables for every frame of it"
        )
    if not 1 <= cos.shape[1] <= r.shape[2] // 2:
        raise OptionError(f"the rope tables have {cos.shape[1]} pairs, not 1 to {r.shape[2] // 2}")
    alike(cos=cos, sin=sin)
    contiguous(cos=cos, sin=sin)
    if cos.device != r.device or str(cos.dtype) != "torch.float32":
        raise OptionError(f"the rope tables are {cos.dtype} on {cos.device}, not torch.float32 on {r.device}")

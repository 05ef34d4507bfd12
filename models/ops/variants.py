"""The table of compiled forms of the absorbed kernel: what runs on a device is what the compile gate checked.

Free of torch and triton, so that a plan can be made without them.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import OptionError

LOG2_E = 1.4426950408889634
HALF = ("bfloat16", "float16")
ARCHITECTURES = (80, 90, 100)
SHARED_LIMITS = {80: 101_376, 90: 232_448, 100: 232_448}
"""Shared memory of one block, bytes (CUDA C++ programming guide, compute capabilities). The column of sm_80 also runs
on 8.6, 8.9 and 12.0, which have the least of those; 8.0 alone has 166,912."""
TENSOR_MEMORY_LIMIT = 512
"""Tensor-memory columns of an sm_100 multiprocessor (PTX ISA, tcgen05)."""
WIDEST_LATENT, WIDEST_ROPE, WIDEST_HEAD = 192, 32, 128
"""At these widths and at the least, 16, no kernel spills on any target (compile gate, slow tests). Beyond them some do:
on sm_100 with a latent of 208, on sm_80 with 64 rope channels, the expansion of heads of 192 everywhere. Between them
not every combination was compiled; a latent of 144 has 4 spilled loads and stores on sm_80 and 18 on sm_100 in float32,
which costs time and no result."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of the absorbed kernel.

    Attributes:
        name: unique, as the gate and the records show it.
        arch: 80, 90 or 100; the compute capability it is compiled for.
        dtypes: input types it takes. Sums are float32 in every variant.
        block_m, block_n: rows (query, head) and keys of one tile.
        warps, stages: as asked of the compiler; `compiled_warps` is what it must make of them.
        descriptors: keys come through the tensor-memory copy engine rather than by pointers.
        separate: score products are kept apart instead of chained (sm_100).
        specialise: one warp group loads, the others compute (sm_90).
        sliced: queries are read again for each slice of channels (float32, whose operands fill the registers).
        precision: of the products; `tf32x3` gives float32 accuracy from the matrix units in three passes.
    """

    name: str
    arch: int
    dtypes: tuple[str, ...]
    block_m: int
    block_n: int
    warps: int
    stages: int
    descriptors: bool = False
    separate: bool = False
    specialise: bool = False
    sliced: bool = False
    precision: str = "tf32"

    @property
    def compiled_warps(self) -> int:
        """Warps of the compiled program: a producer and a second consumer group come on top when specialised."""
        return self.warps + 8 if self.specialise else self.warps


def _float32(arch: int) -> Variant:
    return Variant(f"sm{arch}-float32-32x16", arch, ("float32",), 32, 16, 4, 1, sliced=True, precision="tf32x3")


# Why these tiles and stages (registers, shared memory and instructions as the compile gate lists them):
# 128 rows, since a key tile is read once for all rows of a block: 64 rows would double what comes from the L2 cache.
# 64 rows where a request has no more, for the other half of a tile would be empty.
# sm_80: 32 keys, as the queries and both sums fill the registers and more keys spill; three stages, for loads are slow.
# sm_90: 128 keys, for 572 instructions a turn where 64 keys take 427; two stages of them are 172 kB of shared memory.
# Specialised: 64 rows for each of two groups that compute, at 232 registers a thread, beside one that loads.
# sm_100: 64 keys, as scores of 128 x 128 beside the sums take 640 of the 512 columns of tensor memory.
# float32: 32 x 16 and one stage, as each operand becomes two of tf32.
TABLE: tuple[Variant, ...] = (
    Variant("sm80-128x32", 80, HALF, 128, 32, 8, 3),
    _float32(80),
    Variant("sm90-128x128", 90, HALF, 128, 128, 8, 2, descriptors=True),
    Variant("sm90-64x64", 90, HALF, 64, 64, 4, 2, descriptors=True),
    Variant("sm90-128x64-specialised", 90, HALF, 128, 64, 4, 3, descriptors=True, specialise=True),
    _float32(90),
    Variant("sm100-128x64", 100, HALF, 128, 64, 8, 2, descriptors=True, separate=True),
    Variant("sm100-64x64", 100, HALF, 64, 64, 4, 2, descriptors=True, separate=True),
    _float32(100),
)


@dataclass(frozen=True, slots=True)
class CodedVariant:
    """One compiled form of the kernel that reads encoded latents; the attributes are those of `Variant`."""

    name: str
    arch: int
    block_m: int
    block_n: int
    warps: int
    stages: int
    dtypes: tuple[str, ...] = HALF
    separate: bool = False
    precision: str = "tf32"


# Keys come by pointers, as a code becomes numbers in registers before the products. The tiles are those of the exact
# kernel where what is decoded leaves room for them.
CODED: tuple[CodedVariant, ...] = (
    CodedVariant("sm80-coded-128x16", 80, 128, 16, 8, 1),
    CodedVariant("sm90-coded-128x64", 90, 128, 64, 8, 2),
    CodedVariant("sm100-coded-128x64", 100, 128, 64, 8, 2, separate=True),
)
CODED_BITS = (8, 4)


def coded(arch: int, dtype: str) -> CodedVariant:
    """The kernel for encoded latents. Raises `OptionError` for a dtype that it does not take."""
    variant = next(v for v in CODED if v.arch == arch)
    if dtype not in variant.dtypes:
        raise OptionError(f"dtype {dtype} has no kernel for encoded latents", f"use {' or '.join(variant.dtypes)}")
    return variant


def named(name: str) -> Variant:
    """The variant `name`. Raises `OptionError` with the names that exist."""
    for variant in TABLE:
        if variant.name == name:
            return variant
    raise OptionError(f"unknown kernel variant {name!r}", "known: " + ", ".join(v.name for v in TABLE))


def architecture(capability: tuple[int, int]) -> int | None:
    """The table's column for a compute capability, the portable one where it has none of its own; None below 8.0."""
    if capability[0] < 8:
        return None
    return {9: 90, 10: 100}.get(capability[0], 80)


def select(arch: int, dtype: str, rows: int) -> Variant:
    """The default variant for `rows` = queries x heads of one batch element.

    The specialised variant is never a default: it runs where a device's tuning file names it.
    Raises `OptionError` for a dtype that no variant takes.
    """
    fitting = [v for v in TABLE if v.arch == arch and dtype in v.dtypes and not v.specialise]
    if not fitting:
        raise OptionError(f"dtype {dtype} has no latent-attention kernel", "use bfloat16, float16 or float32")
    small = [v for v in fitting if v.block_m >= rows]
    return min(small, key=lambda v: v.block_m) if small else max(fitting, key=lambda v: v.block_m)


def pieces(d_c: int, d_rope: int) -> tuple[int, int, int]:
    """Power-of-two widths (p0, p1, pr) that cover the latent and the positional channels.

    p0 is the largest power of two within d_c, p1 covers the rest (0 where there is none), pr covers d_rope.
    Raises `OptionError` for a width that the kernel does not take.
    """
    for name, width, widest in (("d_c", d_c, WIDEST_LATENT), ("d_rope", d_rope, WIDEST_ROPE)):
        if width % 16 or not 16 <= width <= widest:
            raise OptionError(f"{name}={width} is not a multiple of 16 from 16 to {widest}", "use attention: expanded")
    p0 = 1 << (d_c.bit_length() - 1)
    return p0, _cover(d_c - p0), _cover(d_rope)


def _cover(width: int) -> int:
    return 0 if width == 0 else 1 << (width - 1).bit_length()


PART_COST = 2.0
"""A part's own cost in key tiles. By bytes the queries that a part reads and the sums that it writes for 128 rows,
128 * 224 * 2 + 128 * 192 * 4, are 2.7 tiles of 128 keys, some of which the other parts' work hides; not measured."""
MOST_PARTS = 32
"""Of one request; 22 fill an H200's 132 processors at 64 queries, 12 heads and 32,760 keys. Not measured."""


def splits(row_tiles: int, batch: int, key_tiles: int, processors: int, most: int = MOST_PARTS) -> tuple[int, int]:
    """How many parts to cut the keys into so that one request fills the chip, and the key tiles of a part.

    Waves of blocks times the length of a block, plus `PART_COST`. No part is empty.
    """
    best = (float("inf"), 1, key_tiles)
    for count in range(1, min(most, key_tiles) + 1):
        each = -(-key_tiles // count)
        if -(-key_tiles // each) != count:
            continue
        waves = -(-row_tiles * batch * count // processors)
        best = min(best, (waves * (each + (PART_COST if count > 1 else 0.0)), count, each))
    return best[1], best[2]

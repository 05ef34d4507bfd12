"""Compiles every kernel for sm_80, sm_90 and sm_100 without a device, and reads what the compiler made of it.

Registers, shared and tensor memory come from the compiled program, spills and matrix instructions from its disassembly.
Needs only what the triton package ships: ptxas, cuobjdump and nvdisasm.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return"
from __future__ import annotations

import inspect
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from harness.contracts import Json
from harness.errors import NotAvailable, OptionError, nearest
from harness.system import digests
from videomla_models.ops import triton_absorbed, triton_coded, triton_expand, variants
from videomla_models.spec.config import LatentSizes

MATRIX = re.compile(r"^(HMMA|HGMMA|QGMMA|UTC\w*MMA)")
"""SASS of the matrix units: mma.sync (sm_80), wgmma (sm_90), tcgen05.mma (sm_100)."""
_OPERATION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][A-Za-z0-9_.]*)(.*)")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_JUMP = re.compile(r"`\((\.L_x_\d+)\)")
_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class Row:
    """One compiled kernel.

    Attributes:
        target: as in `sm_90`. variant: the kernel's name in the table of variants, or of a helper kernel.
        dtype, split: what it was compiled for; `split` writes partial sums that another kernel combines.
        tile: rows x keys of a tile. warps: of the compiled program. registers: per thread, at the start.
        spills: loads and stores of spilled registers in the whole program.
        shared: bytes of shared memory of a block. tensor_memory: columns.
        tensor_instruction: matrix instruction of the disassembly, with the number of them; empty where there is none.
        per_key_tile: instructions in the loop over key tiles as they stand in the program; 0 without such a loop.
            Of a specialised kernel it is one consumer's; slices of a sliced one are counted once.
        faults: what is wrong with it.
    """

    target: str
    variant: str
    dtype: str
    split: bool
    tile: str
    warps: int
    registers: int
    spills: int
    shared: int
    tensor_memory: int
    tensor_instruction: str
    per_key_tile: int
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel to compile: source, pointer types, scalar types, compile-time arguments and compiler options."""

    arch: int
    variant: str
    dtype: str
    split: bool
    tile: str
    kernel: Any
    pointers: Mapping[str, str]
    scalars: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, Any]
    warps: int
    matrix: bool = True


def jobs(
    targets: Sequence[int] = variants.ARCHITECTURES, sizes: LatentSizes | None = None, heads_width: int = 128
) -> Iterator[Job]:
    """Every kernel that a launch can use on `targets`: variant x dtype x split, and the helpers.

    `sizes` and `heads_width`, the width of a head's values, are those of the 1.3B model unless given.
    Raises `OptionError` for a target that the table does not have.
    """
    sizes = sizes or LatentSizes()
    for arch in targets:
        if arch not in variants.ARCHITECTURES:
            raise OptionError(f"sm_{arch} is no target", "use 80, 90 or 100")
        for variant in variants.TABLE:
            if variant.arch == arch:
                for dtype in variant.dtypes:
                    yield from (_attend(variant, dtype, split, sizes) for split in (False, True))
        for dtype in _TYPES:
            yield from _helpers(arch, dtype, sizes, heads_width)
        for dtype, bits in product(variants.HALF, (0, *variants.CODED_BITS)):
            yield from _coded(arch, dtype, bits, sizes, heads_width)


def _attend(variant: variants.Variant, dtype: str, split: bool, sizes: LatentSizes) -> Job:
    here = "*" + _TYPES[dtype]
    pointers = {"q_ptr": here, "c_ptr": here, "r_ptr": here, "out_ptr": "*fp32" if split else here, "lse_ptr": "*fp32"}
    scalars = {name: "fp32" if name == "scale" else "i32" for name in triton_absorbed.UNSPECIALISED}
    return Job(
        variant.arch, variant.name, dtype, split, f"{variant.block_m}x{variant.block_n}",
        triton_absorbed.kernel_of(variant), pointers, scalars,
        triton_absorbed.constants(variant, sizes.d_c, sizes.d_rope, split),
        triton_absorbed.compile_options(variant), variant.compiled_warps,
    )  # fmt: skip


CODED_TOKENS = 1560
"""Rows with one scale a channel: a latent frame of 480 x 832 pixels. Groups of channels want no division by it."""


def _coded(arch: int, dtype: str, bits: int, sizes: LatentSizes, d_v: int) -> Iterator[Job]:
    """The kernels for encoded latents of `bits`, and for exact ones beside them (0)."""
    here, variant = "*" + _TYPES[dtype], variants.coded(arch, dtype)
    kind, group = (f"int{bits}", (CODED_TOKENS, 1)) if bits else ("exact", (1, 1))
    latents = {"c_ptr": {0: here, 8: "*i16", 4: "*u8"}[bits], "s_ptr": "*fp16" if bits else here, "r_ptr": here}
    yield Job(
        arch, f"{variant.name}-{kind}", dtype, True, f"{variant.block_m}x{variant.block_n}",
        triton_coded.attend_coded_kernel, {"q_ptr": here, **latents, "out_ptr": "*fp32", "lse_ptr": "*fp32"},
        {name: "fp32" if name == "scale" else "i32" for name in triton_coded.UNSPECIALISED},
        triton_coded.constants(variant, sizes.d_c, sizes.d_rope, bits, *group), triton_coded.compile_options(variant),
        variant.warps,
    )  # fmt: skip
    fixed = triton_coded.expand_constants(dtype, sizes.d_c, sizes.d_rope, sizes.d_nope, d_v, bits, *group)
    options = triton_expand.expand_options(dtype)
    yield Job(
        arch, f"expand-coded-{kind}", dtype, False, f"{fixed['BLOCK']}x{sizes.d_nope + sizes.d_rope + d_v}",
        triton_coded.expand_coded_kernel,
        {**latents, **dict.fromkeys(("k_up_ptr", "v_up_ptr", "k_ptr", "v_ptr"), here)},
        dict.fromkeys(triton_coded.EXPAND_UNSPECIALISED, "i32"), fixed, options, options["num_warps"],
    )  # fmt: skip


def _helpers(arch: int, dtype: str, sizes: LatentSizes, d_v: int) -> Iterator[Job]:
    here = "*" + _TYPES[dtype]
    i32 = dict.fromkeys
    fixed = triton_expand.expand_constants(dtype, sizes.d_c, sizes.d_rope, sizes.d_nope, d_v)
    names = ("c_ptr", "r_ptr", "k_up_ptr", "v_up_ptr", "k_ptr", "v_ptr")
    yield Job(
        arch, "expand", dtype, False, f"{fixed['BLOCK']}x{sizes.d_nope + sizes.d_rope + d_v}",
        triton_expand.expand_kernel, dict.fromkeys(names, here), i32(("filled", "c_rows", "r_rows"), "i32"), fixed,
        triton_expand.expand_options(dtype), triton_expand.expand_options(dtype)["num_warps"],
    )  # fmt: skip
    tables = {"r_ptr": here, "cos_ptr": "*fp32", "sin_ptr": "*fp32", "out_ptr": here}
    # A launch of the cache turns the pairs of time alone.
    for pairs in dict.fromkeys((sizes.d_rope // 2, sizes.pairs[0])):
        yield Job(
            arch, "rotate", dtype, False, f"{triton_expand.ROTATE_ROWS}x{2 * pairs}", triton_expand.rotate_kernel,
            tables, i32(("filled", "r_rows", "out_rows"), "i32"), triton_expand.rotate_constants(sizes.d_rope, pairs),
            triton_expand.ROTATE_OPTIONS, triton_expand.ROTATE_OPTIONS["num_warps"], matrix=False,
        )  # fmt: skip
    yield Job(
        arch, "combine", dtype, False, f"{triton_absorbed.COMBINE_ROWS}x{sizes.d_c}", triton_absorbed.combine_kernel,
        {"part_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": here}, i32(("rows", "splits"), "i32"),
        triton_absorbed.combine_constants(sizes.d_c), triton_absorbed.COMBINE_OPTIONS,
        triton_absorbed.COMBINE_OPTIONS["num_warps"], matrix=False,
    )  # fmt: skip


def compile_job(job: Job) -> Row:
    """Compile one kernel and look at it. A compiler that gives up is a fault of the row, not an exception."""
    signature = {**job.pointers, **job.scalars, **dict.fromkeys(job.constants, "constexpr")}
    names = job.kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in job.pointers}
    source = ASTSource(job.kernel, signature, dict(job.constants), aligned)
    row = partial(Row, f"sm_{job.arch}", job.variant, job.dtype, job.split, job.tile)
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", job.arch, 32), options=dict(job.options))
    except (RuntimeError, triton.CompilationError) as error:
        reason = f"does not compile: {str(error).strip().splitlines()[0]}"
        return row(0, 0, 0, 0, 0, "", 0, (reason,))
    registers, listing = _disassemble(compiled.asm["cubin"])
    spills = sum(operation.startswith(("LDL", "STL")) for operation, _ in listing.operations)
    counts = Counter(operation.split(".")[0] for operation, _ in listing.operations if MATRIX.match(operation))
    used = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    columns = int(getattr(compiled.metadata, "tmem_size", 0) or 0)
    warps = int(compiled.metadata.num_warps)
    faults = _faults(job, warps, spills, int(compiled.metadata.shared), columns, used)
    return row(warps, registers, spills, int(compiled.metadata.shared), columns, used, listing.key_loop(), faults)


def _faults(job: Job, warps: int, spills: int, shared: int, columns: int, used: str) -> tuple[str, ...]:
    faults, limit = [], variants.SHARED_LIMITS[job.arch]
    if spills:
        faults.append(f"{spills} spilled loads and stores")
    if shared > limit:
        faults.append(f"{shared} bytes of shared memory are more than {limit}")
    if columns > variants.TENSOR_MEMORY_LIMIT:
        faults.append(f"{columns} columns of tensor memory are more than {variants.TENSOR_MEMORY_LIMIT}")
    if job.matrix and not used:
        faults.append("the matrix units are not used")
    if warps != job.warps:
        faults.append(f"{warps} warps instead of {job.warps}: warp specialisation was dropped")
    return tuple(faults)


@dataclass(frozen=True, slots=True)
class Listing:
    """A disassembled program: (operation, operands) in order, and where each label stands."""

    operations: list[tuple[str, str]]
    labels: dict[str, int]

    def key_loop(self) -> int:
        """Instructions of the shortest loop that holds both a matrix product and the softmax's exponential."""
        lengths = []
        for i, (operation, operands) in enumerate(self.operations):
            jump = _JUMP.search(operands) if operation.startswith("BRA") else None
            start = self.labels.get(jump[1], i + 1) if jump else i + 1
            body = [name for name, _ in self.operations[start : i + 1]]
            if any(MATRIX.match(name) for name in body) and any(name.startswith("MUFU.EX2") for name in body):
                lengths.append(len(body))
        return min(lengths, default=0)


def parse(text: str) -> Listing:
    """Read the output of `nvdisasm -c`."""
    operations: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(operations)
        match = _OPERATION.search(line)
        if match:
            operations.append((match[1], match[2]))
    return Listing(operations, labels)


def _disassemble(cubin: bytes) -> tuple[int, Listing]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        text = _tool("nvdisasm", "-c", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    return int(registers[1]) if registers else 0, parse(text)


def _tool(name: str, *arguments: str) -> str:
    try:
        path = getattr(triton.knobs.nvidia, name).path
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True, timeout=120)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise NotAvailable(
            f"{name} cannot run: {error}", "it comes with the triton package and with the CUDA toolkit"
        ) from error
    return done.stdout + done.stderr


def gate(
    targets: Sequence[int] = variants.ARCHITECTURES, sizes: LatentSizes | None = None, names: Sequence[str] = (),
    heads_width: int = 128,
) -> Iterator[Row]:  # fmt: skip
    """Compile everything for `targets`, or only the kernels in `names`, one row at a time, as `jobs` lists them.

    Raises `OptionError` for a name that no kernel of these targets has, and `NotAvailable` under Triton's
    interpreter, which compiles nothing.
    """
    if triton.knobs.runtime.interpret:
        raise NotAvailable("TRITON_INTERPRET is set, so nothing is compiled", "unset it")
    chosen = list(jobs(targets, sizes, heads_width))
    variant_names = {job.variant for job in chosen}
    for name in names:
        if name not in variant_names:
            raise OptionError(f"unknown kernel {name!r}", nearest(name, variant_names))
    for job in chosen:
        if not names or job.variant in names:
            yield compile_job(job)


def digest() -> str:
    """SHA-256 of all that decides what is compiled, so that a listing made before a change shows as such.

    The source text of every kernel and of the functions that it calls, wherever they stand, and of each job its types,
    constants and options.
    """
    sources: dict[Any, str] = {}
    pending: list[Any] = [job.kernel for job in jobs()]
    while pending:
        function = pending.pop().fn
        if function not in sources:
            sources[function] = inspect.getsource(function)
            used = (function.__globals__.get(name) for name in function.__code__.co_names)
            pending += [value for value in used if isinstance(value, triton.JITFunction)]
    listed = [
        [job.arch, job.variant, job.dtype, job.split, job.warps, job.kernel.__name__, *map(dict, (
            job.pointers, job.scalars, job.constants, job.options
        ))]
        for job in jobs()
    ]  # fmt: skip
    return digests.digest(json.dumps([sorted(set(sources.values())), listed], sort_keys=True))


def header() -> dict[str, Json]:
    """What a listing rests on: what was compiled, versions and limits."""
    return {
        "digest": digest(),
        "triton": triton.__version__,
        "ptxas": _tool("ptxas", "--version").strip().splitlines()[-1],
        "shared_limits": {f"sm_{arch}": limit for arch, limit in variants.SHARED_LIMITS.items()},
        "tensor_memory_limit": variants.TENSOR_MEMORY_LIMIT,
    }

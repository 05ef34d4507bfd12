"""Kernels compiled for devices that are not here, and a gate that sees what is wrong with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")
from harness.errors import NotAvailable, OptionError
from videomla_models.ops import checks, triton_absorbed, triton_coded, triton_expand, variants
from videomla_models.ops import compile_gate as gate
from videomla_models.ops.compile_gate import Job
from videomla_models.ops.encoded import Segment
from videomla_models.spec.config import LatentSizes


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def job(name: str, dtype: str = "bfloat16", split: bool = False) -> Job:
    return next(j for j in gate.jobs() if (j.variant, j.dtype, j.split) == (name, dtype, split))


def altered(name: str, **changes: object) -> Job:
    variant = dataclasses.replace(variants.named(name), **changes)  # type: ignore[arg-type]
    return gate._attend(variant, "bfloat16", False, LatentSizes())


def test_every_variant_is_compiled_for_every_dtype_that_it_takes() -> None:
    made = {(j.variant, j.dtype, j.split) for j in gate.jobs()}
    for variant in variants.TABLE:
        for dtype in variant.dtypes:
            assert {(variant.name, dtype, False), (variant.name, dtype, True)} <= made
    for helper in ("expand", "rotate", "combine"):
        assert {(j.arch, j.dtype) for j in gate.jobs() if j.variant == helper} == {
            (arch, dtype) for arch in (80, 90, 100) for dtype in ("bfloat16", "float16", "float32")
        }


class Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self) -> None:
        self.given: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *given, **fixed: self.given.append((given, fixed))


def launch(name: str, tile: str, dtype: str, split: bool) -> None:
    """What a caller does at the 1.3B model's widths, whose rope turns 6 pairs in time."""
    kind = getattr(torch, dtype)
    if "coded" in name:
        launch_on_codes(name, kind)
        return
    c, r = torch.zeros(1, 300, 192, dtype=kind), torch.zeros(1, 300, 32, dtype=kind)
    if name == "rotate":
        table = torch.zeros(300, int(tile.split("x")[1]) // 2)
        triton_expand.rope_prepass(r, table, table)
    elif name == "expand":
        triton_expand.expand(c, r, torch.zeros(2, 96, 192, dtype=kind), torch.zeros(2, 128, 192, dtype=kind))
    else:
        variant = variants.named("sm80-float32-32x16" if dtype == "float32" else "sm80-128x32")
        variant = variant if name == "combine" else variants.named(name)
        query = torch.zeros(1, 2, 2, 224, dtype=kind)
        triton_absorbed.absorbed(query, c, r, 0.1, variant=variant, parts=2 if split or name == "combine" else 1)


def launch_on_codes(name: str, kind: torch.dtype) -> None:
    """A frame of 1,560 tokens with a scale a channel, or one that is not encoded."""
    code = name.rpartition("-")[2]
    keys, scales = torch.zeros(1, 1560, 32, dtype=kind), torch.zeros(1, 1, 192, dtype=torch.float16)
    latents = torch.zeros(1, 1560, 192, dtype=kind)
    segment = {
        "exact": Segment(latents, keys),
        "int8": Segment(latents.to(torch.int8), keys, scales, 1560, 1),
        "int4": Segment(latents[..., :96].to(torch.uint8), keys, scales, 1560, 1),
    }[code]
    if name.startswith("expand"):
        triton_coded.expand([segment], torch.zeros(2, 96, 192, dtype=kind), torch.zeros(2, 128, 192, dtype=kind))
    else:
        variant = next(v for v in variants.CODED if name.startswith(v.name))
        triton_coded.absorbed(torch.zeros(1, 2, 2, 224, dtype=kind), [segment], 0.1, variant=variant)


TYPES = {
    torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int16: "*i16", torch.uint8: "*u8",
    float: "fp32", int: "i32",
}  # fmt: skip


@pytest.mark.parametrize("arch", variants.ARCHITECTURES)
def test_the_gate_compiles_what_a_launch_compiles(arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same types, compile-time arguments and options, and no run-time number that would change the code."""
    listed = list(gate.jobs([arch]))
    assert {j.tile for j in listed if j.variant == "rotate"} == {"64x32", "64x12"}
    monkeypatch.setattr(checks, "runnable", lambda tensor: None)
    for j in listed:
        kernel, recorder, nothing = j.kernel, Recorder(), Recorder()
        assert {p.name for p in kernel.params if p.do_not_specialize} == set(j.scalars)
        assert [p.name for p in kernel.params] == [*j.pointers, *j.scalars, *j.constants]
        with monkeypatch.context() as patch:
            for module, name in ((triton_expand, "expand_kernel"), (triton_expand, "rotate_kernel"),
                                 (triton_absorbed, "combine_kernel"), (triton_absorbed, "attend_kernel"),
                                 (triton_absorbed, "attend_sliced_kernel"),
                                 (triton_coded, "attend_coded_kernel"),
                                 (triton_coded, "expand_coded_kernel")):  # fmt: skip
                patch.setattr(module, name, recorder if getattr(module, name) is kernel else nothing)
            launch(j.variant, j.tile, j.dtype, j.split)
        ((given, fixed),) = recorder.given
        assert fixed == {**j.constants, **j.options}
        types = [TYPES[x.dtype if isinstance(x, torch.Tensor) else type(x)] for x in given]  # type: ignore[index]
        assert types == [*j.pointers.values(), *j.scalars.values()]


def test_codes_are_read_by_the_kernels_of_every_target() -> None:
    made = {(j.arch, j.variant, j.dtype) for j in gate.jobs() if "coded" in j.variant}
    for variant in variants.CODED:
        for dtype in variants.HALF:
            for code in ("exact", "int8", "int4"):
                assert {
                    (variant.arch, f"{variant.name}-{code}", dtype),
                    (variant.arch, f"expand-coded-{code}", dtype),
                } <= made
    with pytest.raises(OptionError, match="no kernel for encoded latents"):
        variants.coded(90, "float32")


def test_a_small_variant_on_hopper() -> None:
    row = gate.compile_job(job("sm90-64x64"))
    assert row.faults == ()
    assert (row.target, row.tile, row.warps, row.spills) == ("sm_90", "64x64", 4, 0)
    assert row.tensor_instruction.endswith("HGMMA")
    assert 0 < row.registers <= 255
    assert 0 < row.shared <= variants.SHARED_LIMITS[90]
    assert 200 < row.per_key_tile < 1000


def test_the_specialised_kernel_keeps_its_producer() -> None:
    """And a launch looks at the same number as the gate."""
    variant = variants.named("sm90-128x64-specialised")
    row = gate.compile_job(job(variant.name, split=True))
    assert (row.warps, row.faults) == (12, ())
    triton_absorbed.require_specialised(variant, SimpleNamespace(num_warps=row.warps))
    with pytest.raises(NotAvailable, match="made 4 warps, not 12: it dropped warp specialisation"):
        triton_absorbed.require_specialised(variant, SimpleNamespace(num_warps=4))


@pytest.mark.slow
def test_a_producer_that_the_compiler_drops_is_missed() -> None:
    """Two consumer groups of four warps each are what it makes of four; of eight it makes nothing, and says nothing."""
    row = gate.compile_job(altered("sm90-128x64-specialised", warps=8))
    assert row.warps == 8
    assert "8 warps instead of 16: warp specialisation was dropped" in row.faults


def test_a_tile_that_is_too_large_is_refused() -> None:
    row = gate.compile_job(altered("sm90-64x64", block_m=128, block_n=128, warps=4))
    assert row.spills > 0
    assert row.faults[0] == f"{row.spills} spilled loads and stores"


@pytest.mark.slow
def test_other_faults_are_seen() -> None:
    portable = gate.compile_job(altered("sm80-128x32", stages=5))
    assert any("bytes of shared memory are more than 101376" in fault for fault in portable.faults)
    shared = gate.compile_job(altered("sm90-128x128", stages=6))
    assert any("bytes of shared memory are more than 232448" in fault for fault in shared.faults)
    columns = gate.compile_job(altered("sm100-128x64", block_n=128))
    assert any("columns of tensor memory are more than 512" in fault for fault in columns.faults)
    plain = gate.compile_job(dataclasses.replace(job("combine", "float32"), matrix=True))
    assert "the matrix units are not used" in plain.faults
    dropped = gate.compile_job(dataclasses.replace(job("sm90-64x64"), warps=12))
    assert "4 warps instead of 12: warp specialisation was dropped" in dropped.faults


@pytest.mark.slow
def test_everything_compiles_without_a_fault() -> None:
    rows = list(gate.gate())
    assert [row for row in rows if row.faults] == []
    assert {row.target for row in rows} == {"sm_80", "sm_90", "sm_100"}
    specialised = [row for row in rows if "specialised" in row.variant]
    assert {row.warps for row in specialised} == {12}


WIDEST = LatentSizes(d_c=variants.WIDEST_LATENT, d_nope=variants.WIDEST_HEAD, d_rope=variants.WIDEST_ROPE)
ODD = LatentSizes(d_c=176, d_nope=112, d_rope=32)
LEAST = LatentSizes(d_c=16, d_nope=16, d_rope=16)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "d_v"), [(WIDEST, variants.WIDEST_HEAD), (ODD, 48), (LEAST, 16)])
def test_the_widest_and_the_narrowest_compile_without_a_fault(sizes: LatentSizes, d_v: int) -> None:
    assert [row for row in gate.gate(sizes=sizes, heads_width=d_v) if row.faults] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", variants.ARCHITECTURES)
def test_heads_wider_than_those_taken_spill(target: int) -> None:
    sizes = LatentSizes(d_nope=256)
    assert any(row.spills for row in gate.gate([target], sizes, ["expand"], 256))


def test_unknown_targets() -> None:
    with pytest.raises(OptionError, match="sm_75 is no target"):
        list(gate.jobs([75]))


SASS = """
\t.section\t.text.kernel
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
.L_x_0:
        /*0020*/              @!P0 MUFU.EX2 R3, R4 ;
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0040*/              @UP1 STL [R1], R34 ;
        /*0050*/               @P5 BRA `(.L_x_0) ;
        /*0060*/                   LDL.LU R34, [R1] ;
        /*0070*/               @P2 BRA `(.L_x_1) ;
        /*0080*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*0090*/                   EXIT ;
"""


def test_listings_are_read() -> None:
    listing = gate.parse(SASS)
    assert [name for name, _ in listing.operations] == [
        "LDC", "HGMMA.64x64x16.F32.BF16", "MUFU.EX2", "HGMMA.64x64x16.F32.BF16", "STL", "BRA", "LDL.LU", "BRA", "BRA",
        "EXIT",
    ]  # fmt: skip
    assert listing.labels == {".L_x_1": 1, ".L_x_0": 2, ".L_x_2": 9}
    assert listing.key_loop() == 4

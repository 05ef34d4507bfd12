"""The kernels in Triton's interpreter against the float64 reference; run by `test_interpreter.py` in its own process.

The interpreter multiplies bfloat16 bit patterns, so bfloat16 can only be checked on a device. The larger sweeps are
marked slow.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.contracts import Measurement, ProbeContext, Workload
from harness.contracts.kernels import Shape
from harness.probes.kernels.probe import Kernels
from harness.probes.timing.flops import FlopCounter
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.ops import latent, triton_expand, variants
from videomla_models.ops import triton_absorbed as kernels
from videomla_models.ops.choice import Form
from videomla_models.ops.reference import absorbed_attention, latent_attention, rotate
from videomla_models.ops.rope import RotaryTable, Rotation
from videomla_models.ops.variants import Variant
from videomla_models.probes.kernel_chunks import Chunk, Setting
from videomla_models.probes.kernel_family import LatentAttentionBench
from videomla_models.spec.config import LatentSizes, TransformerConfig
from videomla_models.spec.window import WindowPolicy

FLOAT32, FLOAT16 = 1e-6, 5e-4
NAN = float("nan")


def taking_float32(variant: Variant) -> Variant:
    """The same source with exact products, which shows faults that half precision would hide."""
    return dataclasses.replace(variant, dtypes=("float32", "float16"))


VARIANTS = [taking_float32(v) for v in variants.TABLE if v.name in {
    "sm80-128x32", "sm80-float32-32x16", "sm90-128x128", "sm90-64x64", "sm90-128x64-specialised", "sm100-128x64",
    "sm100-64x64",
}]  # fmt: skip
by_name = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
slow = pytest.mark.slow


def inputs(batch: int, lq: int, heads: int, slots: int, filled: int, d_c: int, d_rope: int, seed: int = 0,
           dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, lq, heads, d_c + d_rope, generator=g, dtype=torch.float64).to(dtype)
    c = torch.randn(batch, slots, d_c, generator=g, dtype=torch.float64).to(dtype)
    r = torch.randn(batch, slots, d_rope, generator=g, dtype=torch.float64).to(dtype)
    c[:, filled:], r[:, filled:] = NAN, NAN
    return q, c, r


def error(out: Tensor, q: Tensor, c: Tensor, r: Tensor, scale: float) -> float:
    d_c = c.shape[2]
    expected = absorbed_attention(q[..., :d_c], q[..., d_c:], c, r, scale)
    return float((out.double() - expected).norm() / expected.norm())


def check(variant: Variant, batch: int, lq: int, heads: int, slots: int, filled: int, d_c: int = 32, d_rope: int = 16,
          parts: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:  # fmt: skip
    q, c, r = inputs(batch, lq, heads, slots, filled, d_c, d_rope, seed, dtype)
    scale = 0.7 * d_c**-0.5
    out = kernels.absorbed(q, c, r, scale, filled=filled, variant=variant, parts=parts)
    assert out.shape == (batch, lq, heads, d_c)
    assert out.dtype == dtype
    limit = FLOAT32 if dtype == torch.float32 else FLOAT16
    assert error(out, q, c[:, :filled], r[:, :filled], scale) <= limit


@pytest.mark.parametrize(
    "name", ["sm80-128x32", *(pytest.param(n, marks=slow) for n in ("sm90-128x64-specialised", "sm100-128x64"))]
)
def test_full_widths_at_odd_lengths(name: str) -> None:
    check(taking_float32(variants.named(name)), 1, 63, 2, 1400, 1000, d_c=192, d_rope=32, parts=3)


@by_name
def test_one_token(variant: Variant) -> None:
    check(variant, 1, 1, 3, 1, 1)


@by_name
@pytest.mark.parametrize("filled", [5, 128, *(pytest.param(n, marks=slow) for n in (1, 127, 129, 150))])
def test_partly_filled_windows_of_two_requests(variant: Variant, filled: int) -> None:
    check(variant, 2, 7, 3, 150, filled, seed=filled)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
def test_splits_of_the_keys(parts: int) -> None:
    variant = VARIANTS[parts % 3]
    check(variant, 2, 3, 2, 5 * variant.block_n, 5 * variant.block_n - 3, parts=parts, seed=parts)


@slow
@by_name
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
def test_splits_of_the_keys_in_every_variant(variant: Variant, parts: int) -> None:
    check(variant, 2, 3, 2, 5 * variant.block_n, 5 * variant.block_n - 3, parts=parts, seed=parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("sm80-128x32", 1), ("sm90-64x64", 2), *(pytest.param(n, 2, marks=slow) for n in ("sm90-128x128", "sm100-64x64"))],
)
def test_float16(name: str, parts: int) -> None:
    check(variants.named(name), 1, 9, 3, 300, 290, d_c=48, dtype=torch.float16, parts=parts)


@pytest.mark.parametrize(
    ("name", "d_c", "d_rope"), [("sm80-128x32", 16, 16), ("sm90-64x64", 112, 32), ("sm80-float32-32x16", 48, 16)]
)
def test_other_widths(name: str, d_c: int, d_rope: int) -> None:
    check(taking_float32(variants.named(name)), 1, 5, 2, 40, 33, d_c=d_c, d_rope=d_rope)


@slow
@pytest.mark.parametrize(("d_c", "d_rope"), [(16, 16), (48, 16), (112, 16), (128, 32), (176, 32), (192, 16)])
@pytest.mark.parametrize("name", ["sm80-128x32", "sm80-float32-32x16", "sm90-64x64", "sm100-64x64"])
def test_other_widths_in_every_source(name: str, d_c: int, d_rope: int) -> None:
    check(taking_float32(variants.named(name)), 1, 5, 2, 40, 33, d_c=d_c, d_rope=d_rope)


@pytest.mark.parametrize("phase", range(6))
def test_a_ring_is_read_in_place_at_every_phase(phase: int) -> None:
    """One sink frame, then a ring of six: new frames overwrite the oldest, wherever that stands."""
    tokens, frames = 4, 13 + phase
    g = torch.Generator().manual_seed(phase)
    c, r = torch.randn(1, frames * tokens, 32, generator=g), torch.randn(1, frames * tokens, 16, generator=g)
    slots = [0, *([0] * 6)]
    for frame in range(1, frames):
        slots[1 + (frame - 1) % 6] = frame
    assert sorted(slots) == [0, *range(frames - 6, frames)]
    place = torch.cat([torch.arange(f * tokens, (f + 1) * tokens) for f in slots])
    order = torch.cat([torch.arange(f * tokens, (f + 1) * tokens) for f in sorted(slots)])
    angles = torch.rand(7 * tokens, 8, generator=g, dtype=torch.float64) * 6
    rank = torch.tensor([sorted(slots).index(f) for f in slots])
    at = (rank[:, None] * tokens + torch.arange(tokens)).flatten()
    turned = triton_expand.rope_prepass(r[:, place], angles[at].cos().float(), angles[at].sin().float())
    q = torch.randn(1, 5, 3, 48, generator=g)
    out = kernels.absorbed(q, c[:, place].contiguous(), turned, 0.2, variant=VARIANTS[0])
    assert error(out, q, c[:, order], rotate(r[:, order], angles), 0.2) <= FLOAT32


def test_slots_of_a_longer_buffer() -> None:
    q, c, r = inputs(2, 5, 3, 90, 77, 32, 16)
    out = kernels.absorbed(q, c[:, :77], r[:, :77].contiguous(), 0.2, variant=VARIANTS[2])
    assert error(out, q, c[:, :77], r[:, :77], 0.2) <= FLOAT32


def test_large_scores_do_not_overflow() -> None:
    q, c, r = inputs(1, 5, 3, 90, 90, 32, 16)
    out = kernels.absorbed(100 * q, c, r, 1.0, variant=VARIANTS[0])
    assert error(out, 100 * q, c, r, 1.0) <= 1e-5


random_shapes = given(
    variant=st.sampled_from(VARIANTS), batch=st.integers(1, 3), lq=st.integers(1, 20), heads=st.integers(1, 4),
    filled=st.integers(1, 160), spare=st.integers(0, 9), width=st.integers(1, 5), parts=st.integers(1, 5),
    seed=st.integers(0, 99),
)  # fmt: skip


def check_random(variant: Variant, batch: int, lq: int, heads: int, filled: int, spare: int, width: int, parts: int,
                 seed: int) -> None:  # fmt: skip
    parts = min(parts, -(-filled // variant.block_n))
    check(variant, batch, lq, heads, filled + spare, filled, d_c=16 * width, parts=parts, seed=seed)


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@random_shapes
def test_random_shapes(**shape: Any) -> None:
    check_random(**shape)


@slow
@settings(max_examples=40, deadline=None, database=None)
@random_shapes
def test_many_random_shapes(**shape: Any) -> None:
    check_random(**shape)


def check_expansion(batch: int, heads: int, filled: int, spare: int, d_c: int, d_nope: int, d_v: int,
                    half: bool) -> None:  # fmt: skip
    dtype = torch.float16 if half else torch.float32
    _, c, r = inputs(batch, 1, 1, filled + spare, filled, d_c, 16, seed=filled, dtype=dtype)
    g = torch.Generator().manual_seed(d_c)
    k_up = (torch.randn(heads, d_nope, d_c, generator=g) / d_c**0.5).to(dtype)
    v_up = (torch.randn(heads, d_v, d_c, generator=g) / d_c**0.5).to(dtype)
    k, v = triton_expand.expand(c, r, k_up, v_up, filled=filled)
    c, r = c[:, :filled].double(), r[:, :filled]
    for made, up in ((k[..., :d_nope], k_up), (v, v_up)):
        exact = torch.einsum("bkc,hdc->bhkd", c, up.double())
        assert (made.double() - exact).norm() <= (FLOAT16 if half else FLOAT32) * exact.norm()
    assert torch.equal(k[..., d_nope:], r[:, None].expand(-1, heads, -1, -1))


@pytest.mark.parametrize(("d_c", "d_v", "half"), [(48, 128, False), (80, 128, True), (80, 48, True), (192, 128, True)])
def test_expansion(d_c: int, d_v: int, half: bool) -> None:
    check_expansion(2, 2, 67, 3, d_c, 96, d_v, half)


@slow
@settings(max_examples=20, deadline=None, database=None)
@given(
    batch=st.integers(1, 2), heads=st.integers(1, 3), filled=st.integers(1, 140), spare=st.integers(0, 9),
    d_c=st.sampled_from([16, 48, 192]), d_nope=st.sampled_from([16, 96]), d_v=st.sampled_from([16, 48, 128]),
    half=st.booleans(),
)  # fmt: skip
def test_expansions_of_random_shapes(**shape: Any) -> None:
    check_expansion(**shape)


def test_expansion_reuses_one_buffer() -> None:
    space = triton_expand.Workspace()
    _, c, r = inputs(2, 1, 1, 40, 40, 32, 16)
    k_up, v_up = torch.randn(2, 16, 32), torch.randn(2, 32, 32)
    first = triton_expand.expand(c, r, k_up, v_up, workspace=space)
    held, expected = space.bytes(), first[0].clone()
    second = triton_expand.expand(c[:, :30], r[:, :30], k_up, v_up, workspace=space)
    assert second[0].data_ptr() == first[0].data_ptr()
    assert space.bytes() == held == 4 * 2 * 2 * 40 * (32 + 32)
    assert torch.allclose(second[0], expected[:, :, :30])


@pytest.mark.parametrize("pairs", [3, 8])
def test_rotation_of_the_first_pairs(pairs: int) -> None:
    _, _, r = inputs(2, 1, 1, 80, 77, 16, 16)
    angles = torch.rand(77, pairs, dtype=torch.float64) * 6
    out = triton_expand.rope_prepass(r, angles.cos().float(), angles.sin().float(), filled=77)
    exact = rotate(r[:, :77, : 2 * pairs], angles)
    assert (out[..., : 2 * pairs].double() - exact).abs().max() < 2e-6
    assert torch.equal(out[..., 2 * pairs :], r[:, :77, 2 * pairs :])


def test_rotation_of_cached_keys_in_place_of_a_longer_buffer() -> None:
    """As the cache does it: all slots first, then one run of them, into memory that stays."""
    _, _, r = inputs(2, 1, 1, 90, 90, 16, 16)
    angles = torch.rand(77, 5, dtype=torch.float64) * 6
    turn, out = Rotation.of(angles), torch.full((2, 90, 16), NAN)
    latent.rotate_first(r[:, :77], turn, out[:, :77])
    r[:, 21:40] += 1
    part = turn.tokens(21, 40)
    assert part.cos.data_ptr() % 16
    latent.rotate_first(r[:, 21:40], part, out[:, 21:40])
    assert (out[:, :77, :10].double() - rotate(r[:, :77, :10], angles)).abs().max() < 2e-6
    assert torch.equal(out[:, :77, 10:], r[:, :77, 10:])
    assert out[:, 77:].isnan().all()


def test_the_cache_rotates_time_alone_on_a_grid_with_an_odd_number_of_tokens() -> None:
    """As on a device: the table holds the six pairs of time, and a slot of 15 tokens starts between its boundaries."""
    pairs, grid, policy = (6, 1, 1), Grid(3, 5), WindowPolicy(4, 1, rotation="read", positions="relative")
    table = RotaryTable(48, pairs)
    cache = StreamCache(1, policy, policy.capacity(1), grid, table)
    g, plain = torch.Generator().manual_seed(0), dict[int, Tensor]()
    for frame in range(6):
        context = cache.chunk(frame, 1, torch.device("cpu"))
        assert context.key_rotation is not None
        context._time = context.key_rotation.pairs(0, pairs[0])
        for _ in range(2):
            plain[frame] = torch.randn(2, grid.tokens, 16, generator=g)
            seen: list[Tensor] = []
            context.attend(
                0, torch.zeros(2, grid.tokens, 1, 16), plain[frame], torch.zeros(2, grid.tokens, 16),
                lambda q, k, r, seen=seen: seen.append(k.clone()) or q,  # type: ignore[misc]
            )  # fmt: skip
            angles = table.angles(cache.ring.positions("relative"), grid.height, grid.width)
            exact = rotate(torch.cat([plain[f] for f in cache.ring.slots], 1), angles)
            assert (seen[0].double() - exact).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["expanded", "absorbed"])
def test_attention_through_the_kernels(name: str) -> None:
    g = torch.Generator().manual_seed(1)
    shapes = [(2, 7, 3, 48), (2, 7, 3, 16), (2, 50, 32), (2, 50, 16), (3, 48, 32), (3, 64, 32)]
    q_nope, q_rope, c, r, k_up, v_up = (torch.randn(*s, generator=g) / s[-1] ** 0.25 for s in shapes)
    out = latent.Attention(Form(name, "triton"), strict=True).attend(q_nope, q_rope, c, r, k_up, v_up)  # type: ignore[arg-type]
    exact = latent_attention(q_nope, q_rope, c, r, k_up, v_up)
    assert (out.double() - exact).norm() <= 2e-6 * exact.norm()


TINY = {"sizes": {"heads": 2, "d_c": 32, "d_nope": 16, "d_rope": 16, "d_v": 32}, "batches": (2,), "queries": (3,),
        "keys": (33,), "timed": False}  # fmt: skip


@pytest.mark.parametrize("engine", ["triton", "torch"])
@pytest.mark.parametrize("name", ["absorbed", "expanded"])
def test_a_kernel_counts_what_attention_needs(name: Any, engine: Any) -> None:
    """2 x (scores 48 wide, sums 32 wide) absorbed; else keys 16 and values 32 wide are rebuilt, then dense."""
    g = torch.Generator().manual_seed(0)
    batch, lq, lk, heads = 2, 3, 5, 2
    q_nope, q_rope = (torch.randn(batch, lq, heads, width, generator=g) for width in (16, 16))
    c, r = (torch.randn(batch, lk, width, generator=g) for width in (32, 16))
    k_up, v_up = (torch.randn(heads, width, 32, generator=g) for width in (16, 32))
    backend = "auto" if name == "expanded" else ""
    runner = latent.Attention(Form(name, engine, backend or "auto"), strict=engine == "triton")
    with FlopCounter() as counter:
        runner.attend(q_nope, q_rope, c, r, k_up, v_up)
    mix = {"absorbed": 48 + 32, "expanded": 32 + 32}[name]
    maps = {"absorbed": lq * 32 * (16 + 32), "expanded": lk * 32 * (16 + 32)}[name]
    assert counter.total() == 2 * batch * heads * (lq * lk * mix + maps)


def probed(**options: Any) -> Measurement:
    probe = Kernels(Kernels.schema(**{**TINY, **options}))
    assert probe.available("cpu").ready
    return probe.measure(None, Workload((), (), 1), ProbeContext("cpu", Path("unused")))


def test_the_probe_checks_every_form_and_prints_no_speed() -> None:
    found = probed(dtype="float32")
    rows: Any = found.notes["rows"]
    forms = ["absorbed", "expanded", "absorbed:sm80-float32-32x16", "expansion", "dense:auto"]
    assert [row["form"] for row in rows] == forms
    assert (found.values["failed_rows"], found.values["missing_rows"]) == (0, 0)
    assert 0 < found.values["worst_error"] <= 1e-5
    assert found.samples == {}
    assert all(row["cold"] is None for row in rows)


@slow
def test_the_probe_in_float16() -> None:
    found = probed(dtype="float16", queries=(1, 9), keys=(1, 130))
    assert (found.values["failed_rows"], found.values["missing_rows"]) == (0, 0)
    assert found.values["rows"] == 4 * 5


@pytest.mark.parametrize("form", ["absorbed:sm80-float32-32x16", "absorbed"])
def test_a_kernel_that_writes_nothing_is_found_out(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, writes = kernels._launch, True

    def launch(*arguments: Any) -> None:
        if writes:
            real(*arguments)

    monkeypatch.setattr(kernels, "_launch", launch)
    case = next(c for c in LatentAttentionBench("float32", TINY["sizes"], "cpu").cases(Shape(1, 3, 20), 0)
                if c.form == form)  # fmt: skip
    assert case.check().relative < 1e-5
    writes = False
    # What an earlier call left in memory is the right answer.
    case.call()
    assert case.check().relative == float("inf")


LATENT = LatentSizes(d_c=32, d_q=24, d_nope=16, d_rope=16, pairs=(4, 2, 2))
CONFIG = TransformerConfig(dim=64, heads=2, layers=2, ffn=64, text_width=16, text_tokens=8, latent=LATENT)


@slow
@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_a_whole_chunk_through_cache_and_kernels(form: str) -> None:
    """Writing, rotating and attending in the network itself, by the kernels alone, against float64."""

    def choose(name: str, shape: object) -> Form:
        return Form(name, "triton")  # type: ignore[arg-type]

    made = Chunk(Setting(CONFIG, "float32", "cpu", choose, grid=(6, 8)), form, 0)
    error = made.check()
    assert error.relative <= 1e-5
    assert made._built().blocks[0].self_attn.runner.strict

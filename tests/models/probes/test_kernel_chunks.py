"""Whole chunks for the kernels probe: what they cost by hand, that they are checked, and that a wrong one is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.contracts import no_spans
from harness.errors import NotAvailable
from harness.probes.kernels.account import account, count_operators
from harness.probes.timing.clock import Clock
from videomla_models.network.transformer import Block
from videomla_models.ops import choice, sdpa
from videomla_models.probes import kernel_chunks, stages
from videomla_models.probes.kernel_chunks import Chunk, Setting
from videomla_models.probes.kernel_family import LatentAttentionBench
from videomla_models.spec.config import LatentSizes, TransformerConfig

LATENT = LatentSizes(d_c=16, d_q=24, d_nope=16, d_rope=8, pairs=(2, 1, 1))
CONFIG = TransformerConfig(dim=48, heads=2, layers=2, ffn=64, text_width=16, text_tokens=8, latent=LATENT)


def setting(dtype: str = "float32") -> Setting:
    def choose(name: str, shape: object) -> choice.Form:
        return choice.Form(name, "torch")  # type: ignore[arg-type]

    return Setting(CONFIG, dtype, "cpu", choose, grid=(6, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_form_agrees_with_float64_and_makes_chunk_after_chunk(dtype: str) -> None:
    found = list(setting(dtype).cases(0))
    assert [case.form for _, case in found] == ["chunk:dense", "chunk:expanded", "chunk:absorbed"]
    for shape, case in found:
        # 3 rows of 4 tokens a latent frame; chunks of 3 frames, 7 in the window.
        assert (shape.queries, shape.keys) == (36, 84)
        error = case.check()
        assert 0 < error.relative <= case.limit
        assert error.worst_row <= case.limit_row
        first, second = case.call(), case.call()
        assert isinstance(first, torch.Tensor)
        assert isinstance(second, torch.Tensor)
        assert first.shape == second.shape == (1, 3, 16, 6, 8)
        # Same noise, another past.
        assert not torch.equal(first, second)


def test_all_passes_are_counted() -> None:
    shape, sdpa = next(setting().cases(0))
    q, k, dim, layers, ffn, text = shape.queries, shape.keys, 48, 2, 64, 8
    block = 8 * q * dim**2 + 4 * q * k * dim + 4 * q * dim**2 + 4 * q * text * dim + 4 * q * dim * ffn
    rest = 4 * q * dim * 64 + 2 * (256 * dim + 7 * dim**2)
    assert sdpa.flops == 5 * (layers * block + rest)
    assert sdpa.detail["passes"] == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["dense", "expanded", "absorbed"])
def test_no_pass_waits_for_a_number_and_its_calls_are_counted(name: str, dtype: str) -> None:
    """Operators a pass and block, from two depths; the rest of a chunk is what both have."""
    counted = {}
    for layers in (2, 3):
        made = Chunk(replace(setting(dtype), config=replace(CONFIG, layers=layers)), name, 0)
        made.next()
        found = count_operators(made.next)
        assert found.scalar_reads == 0
        counted[layers] = found.operators
    assert 5 * 30 < counted[3] - counted[2] <= 5 * 90
    assert counted[2] - 2 * (counted[3] - counted[2]) <= 5 * 40


def test_a_number_that_the_host_waits_for_is_seen() -> None:
    assert count_operators(lambda: float(torch.ones(3).sum())).scalar_reads == 1
    # ones, add, and three views.
    assert count_operators(lambda: (torch.ones(4, 2) + 1)[1:].t().view(2, 3)).operators == 2


@pytest.mark.parametrize("name", ["dense", "expanded", "absorbed"])
def test_the_account_of_a_chunk_names_its_steps(name: str) -> None:
    made = Chunk(setting(), name, 0)
    plain = Block._gated
    found = account(Clock("cpu"), made.case()[1])
    assert Block._gated is plain
    assert F.linear is nn.functional.linear
    assert 0 < found["host_s"] <= found["whole_s"]
    assert "launches" not in found
    seconds_by_step = found["stages_s"]
    assert isinstance(seconds_by_step, dict)
    steps = {"rest", "rope", "projections", "modulation", "norms", "activation", "cache_writes", "attention"}
    assert set(seconds_by_step) == steps | ({"expansion"} if name == "expanded" else set())
    assert all(seconds > 0 for seconds in seconds_by_step.values())


def test_steps_are_named_once_for_each_block_and_pass_and_only_while_asked() -> None:
    made = Chunk(setting(), "dense", 0)
    made.next()
    named: list[str] = []

    @contextmanager
    def spans(stage: str) -> Iterator[None]:
        named.append(stage)
        yield

    made.staged(spans)
    # Two layers, five passes: two modulated norms and two gates, self- and cross-attention, one write a run of slots.
    assert named.count("modulation") == 2 * 5 * 4
    assert named.count("attention") == 2 * 5 * 2
    assert named.count("cache_writes") == 2 * 5
    # q, k, v, o and cross-attention's q and o, two of the feed-forward; patches and head. Those of the timesteps were
    # made in the chunk before.
    assert named.count("projections") == 5 * (2 * 8 + 2)
    made.next()
    assert named.count("cache_writes") == 2 * 5


STEPS = {
    ("linear", "projections"),
    ("_added", "projections"),
    ("Block.modulation_at", "modulation"),
    ("Block._modulated", "modulation"),
    ("Block._gated", "modulation"),
    ("InplaceGELU.forward", "activation"),
    ("RMSNorm.forward", "norms"),
    ("StreamCache.chunk", "rope"),
    ("rotate", "rope"),
    ("rotate_first", "rope"),
    ("rotate_tail", "rope"),
    ("LayerCache.write", "cache_writes"),
    ("attend_with_preferred", "attention"),
    ("Attention.expanded", "attention"),
    ("Attention.absorbed", "attention"),
    ("Attention._expand", "expansion"),
    ("Attention._expand_codes", "expansion"),
    ("expand", "expansion"),
}


def test_the_steps_of_a_pass_and_nothing_else_are_named_and_given_back() -> None:
    before = {(id(owner), name): function for owner, name, function, _ in stages.places()}
    assert {(function.__qualname__, step) for _, _, function, step in stages.places()} == STEPS
    with stages.named(no_spans):
        wrapped = {(id(owner), name): function for owner, name, function, _ in stages.places() if name != "linear"}
        assert all(function is not before[place] for place, function in wrapped.items())
    assert {(id(owner), name): function for owner, name, function, _ in stages.places()} == before


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_a_wrong_form_is_seen(form: str) -> None:
    made = Chunk(setting(), form, 0)
    network = made._built()
    attention = network.blocks[0].self_attn
    attention.v_up.weight.data[0].mul_(1.01)
    assert made.check().relative <= kernel_chunks.LIMITS["float32"]
    # The absorbed maps were made before, so that they no longer belong to the weights.
    if form == "absorbed":
        attention.v_up.weight.data.mul_(1.5)
    else:
        attention.sizes = replace(LATENT, d_nope=8)
        attention.runner.expanded = lambda q, c, r, k, v: type(attention.runner).expanded(
            attention.runner, 1.5 * q, c, r, k, v
        )
    assert made.check().relative > kernel_chunks.LIMITS["float32"]


def test_the_family_offers_the_full_size_chunk_without_building_it() -> None:
    found = list(LatentAttentionBench("bfloat16", {}, "cpu").chunks(0))
    for shape, case in found:
        assert (shape.batch, shape.queries, shape.keys) == (1, 4680, 10920)
        # 1.42 and 1.30 billion weights of two bytes, read in each of five passes.
        assert case.bytes == 10 * (1_418_996_800 if case.form == "chunk:dense" else 1_303_042_240)
    sdpa, expanded, absorbed = (case.flops for _, case in found)
    # 30 layers, 5 passes: 314 GFLOP of dense attention, 510 absorbed, 11.3 to rebuild (facts of the sizes alone).
    assert sdpa > 150 * 314e9
    assert absorbed - expanded > 150 * 150e9


@pytest.mark.parametrize("name", ["dense", "expanded", "absorbed"])
def test_no_arm_is_measured_with_another_backend_than_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention to the prompt is dense in every arm."""
    monkeypatch.setattr(sdpa, "preferred_backend", lambda device, dtype: "cudnn")
    made = Chunk(setting(), name, 0)
    for call in (made.check, made.next):
        with pytest.raises(NotAvailable, match="attention backend cudnn does not run here"):
            call()

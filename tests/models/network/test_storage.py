"""Encoded caches: codes against arithmetic by hand in float64, their bytes, and streams that run on them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.contracts import Request, Switch, registry
from harness.errors import OptionError
from videomla_models.adapters.transformer_model import StreamingModel
from videomla_models.network import storage
from videomla_models.network.build import build, random_embeddings
from videomla_models.network.cache import Grid
from videomla_models.network.storage import decode, encode
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.rolling import RollingRollout
from videomla_models.rollout.rollout import Rollout, SeededNoise
from videomla_models.spec import storage as storage_spec
from videomla_models.spec.config import SamplerConfig, TransformerConfig
from videomla_models.spec.published_models import PUBLISHED
from videomla_models.spec.storage import BITS, CacheOptions, Code
from videomla_models.spec.window import WindowPolicy

LEVELS = {"int8": 127, "int4": 7, "int2": 1}
GROUPS: tuple[Any, ...] = ("channel", "token", 32)
TINY = {"dtype": "bfloat16", "weights": "random", "network": "tiny", "height": 32, "width": 48, "codec": "preview"}


def entries(*shape: int) -> Tensor:
    """Numbers of unlike size from channel to channel, and one that is far off."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x *= torch.linspace(0.1, 8, shape[-1], dtype=torch.float64)
    x[0, 0, 0, ..., 3] = 97.0
    return x + 0.7


def by_hand(x: Tensor, code: Code) -> np.ndarray:
    """One round of a code of integers, group by group: x [B, frames, tokens, width]."""
    out = np.empty(x.shape)
    batch, frames, tokens, width = x.shape
    size = {"channel": 1, "token": width}.get(code.group, code.group)  # type: ignore[call-overload]
    for b, f in product(range(batch), range(frames)):
        rows = [slice(None)] if code.group == "channel" else [slice(t, t + 1) for t in range(tokens)]
        for row, first in product(rows, range(0, width, size)):
            place = b, f, row, slice(first, first + size)
            group = x[place].numpy()
            if code.symmetric:
                scale = float(np.float16(np.abs(group).max() / LEVELS[code.kind]))
                levels = np.clip(np.rint(group / scale), -LEVELS[code.kind], LEVELS[code.kind])
                out[place] = levels * scale
            else:
                low = float(np.float16(group.min()))
                scale = float(np.float16((group.max() - low) / (2 ** BITS[code.kind] - 1)))
                out[place] = np.clip(np.rint((group - low) / scale), 0, 2 ** BITS[code.kind] - 1) * scale + low
    return out


@pytest.mark.parametrize(("kind", "group", "symmetric"), list(product(LEVELS, GROUPS, (True, False))))
def test_integers_by_hand(kind: Any, group: Any, symmetric: bool) -> None:
    x, code = entries(2, 3, 5, 64), Code(kind, group, symmetric)
    np.testing.assert_allclose(decode(encode(x, code), code, torch.float64).numpy(), by_hand(x, code), rtol=1e-15)


def test_eight_bit_floats_by_hand() -> None:
    """e4m3 has three bits of mantissa: a number of a binade is off by at most a sixteenth of the binade's start."""
    x, code = entries(1, 2, 5, 64), Code("fp8_e4m3", "token")
    out = decode(encode(x, code), code, torch.float64)
    scale = x.abs().amax(-1, keepdim=True) / 448
    step = torch.exp2(torch.floor(torch.log2((x / scale).abs().clamp_min(2.0**-6)))) / 8
    assert bool(((out - x).abs() <= step * scale * (0.5 + 1e-2)).all())
    assert not torch.equal(out, x)


@pytest.mark.parametrize(("kind", "group"), list(product(("int4", "int2"), GROUPS)))
def test_a_residual_round_encodes_what_is_left(kind: Any, group: Any) -> None:
    x = entries(1, 2, 5, 64)
    once, twice = Code(kind, group), Code(kind, group, rounds=1)
    first = torch.from_numpy(by_hand(x, once))
    expected = first.numpy() + by_hand(x - first, once)
    np.testing.assert_allclose(decode(encode(x, twice), twice, torch.float64).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("width", [32, 192, 24])
def test_a_hadamard_matrix_is_its_own_inverse_and_spreads_what_is_far_off(width: int) -> None:
    x = entries(1, 1, 4, width)
    torch.testing.assert_close(storage._mixed(storage._mixed(x)), x)
    lone = torch.zeros_like(x)
    lone[..., 1] = 8.0
    block = width & -width
    # Every channel of a block gets the same share.
    assert torch.equal(storage._mixed(lone)[..., :block].abs(), torch.full_like(x[..., :block], 8 / math.sqrt(block)))
    code = Code("int8", "token", hadamard=True)
    torch.testing.assert_close(decode(encode(x, code), code, torch.float64), x, atol=1.0, rtol=0)


@pytest.mark.parametrize("kind", ["int8", "int4", "int2", "fp8_e4m3"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(kind: Any, number: float) -> None:
    x = entries(1, 1, 4, 64).float()
    x[0, 0, 1, 5] = number
    for code in (Code(kind, "token"), Code(kind, "channel"), *([Code(kind, 32, False)] if kind != "fp8_e4m3" else [])):
        assert not bool(torch.isfinite(decode(encode(x, code), code)[0, 0, 1, 5]))
        assert bool(torch.isfinite(decode(encode(x, code), code)[0, 0, 2, 7]))


def test_zeros_stay_zeros() -> None:
    for code in (Code("int4", "token"), Code("int2", "channel", False), Code("fp8_e4m3", 32), Code("int8", rounds=2)):
        assert not bool(decode(encode(torch.zeros(1, 2, 4, 64), code), code).any())


@pytest.mark.parametrize(
    ("kind", "group", "symmetric", "rounds"), list(product(BITS, (*GROUPS, 64), (True, False), (0, 2)))
)
def test_bytes_are_those_of_the_arithmetic(kind: Any, group: Any, symmetric: bool, rounds: int) -> None:
    code = Code(kind, group, symmetric, rounds)
    if kind == "fp8_e4m3" and not symmetric:
        return
    stored = encode(entries(2, 3, 5, 4, 64), code)
    assert sum(t.untyped_storage().nbytes() for t in map(torch.clone, stored)) == 6 * code.frame_bytes(5, 4, 64, 8)


def test_bytes_of_a_full_size_latent_in_four_bits() -> None:
    """Content 192 and rope key 32 against keys and values of 1536 each, by hand: 1560 tokens, a scale a channel."""
    frame = Code("int4").frame_bytes(1560, 1, 192, 2) + Code("int4").frame_bytes(1560, 1, 32, 2)
    assert frame == 1560 * 112 + 224 * 2
    assert 1560 * 3072 * 2 / frame > 54


# ------------------------------------------------------------------------------------------------ streams


def frames_of(name: str, options: dict[str, Any], length: int, switch: bool = False, prompt: str = "a") -> np.ndarray:
    model = registry.models.create(name, options)
    model.load("cpu")
    switches = (Switch(length // 2, ("another",)),) if switch else ()
    return np.concatenate(list(model.stream(Request((prompt,), (0,), length, switches))), 1)


def length_of(name: str) -> int:
    """Pixel frames of three chunks more than the window."""
    preset = PUBLISHED[name]
    return 1 + 4 * (preset.window.capacity(preset.chunk) + 3 * preset.chunk - 1)


ENCODED = [
    (name, recent)
    for name, preset in PUBLISHED.items()
    for recent in (0, 1)
    if name != "causvid"
    and preset.network.attention != "linear"
    and not (preset.window.front or preset.window.by_head)
    and not (recent and (preset.window.rolls or preset.window.average_rates))
]
"""Presets whose caches can be encoded, without and with recent chunks kept exact."""


def room_for_codes(preset: Any) -> bool:
    """Whether a chunk reads frames besides the sink and the chunk before."""
    window, chunk = preset.window, preset.chunk
    return bool(window.capacity(chunk) - window.sink > 2 * chunk)


@pytest.mark.parametrize("name", ["memflow", "dummy-forcing", "triattention", "anchor-forcing", "longlive-rag"])
def test_entries_that_are_chosen_among_are_not_encoded(name: str) -> None:
    with pytest.raises(OptionError, match="work on entries as they are"):
        registry.models.create(name, {**TINY, "cache": {"content": "int8"}}).describe()


@pytest.mark.parametrize("name", ["memrope", "rolling-sink"])
def test_frames_that_come_back_would_pass_for_the_latest(name: str) -> None:
    with pytest.raises(OptionError, match="would pass for the latest ones"):
        registry.models.create(name, {**TINY, "cache": {"content": "int8", "recent_chunks": 1}}).describe()


@pytest.mark.parametrize(("name", "recent"), ENCODED)
def test_a_code_that_loses_nothing_changes_no_pixel(name: str, recent: int) -> None:
    """bf16 of a bfloat16 model: eviction, averages, rebuilds, flushes and the rolling schedule, slot by slot."""
    preset = PUBLISHED[name]
    latent = preset.network.attention == "latent"
    averaged = preset.window.sink_kind == "average" or bool(preset.window.average_rates)
    stored = {
        "content": "bf16",
        # Of a rope key the code is taken before all of its rotation, which then rounds once and not twice.
        "key": "exact" if latent else "bf16",
        "recent_chunks": recent,
        "sink": "exact" if averaged or (recent and room_for_codes(preset)) else "coded",
    }
    switch = preset.window.schedule == "chunk"
    length = length_of(name)
    exact = frames_of(name, TINY, length, switch)
    assert np.array_equal(frames_of(name, {**TINY, "cache": stored}, length, switch), exact)


@pytest.mark.parametrize("recent", [0, 1])
@pytest.mark.parametrize("kind", ["int4", "fp8_e4m3", "bf16"])
@pytest.mark.parametrize("name", ["videomla-1.3b", "dense-window-1.3b", "longlive", "rolling-forcing"])
def test_what_a_stream_keeps_is_what_the_card_says(name: str, kind: str, recent: int) -> None:
    stored = {"content": kind, "key": kind, "sink": "exact", "recent_chunks": recent}
    if recent and not room_for_codes(PUBLISHED[name]):
        stored |= {"sink": "coded"}
    model = registry.models.create(name, {**TINY, "dtype": "float32", "cache": stored})
    assert isinstance(model, StreamingModel)
    config, work, policy = model.network_config(), model.workload(), model.window_policy()
    network = build(config, None, "float32", "cpu").eval().requires_grad_(False)
    height, width = model.latent_size()
    grid = Grid(height // config.patch[1], width // config.patch[2])
    made = RollingRollout if policy.schedule == "rolling" else Rollout
    rollout = made(network, policy, model.chunk, model.sampler_config(), grid, storage=model.storage())
    with torch.inference_mode():
        prompt = network.prompt(random_embeddings(config.text_tokens, config.text_width)(("a",)))
    noise = SeededNoise((0,), (config.in_channels, height, width), torch.device("cpu"), torch.float32)
    length = (-(-work.window // work.chunk) + len(model.sampler_config().steps)) * work.chunk
    for _ in rollout.run(noise, prompt, length):
        pass
    card = model.describe()
    assert rollout.cache.bytes() == card.cache_bytes
    decoded = sum(t.numel() * t.element_size() for t in rollout.cache.decoded.values())
    assert decoded == card.details["transient"]["decoded"]  # type: ignore[index,call-overload]


def test_fewer_bits_lie_further_off() -> None:
    prompt = "a red circle moves slowly to the left on a navy background"
    exact = frames_of("toy/videomla", {}, 15, prompt=prompt).astype(float)

    def apart(**stored: Any) -> float:
        return float(np.abs(frames_of("toy/videomla", {"cache": stored}, 15, prompt=prompt) - exact).mean())

    eight, four, two = (apart(content=kind, key=kind) for kind in ("int8", "int4", "int2"))
    assert 0 < 4 * eight < four < two / 2
    assert 4 * apart(content="int4", key="int4", residual_rounds=1) < four


# ------------------------------------------------------------------------------------- codes that nobody reads

WINDOWS = {
    "sink": WindowPolicy(6, 1),
    "no sink": WindowPolicy(6),
    "the chunk alone": WindowPolicy(3),
    "the sink and the chunk": WindowPolicy(4, 1),
    "sink beside": WindowPolicy(6, 1, counts_sink=False),
    "chunk beside": WindowPolicy(4, 1, counts_current=False),
    "larger sink": WindowPolicy(9, 5),
    "averaged sink": WindowPolicy(9, 3, sink_kind="average", rotation="read", positions="relative"),
    "averaged sink alone": WindowPolicy(6, 3, sink_kind="average", rotation="read", positions="relative"),
    "averages alone": WindowPolicy(5, 1, average_rates=(0.1,), rotation="read", positions="relative"),
    "averages": WindowPolicy(7, 1, average_rates=(0.1,), rotation="read", positions="relative"),
    "first frames": WindowPolicy(6, sink_kind="ping_pong", rotation="read"),
    "rolling": WindowPolicy(12, 3, schedule="rolling"),
}
STORED: list[dict[str, Any]] = [
    {"content": "int2", "key": "int2", "sink": sink, "recent_chunks": recent}
    for sink, recent in product(("exact", "coded"), (0, 1, 2))
]


@pytest.fixture(scope="module")
def tiny() -> VideoTransformer:
    model = registry.models.create("dense-window-1.3b", {**TINY, "dtype": "float32"})
    assert isinstance(model, StreamingModel)
    return build(model.network_config(), None, "float32", "cpu").eval().requires_grad_(False)


def latents_of(network: VideoTransformer, policy: WindowPolicy, stored: storage_spec.Storage) -> Tensor:
    made = RollingRollout if policy.schedule == "rolling" else Rollout
    sampler = SamplerConfig(steps=(1000, 500))
    rollout = made(network, policy, 3, sampler, Grid(2, 3), storage=stored)
    config = network.config
    with torch.inference_mode():
        prompt = network.prompt(random_embeddings(config.text_tokens, config.text_width)(("a",)))
    noise = SeededNoise((0,), (config.in_channels, 4, 6), torch.device("cpu"), torch.float32)
    return torch.cat(list(rollout.run(noise, prompt, 18)), 1)


def refusal(network: VideoTransformer, policy: WindowPolicy, stored: dict[str, Any]) -> OptionError | None:
    try:
        CacheOptions(**stored).storage(network.config, policy, 3)
    except OptionError as error:
        return error
    return None


@pytest.mark.parametrize("window", WINDOWS)
def test_codes_are_refused_where_no_rollout_reads_them(window: str, tiny: VideoTransformer) -> None:
    """What is refused would change nothing; what is not does change the rollout."""
    policy, code = WINDOWS[window], Code("int2")
    exact = latents_of(tiny, policy, storage_spec.EXACT)
    for stored in STORED:
        error, sink = refusal(tiny, policy, stored), policy.fixed if stored["sink"] == "exact" else 0
        if error is not None and "nothing to read in codes" not in error.message:
            assert any(
                said in error.message for said in ("all that a window", "an average moves", "for the latest ones")
            )
            continue
        encoded = storage_spec.Storage(code, code, sink, 3 * stored["recent_chunks"])
        assert torch.equal(latents_of(tiny, policy, encoded), exact) == (error is not None), stored


def test_every_way_out_of_codes_that_nobody_reads_is_one(tiny: VideoTransformer) -> None:
    ways = 0
    for policy, stored in product((*WINDOWS.values(), WindowPolicy(6, schedule="restart")), STORED):
        error = refusal(tiny, policy, stored)
        if error is None or not ("nothing to read" in error.message or "all that a window" in error.message):
            continue
        for where, name, said in re.findall(r"(cache|policy)\.(\w+) to (?:at (?:most|least) )?(\w+)", error.fix):
            ways += 1
            value = int(said) if said.isdigit() else said
            mended = replace(policy, frames=value) if where == "policy" else policy
            assert refusal(tiny, mended, {**stored, name: value} if where == "cache" else stored) is None, error
    assert ways > 12


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "stored", "said"),
    [
        ("toy/videomla", {"content": "int4", "key": "int4", "group": 32}, "does not divide the 24 channels"),
        ("toy/videomla", {"content": "fp8_e4m3", "symmetric": False}, "fp8_e4m3"),
        ("toy/videomla", {"group": 32}, "both its parts are exact"),
        ("toy/videomla", {"content": "bf16", "hadamard": True}, "kinds with scales"),
        ("toy/videomla", {"content": "int8", "recent_chunks": 2}, "all that a window of 6 holds"),
        ("toy/videomla", {"content": "int2", "key": "int2", "sink": "exact", "recent_chunks": 1}, "nothing to read"),
        ("toy/videomla", {"content": "int8", "rotated": "after"}, "turn again"),
        ("reward-forcing", {"content": "int8"}, "would stand still"),
        ("rolling-forcing", {"content": "int8", "rotated": "before"}, "rolling schedule"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name: str, stored: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        registry.models.create(name, {"cache": stored}).check_request(Request(("a",), (0,), 9))
    assert said in caught.value.message
    assert caught.value.fix
    assert "\n" not in caught.value.message + caught.value.fix


@pytest.mark.parametrize(
    "stored", [{"content": "int3"}, {"group": 48}, {"residual_rounds": -1}, {"bits": 4}, "int4", {"content": None}]
)
def test_what_nobody_can_store_is_refused_by_its_schema(stored: Any) -> None:
    with pytest.raises(OptionError) as caught:
        registry.check_options("model toy/videomla", registry.models.get("toy/videomla").schema, {"cache": stored})
    assert "cache" in caught.value.message


def test_linear_attention_has_nothing_to_encode() -> None:
    code = storage.Code("int8")
    with pytest.raises(OptionError, match="linear"):
        storage_spec.Storage(code, code).check(TransformerConfig(attention="linear"), WindowPolicy(6, 1), 3)


def test_an_exact_cache_is_in_no_key() -> None:
    for name in ("toy/dense", "videomla-1.3b"):
        schema = registry.models.get(name).schema
        for options in ({}, {"cache": {}}, {"cache": {"content": "exact"}}):
            assert "cache" not in registry.check_options(name, schema, options).model_dump(mode="json")
        assert registry.check_options(name, schema, {"cache": {"content": "int8"}}).model_dump(mode="json")["cache"]

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import OptionError, WeightsError
from videomla_models.checkpoints.convert import LayerReport, Recipe, content_channels, convert_file, rope_channels
from videomla_models.checkpoints.load import open_checkpoint
from videomla_models.spec.config import LatentSizes, TransformerConfig

DIM, HEADS, LAYERS = 64, 2, 2
SIZES = LatentSizes(d_c=24, d_q=32, d_nope=20, d_rope=12, pairs=(2, 2, 2))
FULL = LatentSizes(d_c=DIM, d_q=DIM, d_nope=20, d_rope=12, pairs=(2, 2, 2))
ROPE = [0, 1, 2, 3, 12, 13, 14, 15, 22, 23, 24, 25]  # of 6 + 5 + 5 pairs, the first two of each axis
CONTENT = [channel for channel in range(32) if channel not in ROPE]


def dense_state(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state = {
        "patch_embedding.weight": torch.randn(DIM, 16, 1, 2, 2, generator=draw),
        "text_embedding.0.weight": torch.randn(DIM, 24, generator=draw),
        "time_embedding.0.weight": torch.randn(DIM, 256, generator=draw),
    }
    for i in range(LAYERS):
        block = f"blocks.{i}"
        state[f"{block}.ffn.0.weight"] = torch.randn(96, DIM, generator=draw)
        for name in "qkvo":
            state[f"{block}.self_attn.{name}.weight"] = torch.randn(DIM, DIM, generator=draw)
            state[f"{block}.self_attn.{name}.bias"] = torch.randn(DIM, generator=draw)
        for name in "qk":
            state[f"{block}.self_attn.norm_{name}.weight"] = torch.rand(DIM, generator=draw) + 0.5
    return state


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    path = tmp_path / "dense.safetensors"
    save_file(dense_state(), path)
    return path


def converted(dense: Path, recipe: Recipe, layer: int = 1) -> dict[str, Tensor]:
    out = dense.with_name("latent.safetensors")
    convert_file(open_checkpoint(dense), out, recipe, HEADS)
    prefix = f"blocks.{layer}.self_attn."
    return {
        name.removeprefix(prefix).removesuffix(".weight"): tensor.double()
        for name, tensor in load_file(out).items()
        if name.startswith(prefix)
    }


def folded(name: str, layer: int = 1) -> Tensor:
    """The dense map [heads, head width, dim] with its norm's gain over its rms for white inputs, by the definition."""
    state = dense_state()
    prefix = f"blocks.{layer}.self_attn."
    weight, bias = (state[f"{prefix}{name}.{leaf}"].double() for leaf in ("weight", "bias"))
    rms = math.sqrt(float(weight.square().sum() + bias.square().sum()) / DIM)
    gain = state[f"{prefix}norm_{name}.weight"].double()
    return (torch.diag(gain) @ weight / rms).reshape(HEADS, DIM // HEADS, DIM)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embedding.weight", (DIM,)), ("patch_embedding.weight", (DIM, 16, 1)), ("blocks.0.ffn.0.weight", ()),
        ("text_embedding.0.weight", (3,)), ("blocks.1.self_attn.q.weight", (DIM, 3)),
        ("blocks.0.self_attn.o.bias", (1, DIM)), ("blocks.1.self_attn.norm_k.weight", (DIM + 1,)),
        ("patch_embedding.weight", (0, 16, 1, 2, 2)),
    ],
)  # fmt: skip
def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    save_file(dense_state() | {name: torch.zeros(shape)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=f"{name} is {'x'.join(map(str, shape)) or 'none'}"):
        convert_file(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", Recipe(SIZES), HEADS)


def test_a_block_with_a_number_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    save_file(dense_state() | {f"blocks.{'9' * 5000}.x": torch.zeros(2)}, tmp_path / "a.safetensors")
    config = convert_file(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", Recipe(SIZES), HEADS)
    assert config.layers == LAYERS


@pytest.mark.parametrize("heads", [-2, 0, 10**30])
def test_a_number_of_heads_that_is_none_is_refused(dense: Path, heads: int) -> None:
    with pytest.raises(OptionError, match="heads over a width of 64"):
        convert_file(open_checkpoint(dense), dense.with_name("b.safetensors"), Recipe(SIZES), heads)


def changed(folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """The dense checkpoint with other numbers in its second layer."""
    prefix = "blocks.1.self_attn."
    state = {n: change(n.removeprefix(prefix), t) if n.startswith(prefix) else t for n, t in dense_state().items()}
    save_file(state, folder / "changed.safetensors")
    return folder / "changed.safetensors"


@pytest.mark.parametrize("tokens", [-5, True, 10**30])
def test_a_header_with_a_number_of_text_tokens_that_is_none_is_refused(tmp_path: Path, tokens: int) -> None:
    save_file(dense_state(), tmp_path / "a.safetensors", {"config": json.dumps({"text_tokens": tokens})})
    with pytest.raises(OptionError, match="text_tokens is"):
        convert_file(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", Recipe(SIZES), HEADS)


def test_tensors_of_a_pickle_that_share_memory_are_written_each(tmp_path: Path) -> None:
    both = torch.randn(2, 96, DIM)
    shared = {"blocks.0.ffn.0.weight": both[0], "blocks.1.ffn.0.weight": both[0], "blocks.1.ffn.2.weight": both[1]}
    torch.save(dense_state() | shared, tmp_path / "dense.pt")
    convert_file(open_checkpoint(tmp_path / "dense.pt"), tmp_path / "b.safetensors", Recipe(SIZES), HEADS)
    written = load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in shared.items())


def test_keys_of_zero_stay_zero(tmp_path: Path) -> None:
    silent = changed(tmp_path, lambda name, tensor: tensor * (not name.startswith("k.")))
    found = converted(silent, Recipe(FULL))
    value = dense_state()["blocks.1.self_attn.v.weight"].double()
    assert not (found["k_up"] @ found["kv_down"]).abs().gt(1e-5).any()
    assert not found["k_rope"].any()
    assert torch.allclose(found["v_up"] @ found["kv_down"], value, atol=1e-4)


@pytest.mark.parametrize("name", ["q.weight", "k.weight", "k.bias", "v.weight"])
@pytest.mark.parametrize("size", [1e160, 1e307])
def test_numbers_that_float64_cannot_decompose_are_refused_by_their_layer(
    tmp_path: Path, name: str, size: float
) -> None:
    out = tmp_path / "b.safetensors"
    large = changed(tmp_path, lambda own, tensor: tensor.double() / 5 * (size if own == name else 1.0))
    with pytest.raises(WeightsError, match="layer 1: "):
        convert_file(open_checkpoint(large), out, Recipe(SIZES), HEADS)
    assert not out.exists()


def test_numbers_that_the_source_s_dtype_lacks_are_not_written(tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    # Each number is one of float16, and the product that moves into the output's bias is none.
    large = changed(tmp_path, lambda name, tensor: (tensor * (1e4 if name in ("v.bias", "o.weight") else 1.0)).half())
    with pytest.raises(
        WeightsError, match=r"blocks\.1\.self_attn\.o\.bias holds NaN or Inf\n  float16 does not hold its numbers"
    ):
        convert_file(open_checkpoint(large), out, Recipe(SIZES), HEADS)
    assert not out.exists()


def test_at_full_rank_the_maps_are_reproduced(dense: Path) -> None:
    found = converted(dense, Recipe(FULL))
    key, query = folded("k"), folded("q")
    value = dense_state()["blocks.1.self_attn.v.weight"].double()
    close = {"atol": 1e-5, "rtol": 0.0}
    assert torch.allclose(found["k_up"] @ found["kv_down"], key[:, CONTENT].reshape(-1, DIM), **close)
    assert torch.allclose(found["v_up"] @ found["kv_down"], value, atol=1e-4)
    assert torch.allclose(found["q_up"] @ found["q_down"], query[:, CONTENT].reshape(-1, DIM), **close)
    assert torch.allclose(found["q_rope"] @ found["q_down"], query[:, ROPE].reshape(-1, DIM), **close)
    assert torch.allclose(found["k_rope"], (key[0, ROPE] + key[1, ROPE]) / 2, **close)


def test_wider_than_full_rank_is_padded_with_zeros(dense: Path) -> None:
    wide = converted(dense, Recipe(LatentSizes(d_c=2 * DIM, d_q=DIM, d_nope=20, d_rope=12, pairs=(2, 2, 2))))
    full = converted(dense, Recipe(FULL))
    assert wide["kv_down"].shape == (2 * DIM, DIM)
    assert torch.allclose(wide["k_up"] @ wide["kv_down"], full["k_up"] @ full["kv_down"], atol=1e-5)


def test_truncation_is_the_best_of_its_rank_and_balanced(dense: Path) -> None:
    found = converted(dense, Recipe(SIZES))
    value = dense_state()["blocks.1.self_attn.v.weight"].double()
    stacked = torch.cat([folded("k")[:, CONTENT].reshape(-1, DIM), value])
    up = torch.cat([found["k_up"], found["v_up"]])
    singular = torch.linalg.svdvals(stacked)
    error = (stacked - up @ found["kv_down"]).square().sum()
    assert torch.allclose(error, singular[SIZES.d_c :].square().sum(), rtol=1e-4)
    assert torch.allclose(up.T @ up, torch.diag(singular[: SIZES.d_c]), atol=1e-3)
    assert torch.allclose(found["kv_down"] @ found["kv_down"].T, torch.diag(singular[: SIZES.d_c]), atol=1e-3)


def test_latent_gains_undo_the_norm_for_white_inputs(dense: Path) -> None:
    found = converted(dense, Recipe(SIZES))
    white = torch.randn(4000, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for down, norm in (("kv_down", "kv_norm"), ("q_down", "q_norm")):
        latent = white @ found[down].T
        rms = latent.square().mean().sqrt()
        assert torch.allclose(found[norm], rms.expand_as(found[norm]), rtol=0.02)


def test_the_value_bias_moves_into_the_output_exactly(dense: Path) -> None:
    state = dense_state()
    o, v = (state[f"blocks.1.self_attn.{name}.bias"].double() for name in "ov")
    output = state["blocks.1.self_attn.o.weight"].double()
    assert torch.allclose(converted(dense, Recipe(SIZES))["o.bias"], o + output @ v, atol=1e-4)
    assert torch.allclose(converted(dense, Recipe(SIZES, value_bias="dropped"))["o.bias"], o)


def test_narrower_heads_keep_the_scale_and_the_slowest_bands(dense: Path) -> None:
    narrow = LatentSizes(d_c=DIM, d_q=DIM, d_nope=6, d_rope=12, pairs=(2, 2, 2))
    config = TransformerConfig(dim=DIM, heads=HEADS)
    # Remaining bands: t 2..5 of 6, h and w 2..4 of 5. Slowest: theta^(-5/6) in t, then theta^(-4/5) in h and w.
    assert content_channels(narrow, config) == [10, 11, 20, 21, 30, 31]
    found = converted(dense, Recipe(narrow))
    query = folded("q")[:, [10, 11, 20, 21, 30, 31]].reshape(-1, DIM) * math.sqrt(18 / 32)
    assert torch.allclose(found["q_up"] @ found["q_down"], query, atol=1e-5)


def test_the_papers_sizes_take_the_first_bands_of_each_axis() -> None:
    config = TransformerConfig()
    rope = rope_channels(LatentSizes(), config)
    assert rope == [*range(12), *range(44, 54), *range(86, 96)]
    assert content_channels(LatentSizes(), config) == [channel for channel in range(128) if channel not in rope]


def test_random_maps_follow_the_seed_and_keep_the_output(dense: Path) -> None:
    first, again = converted(dense, Recipe(SIZES, init="random")), converted(dense, Recipe(SIZES, init="random"))
    other = converted(dense, Recipe(SIZES, init="random", seed=1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["k_up"], other["k_up"])
    assert torch.equal(first["o"], dense_state()["blocks.1.self_attn.o.weight"].double())
    assert first["v_up"].std().item() == pytest.approx(SIZES.d_c**-0.5, rel=0.1)


def test_the_output_says_how_it_was_made(dense: Path) -> None:
    out = dense.with_name("latent.safetensors")
    reports: list[LayerReport] = []
    config = convert_file(open_checkpoint(dense), out, Recipe(SIZES), HEADS, reports.append)
    assert [report.layer for report in reports] == [0, 1]
    assert all(0.3 < report.key_value < 1.0 for report in reports)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"]) == json.loads(json.dumps(asdict(config)))
    recipe = json.loads(metadata["conversion"])
    assert recipe["value_bias"] == "into_output"
    assert list(recipe["source"]) == ["dense.safetensors"]
    untouched = [name for name in dense_state() if ".self_attn." not in name]
    assert all(torch.equal(load_file(out)[name], dense_state()[name]) for name in untouched)


def test_the_dtype_of_the_source_stays(tmp_path: Path) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in dense_state().items()}, tmp_path / "dense.safetensors")
    assert {tensor.dtype for tensor in converted(tmp_path / "dense.safetensors", Recipe(SIZES)).values()} == {
        torch.float64
    }
    assert {tensor.dtype for tensor in load_file(tmp_path / "latent.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("sizes", "heads", "words"),
    [
        (LatentSizes(24, 32, 22, 12, (2, 2, 2)), HEADS, "d_nope is 22"),
        (LatentSizes(24, 32, 19, 12, (2, 2, 2)), HEADS, "d_nope is 19"),
        (LatentSizes(24, 32, 20, 12, (2, 2, 3)), HEADS, "d_rope is 12"),
        (LatentSizes(24, 32, 2, 24, (7, 2, 3)), HEADS, "pairs are"),
        (LatentSizes(0, 32, 20, 12, (2, 2, 2)), HEADS, "d_c is 0"),
        (SIZES, 3, "3 heads over a width of 64"),
    ],
)
def test_impossible_widths_are_refused(dense: Path, sizes: LatentSizes, heads: int, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        convert_file(open_checkpoint(dense), dense.with_name("x.safetensors"), Recipe(sizes), heads)
    assert not dense.with_name("x.safetensors").exists()


def test_what_cannot_be_converted_is_refused(dense: Path, tmp_path: Path) -> None:
    converted(dense, Recipe(SIZES))
    with pytest.raises(WeightsError, match="already has latent attention"):
        convert_file(open_checkpoint(tmp_path / "latent.safetensors"), tmp_path / "y.safetensors", Recipe(SIZES), HEADS)
    with pytest.raises(OptionError, match="ends in"):
        convert_file(open_checkpoint(dense), tmp_path / "y.pt", Recipe(SIZES), HEADS)
    state = dense_state()
    del state["blocks.1.self_attn.v.bias"]
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors: blocks\.1\.self_attn\.v\.bias"):
        convert_file(
            open_checkpoint(tmp_path / "lacking.safetensors"), tmp_path / "y.safetensors", Recipe(SIZES), HEADS
        )

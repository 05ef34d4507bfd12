"""Low-rank updates in every layout that is published, with the strength that their files state."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner
from wan_states import DIM, FFN, assert_same, diffusers_name, loaded, wan_state

from harness.cli.main import app
from harness.contracts import ProbeContext, Workload
from harness.errors import OptionError, WeightsError
from videomla_models.adapters.wan import wan_model
from videomla_models.checkpoints.load import open_checkpoint
from videomla_models.probes.rank import RankProbe

RANK = 4
MODULES = ("blocks.1.self_attn.k", "blocks.0.cross_attn.o", "blocks.1.ffn.0", "time_projection.1", "head.head")


def pair(module: str, rank: int = RANK, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Maps A [rank, in] and B [out, rank] of a module of `wan_state`."""
    rows, columns = wan_state()[f"{module}.weight"].shape
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw)


def merged(factors: dict[str, float], ranks: dict[str, int] | None = None) -> dict[str, Tensor]:
    """W + factor B A in float64, for each module of `factors`."""
    state = wan_state()
    for module, factor in factors.items():
        down, up = pair(module, (ranks or {}).get(module, RANK))
        weight = state[f"{module}.weight"].double()
        state[f"{module}.weight"] = weight + factor * up.double() @ down.double()
    return state


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name].double(), tensor.double(), atol=1e-5), name


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_file(wan_state(), tmp_path / "base.safetensors")
    (tmp_path / "lora").mkdir()
    return tmp_path / "base.safetensors"


def adapter(folder: Path, config: dict[str, object] | str | None = None, **ranks: int) -> Path:
    """An update as peft saves it: two modules, and its configuration."""
    tensors = {}
    for module, letter in (("blocks.1.self_attn.k", "k"), ("blocks.0.ffn.0", "f")):
        down, up = pair(module, ranks.get(letter, RANK))
        tensors |= {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps({"peft_type": "LORA", "r": RANK, **config})
        (folder / "adapter_config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("config", "k", "f"),
    [
        (None, 1.0, 1.0),
        ({"lora_alpha": 8}, 2.0, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0, 4.0),
        ({"lora_alpha": 4, "alpha_pattern": {"self_attn.k": 12}}, 3.0, 1.0),
        ({"lora_alpha": 4, "alpha_pattern": {"blocks.0.ffn.0": 2.0, "k": 6}}, 1.5, 0.5),
        ({"lora_alpha": 4, "alpha_pattern": {"^blocks.1.self_attn.k": 8, "^ffn.0": 8}}, 2.0, 1.0),
        ({"lora_alpha": 4, "alpha_pattern": {"n.k": 8, "attn.k": 8}}, 1.0, 1.0),
    ],
)
def test_peft_s_configuration_decides_the_strength(
    base: Path, config: dict[str, object] | None, k: float, f: float
) -> None:
    lora = adapter(base.parent / "lora", config)
    expected = merged({"blocks.1.self_attn.k": k, "blocks.0.ffn.0": f})
    assert_near(loaded(base, wan_state(), lora=lora), expected)


def test_ranks_differ_from_map_to_map(base: Path) -> None:
    config = {"lora_alpha": 8, "rank_pattern": {"self_attn.k": 2}, "alpha_pattern": {"self_attn.k": 3}}
    lora = adapter(base.parent / "lora", config, k=2)
    expected = merged({"blocks.1.self_attn.k": 1.5, "blocks.0.ffn.0": 2.0}, {"blocks.1.self_attn.k": 2})
    assert_near(loaded(base, wan_state(), lora=lora), expected)
    with pytest.raises(WeightsError, match=r"says that the rank of blocks\.1\.self_attn\.k is 4, and its maps have 2"):
        loaded(base, wan_state(), lora=adapter(base.parent / "lora", {"lora_alpha": 8}, k=2))


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ({"lora_adapter_metadata": json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 8})}, 2.0),
        ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.use_rslora": True})}, 4.0),
        ({"lora_alpha": "2"}, 0.5),
        ({"lora_alpha": "8.0", "use_rslora": "True"}, 4.0),
        ({"format": "pt"}, 1.0),
        ({"ss_network_alpha": "4.0", "ss_network_dim": "4"}, 1.0),
    ],
)
def test_the_header_of_a_file_decides_the_strength(base: Path, header: dict[str, str], factor: float) -> None:
    down, up = pair("blocks.1.self_attn.k")
    path = base.parent / "lora" / "pytorch_lora_weights.safetensors"
    stem = "transformer.blocks.1.attn1.to_k"
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, path, header)
    assert_near(loaded(base, wan_state(), lora=path), merged({"blocks.1.self_attn.k": factor}))


def test_a_header_that_may_be_in_the_weights_already_asks(base: Path) -> None:
    down, up = pair("blocks.1.self_attn.k")
    path, stem = base.parent / "lora" / "converted.safetensors", "diffusion_model.blocks.1.self_attn.k"
    header = {"ss_network_alpha": "2", "ss_network_dim": "4"}
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, path, header)
    with pytest.raises(WeightsError, match=r"alpha / rank = 0\.5, and has no \.alpha tensors"):
        open_checkpoint(base, lora=path)
    assert_near(loaded(base, wan_state(), lora=path, lora_alpha=4.0), merged({"blocks.1.self_attn.k": 1.0}))


def dotted(prefix: str, down: str, up: str, diffusers: bool = False) -> dict[str, Tensor]:
    tensors = {}
    for module in MODULES:
        name = diffusers_name(f"{module}.weight").removesuffix(".weight") if diffusers else module
        a, b = pair(module)
        tensors |= {f"{prefix}{name}.{down}": a, f"{prefix}{name}.{up}": b}
    return tensors


def flat(prefix: str, diffusers: bool = False) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in dotted("", "lora_down.weight", "lora_up.weight", diffusers).items():
        module, kind = name.rsplit(".lora_", 1)
        tensors[f"{prefix}{module.replace('.', '_')}.lora_{kind}"] = tensor
    return tensors


LAYOUTS = {
    "peft": dotted("base_model.model.", "lora_A.weight", "lora_B.weight"),
    "peft, in a pipeline": dotted("base_model.model.model.", "lora_A.default.weight", "lora_B.default.weight"),
    "peft, named": dotted("", "lora_A.style_2.weight", "lora_B.style_2.weight"),
    "comfyui": dotted("diffusion_model.", "lora_A.weight", "lora_B.weight"),
    "diffsynth": dotted("pipe.dit.", "lora_A.default.weight", "lora_B.default.weight"),
    "comfyui, up and down": dotted("diffusion_model.", "lora_down.weight", "lora_up.weight"),
    "diffusers": dotted("transformer.", "lora_A.weight", "lora_B.weight", diffusers=True),
    "diffusers, older": dotted("transformer.", "lora.down.weight", "lora.up.weight", diffusers=True),
    "bare": dotted("", "lora_A", "lora_B"),
    "kohya": flat("lora_unet_"),
    "videox-fun": flat("lora_unet__"),
    "onetrainer": flat("lora_transformer_", diffusers=True),
    "lycoris": flat("lycoris_", diffusers=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_every_layout_gives_the_same_weights(base: Path, layout: str, alpha: float | None) -> None:
    tensors = dict(LAYOUTS[layout])
    if alpha is not None:
        stems = {name.split(".lora")[0] for name in tensors}
        tensors |= {f"{stem}.alpha": torch.tensor(alpha, dtype=torch.bfloat16) for stem in stems}
    path = base.parent / "lora" / "lora.safetensors"
    save_file(tensors, path)
    factor = 1.0 if alpha is None else alpha / RANK
    assert_near(loaded(base, wan_state(), lora=path), merged(dict.fromkeys(MODULES, factor)))


def test_whole_differences_are_added(base: Path) -> None:
    state = wan_state()
    names = ("blocks.0.norm3.weight", "blocks.1.ffn.2.bias", "blocks.1.modulation", "head.modulation")
    added = {name: torch.full_like(state[name], 0.25 * n) for n, name in enumerate(names, 1)}
    comfy = {
        "diffusion_model.blocks.0.norm3.diff": added[names[0]],
        "diffusion_model.blocks.1.ffn.2.diff_b": added[names[1]],
        "diffusion_model.blocks.1.modulation.diff": added[names[2]],
        "diffusion_model.head.modulation.diff": added[names[3]],
    }
    diffusers = {
        "transformer.blocks.0.norm2.diff": added[names[0]],
        "transformer.blocks.1.ffn.net.2.diff_b": added[names[1]],
        "transformer.blocks.1.scale_shift_table.diff": added[names[2]],
        "transformer.scale_shift_table.diff": added[names[3]],
    }
    for tensors in (comfy, diffusers):
        path = base.parent / "lora" / "lora.safetensors"
        save_file(tensors, path)
        assert_same(loaded(base, state, lora=path), state | {name: state[name] + added[name] for name in names})


def test_maps_of_a_convolution_are_a_product_too(base: Path) -> None:
    draw = torch.Generator().manual_seed(2)
    down = torch.randn(3, 4, 1, 2, 2, generator=draw)
    up = torch.randn(DIM, 3, 1, 1, 1, generator=draw)
    path = base.parent / "lora" / "lora.safetensors"
    save_file({"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up}, path)
    found = loaded(base, wan_state(), lora=path)["patch_embedding.weight"]
    expected = wan_state()["patch_embedding.weight"] + torch.einsum("or,rcthw->octhw", up[:, :, 0, 0, 0], down)
    assert torch.allclose(found, expected, atol=1e-6)


Q = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (f"{Q}.dora_scale", "DoRA"),
        (f"{Q}.lora_magnitude_vector", "DoRA"),
        (f"{Q}.hada_w1_a", "LoHa"),
        ("lora_unet_blocks_0_self_attn_q.lokr_w1", "LoKr"),
        (f"{Q}.lora_mid.weight", "LoCon"),
        (f"{Q}.oft_blocks", "OFT"),
        (f"{Q}.a1.weight", "GLoRA"),
        (f"{Q}.set_weight", "replaced weights"),
        (f"{Q}.reshape_weight", "other sizes"),
        (f"{Q}.lora_B.bias", "biases"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "text encoder"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "second transformer"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "FLUX"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_its_name(base: Path, name: str, layout: str) -> None:
    tensors = {f"{Q}.lora_A.weight": torch.ones(2, DIM), f"{Q}.lora_B.weight": torch.ones(DIM, 2), name: torch.ones(2)}
    save_file(tensors, base.parent / "lora" / "x.safetensors")
    with pytest.raises(WeightsError, match=rf"is .*{layout}.*, which is not merged"):
        open_checkpoint(base, lora=base.parent / "lora")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora_alpha": 8, "use_dora": True}, "asks for use_dora"),
        ({"lora_alpha": 8, "init_lora_weights": "pissa_niter_4"}, "init_lora_weights: pissa_niter_4"),
        ({"lora_alpha": 8, "lora_bias": True}, "asks for lora_bias"),
        ({"peft_type": "LOHA"}, "LOHA is no LoRA"),
        ({"use_rslora": True}, "has no lora_alpha"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"lora_alpha": True}, "lora_alpha is 'True'"),
        ({"lora_alpha": 8, "alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern is no mapping"),
        ({"lora_alpha": 8, "alpha_pattern": [1]}, "alpha_pattern is no mapping"),
        ('{"lora_alpha": NaN}', "lora_alpha is 'nan'"),
        ('{"lora_alpha": 1' + "0" * 400 + "}", "lora_alpha is"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no mapping"),
        ("{", "is no JSON"),
        (" " * (1 << 21), "larger than"),
    ],
)
def test_a_configuration_that_cannot_be_kept_is_refused(base: Path, config: object, message: str) -> None:
    lora = adapter(base.parent / "lora", config)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=message) as caught:
        open_checkpoint(base, lora=lora)
    assert len(str(caught.value).splitlines()) <= 2


def test_two_strengths_are_refused(base: Path) -> None:
    lora = adapter(base.parent / "lora", {"lora_alpha": 8})
    assert_near(
        loaded(base, wan_state(), lora=lora, lora_alpha=8.0),
        merged({"blocks.1.self_attn.k": 2.0, "blocks.0.ffn.0": 2.0}),
    )
    with pytest.raises(WeightsError, match=r"stated twice: lora_alpha gives 1, adapter_config\.json gives 2"):
        loaded(base, wan_state(), lora=lora, lora_alpha=4.0)


def test_maps_that_do_not_fit_are_refused(base: Path) -> None:
    cases: list[dict[str, Tensor]] = [
        {f"{Q}.lora_A.weight": torch.ones(2, DIM)},
        {f"{Q}.lora_A.weight": torch.ones(0, DIM), f"{Q}.lora_B.weight": torch.ones(DIM, 0)},
        {f"{Q}.lora_A.weight": torch.ones(2, DIM), f"{Q}.lora_B.weight": torch.ones(DIM, 3)},
        {f"{Q}.lora_A.weight": torch.ones(2, DIM), f"{Q}.lora_B.weight": torch.ones(DIM, 2, 2)},
        {f"{Q}.diff": torch.ones(DIM)},
        {f"{Q}.diff_b": torch.ones(FFN)},
        {f"{Q}.alpha": torch.tensor(2.0)},
        {"diffusion_model.blocks.0.cross_attn.k_img.diff_b": torch.ones(DIM)},
    ]
    for tensors in cases:
        save_file(tensors, base.parent / "lora" / "x.safetensors")
        with pytest.raises(WeightsError, match=r"does not fit its base|no LoRA"):
            open_checkpoint(base, lora=base.parent / "lora")


def test_maps_of_whole_numbers_are_refused(base: Path) -> None:
    down = torch.ones(2, DIM, dtype=torch.int8)
    tensors = {f"{Q}.lora_A.weight": down, f"{Q}.lora_B.weight": torch.ones(DIM, 2)}
    save_file(tensors, base.parent / "lora" / "x.safetensors")
    with pytest.raises(WeightsError, match=r"lora_A\.weight is int8"):
        loaded(base, wan_state(), lora=base.parent / "lora")


def test_a_strength_that_is_no_number_is_refused(base: Path) -> None:
    for alpha in (torch.tensor(float("nan")), torch.ones(2), torch.tensor(1j)):
        tensors = {f"{Q}.lora_A.weight": torch.ones(2, DIM), f"{Q}.lora_B.weight": torch.ones(DIM, 2)}
        save_file({**tensors, f"{Q}.alpha": alpha}, base.parent / "lora" / "x.safetensors")
        with pytest.raises(WeightsError, match=r"alpha (holds NaN|is no single number|is complex64)"):
            loaded(base, wan_state(), lora=base.parent / "lora")


@pytest.mark.parametrize("alpha", [math.inf, -math.inf, math.nan, 3e38, 1e300, 1e9])
def test_a_strength_that_float32_cannot_multiply_by_is_refused(base: Path, alpha: float) -> None:
    with pytest.raises(WeightsError, match=r"lora_alpha is '\S+'\n  give a number below 1e\+09"):
        loaded(base, wan_state(), lora=adapter(base.parent / "lora", {"lora_alpha": 8}), lora_alpha=alpha)
    tensors = {f"{Q}.lora_A.weight": torch.ones(2, DIM), f"{Q}.lora_B.weight": torch.ones(DIM, 2)}
    path = base.parent / "other" / "x.safetensors"
    path.parent.mkdir()
    save_file({**tensors, f"{Q}.alpha": torch.tensor(alpha, dtype=torch.float64)}, path)
    with pytest.raises(WeightsError, match=r"alpha (is '\S+'|holds NaN or Inf)"):
        loaded(base, wan_state(), lora=path)


def test_a_merge_that_the_dtype_does_not_hold_is_refused_by_its_tensor(base: Path) -> None:
    largest = torch.finfo(torch.float32).max
    save_file(wan_state() | {"blocks.0.norm3.weight": torch.full((DIM,), largest)}, base)
    difference = {"diffusion_model.blocks.0.norm3.diff": torch.full((DIM,), largest)}
    product = {f"{Q}.lora_A.weight": torch.full((2, DIM), 1e30), f"{Q}.lora_B.weight": torch.full((DIM, 2), 1e30)}
    for tensors, name in ((difference, "norm3"), (product, "self_attn.q")):
        save_file(tensors, base.parent / "lora" / "x.safetensors")
        with pytest.raises(WeightsError, match=rf"x\.safetensors merged: blocks\.0\.{name}\.weight holds NaN or Inf"):
            loaded(base, wan_state(), lora=base.parent / "lora" / "x.safetensors")


def test_the_strength_is_in_the_key(base: Path) -> None:
    for name in ("text.safetensors", "vae.safetensors"):
        save_file({"x": torch.ones(1)}, base.parent / name)

    def keys(config: dict[str, object] | None) -> tuple[str, str]:
        lora = str(adapter(base.parent / "lora", config))
        (base.parent / "lora" / "adapter_config.json").unlink() if config is None else None
        files = {part: str(base.parent / f"{part}.safetensors") for part in ("text", "vae")}
        made = wan_model("self-forcing")
        model = made(made.schema(weights=str(base), lora=lora, **files))
        probe = RankProbe(RankProbe.schema(checkpoint=str(base), lora=lora))  # type: ignore[call-arg]
        return json.dumps(model.identity("cpu")), json.dumps(probe.identity())

    adapter(base.parent / "lora", {})
    identities = [keys(config) for config in ({"lora_alpha": 8}, {"lora_alpha": 4}, None)]
    for one in (0, 1):
        assert len({identity[one] for identity in identities}) == 3
        assert "adapter_config.json" in identities[0][one]
        assert '"lora": {' not in identities[2][one]


def test_a_strength_of_no_update_is_refused_before_anything_is_read(base: Path) -> None:
    probe = RankProbe(RankProbe.schema(checkpoint=str(base), lora_alpha=8.0))  # type: ignore[call-arg]
    model = wan_model("self-forcing")
    for asked in (probe.identity, lambda: model(model.schema(weights=str(base), lora_alpha=8.0)).identity("cpu")):
        with pytest.raises(OptionError, match="lora_alpha is 8, and there is no lora"):
            asked()
    said = CliRunner().invoke(app, ["convert", str(base), str(base.parent / "out"), "--lora-alpha", "8"])
    assert isinstance(said.exception, OptionError), said.output


def test_commands_take_the_strength_too(base: Path) -> None:
    lora, out = adapter(base.parent / "lora"), base.parent / "out.safetensors"
    arguments = ["convert", str(base), str(out), "--heads", "1", "--init", "random", "--lora", str(lora)]
    sizes = ["--d-c", "4", "--d-q", "4", "--d-nope", "2", "--d-rope", "2", "--pairs", "1,0,0"]
    done = CliRunner().invoke(app, [*arguments, *sizes, "--lora-alpha", "8"])
    assert done.exit_code == 0, done.output
    assert torch.allclose(
        load_file(out)["blocks.0.ffn.0.weight"], merged({"blocks.0.ffn.0": 2.0})["blocks.0.ffn.0.weight"].float()
    )
    plain = RankProbe(RankProbe.schema(checkpoint=str(base)))  # type: ignore[call-arg]
    assert set(plain.options.model_dump()) == {"checkpoint", "width", "ema", "lora"}
    options = {"checkpoint": str(base), "lora": str(lora), "lora_alpha": 8.0}
    found = RankProbe(RankProbe.schema(**options)).measure(  # type: ignore[arg-type]
        None, Workload((), (), 1), ProbeContext("cpu", base.parent)
    )
    state = merged({"blocks.1.self_attn.k": 2.0})
    stacked = torch.cat([state[f"blocks.1.self_attn.{name}.weight"].double() for name in "kv"])
    assert found.samples["singular[01]"] == pytest.approx(torch.linalg.svdvals(stacked).tolist(), rel=1e-5)

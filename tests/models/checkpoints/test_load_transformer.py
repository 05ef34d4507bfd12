"""Checkpoints against the real transformer, and the transformer against diffusers' own implementation of Wan2.1."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import WeightsError
from videomla_models.checkpoints.convert import Recipe, convert_layer, rope_channels
from videomla_models.checkpoints.load import load_into, open_checkpoint
from videomla_models.network.attention.context import AttendWindow, rotate_tail
from videomla_models.network.attention.dense import DenseAttention
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops.rope import RotaryTable, Rotation, rotate
from videomla_models.spec.config import LatentSizes, TransformerConfig

FRAMES, HEIGHT, WIDTH = 3, 6, 8
CONFIG = TransformerConfig(dim=48, heads=2, layers=2, ffn=40, text_width=20, text_tokens=7, freq_dim=32)


class WholeClip:
    """Every token sees every token of the clip: what Wan2.1 does without a cache."""

    def __init__(self, rotation: Rotation) -> None:
        self.rotation = rotation

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        shared = positional[:, :, None] if positional.ndim == 3 else positional
        turned = rotate(shared, self.rotation).reshape(positional.shape)
        return attend_window(rotate_tail(query, self.rotation), turned, content)


def whole_clip(
    table: RotaryTable, frames: int = FRAMES, height: int = HEIGHT // 2, width: int = WIDTH // 2
) -> WholeClip:
    return WholeClip(table(range(frames), height, width, torch.device("cpu")))


def on_meta() -> VideoTransformer:
    with torch.device("meta"):
        return VideoTransformer(CONFIG)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_wrapped_checkpoint_fills_the_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = VideoTransformer(CONFIG)
    wrapped = {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"generator_ema": wrapped}, tmp_path / "self_forcing_dmd.pt")
    network = on_meta()
    load_into(network, open_checkpoint(tmp_path))
    latents, steps, text = drawn(1, FRAMES, 16, HEIGHT, WIDTH), torch.full((1, FRAMES), 500.0), drawn(1, 7, 20)
    with torch.no_grad():
        context = whole_clip(network.rotary_table())
        flows = [model(latents, steps, model.prompt(text), context) for model in (network, trained)]
    assert torch.equal(*flows)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])


def test_a_diffusers_folder_gives_what_diffusers_computes(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    torch.manual_seed(0)
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=CONFIG.heads,
        attention_head_dim=CONFIG.head_dim,
        text_dim=CONFIG.text_width,
        freq_dim=CONFIG.freq_dim,
        ffn_dim=CONFIG.ffn,
        num_layers=CONFIG.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="60KB")
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.source.files) > 1
    assert checkpoint.layout == "diffusers"
    ours = on_meta()
    load_into(ours, checkpoint)
    latents, text = drawn(2, FRAMES, 16, HEIGHT, WIDTH), drawn(2, 7, 20, seed=1)
    times = torch.tensor([937.5, 625.0])
    with torch.no_grad():
        expected = theirs(latents.transpose(1, 2), times, text).sample.transpose(1, 2)
        context = whole_clip(ours.rotary_table())
        found = ours(latents, times[:, None].expand(2, FRAMES), ours.prompt(text), context)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def shared_key_attention(config: TransformerConfig, rope: list[int]) -> DenseAttention:
    """Dense attention whose heads have the same positional keys, so that their mean loses nothing."""
    dense = DenseAttention(config.dim, config.heads, config.eps)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in dense.named_parameters():
        gain = 1.0 + 0.2 * torch.randn(parameter.shape, generator=draw)
        weight = torch.randn(parameter.shape, generator=draw) * config.dim**-0.5
        parameter.data = gain if "norm" in name else weight
    for tensor in (dense.k.weight, dense.k.bias, dense.norm_k.weight):
        heads = tensor.data.view(config.heads, config.head_dim, -1)
        heads[:, rope] = heads[:1, rope].clone()
    return dense


def test_converted_attention_does_what_the_dense_one_did() -> None:
    """At full rank the norms' constants, dropped biases and slow rotations are all that differ; at random, all is."""
    config = TransformerConfig(dim=384, heads=4)
    full = LatentSizes(d_c=384, d_q=384, d_nope=72, d_rope=24, pairs=(4, 4, 4))
    half = replace(full, d_c=192, d_q=192)
    dense = shared_key_attention(config, rope_channels(full, config))
    state = {name: tensor.detach() for name, tensor in dense.state_dict().items()}
    x = drawn(1, FRAMES * 12, 384)
    errors = []
    for recipe in (Recipe(full), Recipe(half), Recipe(full, init="random")):
        found, _ = convert_layer(0, state, recipe, config, torch.Generator().manual_seed(0))
        latent = LatentAttention(384, 4, 1e-6, recipe.latent)
        latent.load_state_dict({name: tensor.float() for name, tensor in found.items()})
        with torch.no_grad():
            expected = dense(x, 0, whole_clip(RotaryTable(96)))
            converted = latent(x, 0, whole_clip(RotaryTable(96, full.pairs)))
        errors.append(float((converted - expected).norm() / expected.norm()))
    assert errors[0] < 0.12
    assert errors[0] < errors[1] < 0.8
    assert errors[2] > 1.0


def test_a_checkpoint_of_dense_attention_does_not_fit_a_latent_model(tmp_path: Path) -> None:
    save_file(VideoTransformer(CONFIG).state_dict(), tmp_path / "dense.safetensors")
    sizes = LatentSizes(d_c=16, d_q=24, d_nope=16, d_rope=8, pairs=(2, 1, 1))
    with torch.device("meta"):
        latent = VideoTransformer(replace(CONFIG, attention="latent", latent=sizes))
    with pytest.raises(WeightsError) as caught:
        load_into(latent, open_checkpoint(tmp_path))
    assert "blocks.*.self_attn.kv_down.weight [16x48] in 2 places" in str(caught.value)
    assert "blocks.*.self_attn.k.weight [48x48] in 2 places" in str(caught.value)

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.errors import OptionError, WeightsError
from videomla_models.rollout.wan_vae import WanCodec, load_wan_codec

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
SIZES = {"base_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 2, 2, 2], "z_dim": 16}


def vae(**sizes: object) -> diffusers.AutoencoderKLWan:  # type: ignore[name-defined]
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(**{**SIZES, **sizes}).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    vae().save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def codec(saved: Path) -> WanCodec:
    return load_wan_codec(saved)


def latents(batch: int = 2, frames: int = 6) -> Tensor:
    return torch.randn(batch, frames, 16, 3, 2, generator=torch.Generator().manual_seed(1))


def whole_clip(normal: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """diffusers' own decode of the unnormalised latents, which its pipeline writes latents / (1/std) + mean."""
    model = vae().to(dtype)
    mean, std = (torch.tensor(model.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    scaled = normal.transpose(1, 2) * std + mean
    assert torch.allclose(scaled, normal.transpose(1, 2) / (1.0 / std) + mean, atol=1e-6)
    with torch.no_grad():
        images: Tensor = model.decode(scaled.to(dtype)).sample
    return images


def is_as_near(found: Tensor, exact: Tensor, reference: Tensor) -> bool:
    """Whether float32 `found` lies as near to the float64 result as float32's own rounding puts `reference`.

    How sums are split, so by threads and by the length of a chunk, decides the rounding of each; a factor of four over
    the reference's, and never less than 64 roundings of a pixel of size one, is left for that.
    """
    rounding = max(float((reference - exact).abs().max()), 64 * torch.finfo(torch.float32).eps)
    return float((found - exact).abs().max()) <= 4 * rounding


def is_the_whole_clip(found: Tensor, normal: Tensor) -> bool:
    return is_as_near(found, whole_clip(normal, torch.float64), whole_clip(normal))


@pytest.mark.parametrize("lengths", [[6], [3, 3], [1, 2, 3], [1] * 6])
def test_streaming_equals_the_whole_clip(codec: WanCodec, lengths: list[int]) -> None:
    pieces = list(codec.images(latents().split(lengths, 1)))
    assert [piece.shape[2] for piece in pieces] == [4 * n - (3 if i == 0 else 0) for i, n in enumerate(lengths)]
    assert is_the_whole_clip(torch.cat(pieces, 2), latents())


def test_two_streams_at_once_do_not_mix(codec: WanCodec) -> None:
    first, second = latents(), latents().flip(0)
    together = zip(codec.images(first.split(2, 1)), codec.images(second.split(2, 1)), strict=True)
    pairs = list(together)
    assert is_the_whole_clip(torch.cat([a for a, _ in pairs], 2), first)
    assert is_the_whole_clip(torch.cat([b for _, b in pairs], 2), second)


def test_pixels_are_eight_bit(codec: WanCodec) -> None:
    pixels = codec.decode(latents())
    assert pixels.shape == (2, 21, 24, 16, 3)
    expected = ((whole_clip(latents()) + 1) * 127.5).round().movedim(1, -1)
    assert (pixels.float() - expected).abs().max() <= 1
    assert torch.equal(pixels, torch.cat(list(codec.decode_stream(latents().split(3, 1))), 1))


def test_encoding_is_normalised_and_takes_whole_groups(codec: WanCodec) -> None:
    frames = torch.randint(0, 256, (2, 9, 16, 24, 3), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    found = codec.encode(frames)
    assert found.shape == (2, 3, 16, 2, 3)
    normalised = []
    for dtype in (torch.float64, torch.float32):
        model = vae().to(dtype)
        with torch.no_grad():
            mode = model.encode(frames.movedim(-1, 1).to(dtype) / 127.5 - 1).latent_dist.mode()
        mean, std = (
            torch.tensor(model.config[name], dtype=dtype).view(1, -1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        normalised.append(((mode - mean) / std).transpose(1, 2))
    assert is_as_near(found, *normalised)
    with pytest.raises(OptionError, match="1, 5, 9"):
        codec.encode(frames[:, :8])
    with pytest.raises(OptionError, match="multiples of 8"):
        codec.encode(frames[:, :, :15])


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_original_file_gives_the_same_pixels(tmp_path: Path, prefix: str) -> None:
    full = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "base_dim": 2}
    model = vae(**full)
    state = {prefix + name: tensor for name, tensor in original_names(model.state_dict()).items()}
    others = {"model.diffusion_model.head.head.bias": torch.ones(1)} if prefix else {}
    torch.save(state | others, tmp_path / "Wan2.1_VAE.pth")
    found = load_wan_codec(tmp_path)
    z = latents(1, 2)
    assert torch.equal(found.decode(z), WanCodec(model).decode(z))


def original_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of Wan2.1's `vae.py`, written from its modules: flat lists of blocks, each a Sequential `residual`."""
    parts = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in (
            *((f".{k}.", f".{v}.") for k, v in parts.items()),
            ("conv_shortcut", "shortcut"),
            ("coder.conv_in", "coder.conv1"),
            ("norm_out", "head.0"),
            ("conv_out", "head.2"),
            ("mid_block.resnets.0", "middle.0"),
            ("mid_block.resnets.1", "middle.2"),
            ("mid_block.attentions.0", "middle.1"),
            ("down_blocks", "downsamples"),
            *((f"up_blocks.{i}.resnets.{j}.", f"upsamples.{4 * i + j}.") for i in range(4) for j in range(3)),
            *((f"up_blocks.{i}.upsamplers.0.", f"upsamples.{4 * i + 3}.") for i in range(3)),
        ):
            name = name.replace(theirs, ours)
        name = name.replace("post_quant_conv.", "conv2.").replace("quant_conv.", "conv1.")
        renamed[name] = tensor
    return renamed


def test_damaged_files_are_refused(saved: Path, tmp_path: Path) -> None:
    state = vae().state_dict()
    del state["decoder.conv_in.bias"]
    folder = tmp_path / "vae"
    vae().save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import save_file

    save_file(state, path)
    with pytest.raises(WeightsError, match=r"1 missing: decoder\.conv_in\.bias"):
        load_wan_codec(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="truncated"):
        load_wan_codec(tmp_path)
    (folder / "config.json").unlink()
    save_file(vae().state_dict(), path)
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_wan_codec(tmp_path)


def test_latents_of_another_width_are_refused(codec: WanCodec) -> None:
    with pytest.raises(OptionError, match="16"):
        codec.decode(torch.zeros(1, 1, 48, 2, 2))


def test_the_first_frame_does_not_see_later_ones(codec: WanCodec) -> None:
    streams = [codec.images([latents()[:, :n]]) for n in (1, 2, 4)]
    first = [next(stream)[:, :, :1] for stream in streams]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairwise(first))

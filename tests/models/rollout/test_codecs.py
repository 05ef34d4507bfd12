import pytest
import torch

from harness.errors import OptionError
from videomla_models.rollout.codecs import PixelCodec


def test_pixels_survive_the_pixel_codec_unchanged() -> None:
    codec = PixelCodec(patch=4)
    frames = torch.arange(2 * 3 * 32 * 32 * 3).remainder(256).to(torch.uint8).reshape(2, 3, 32, 32, 3)
    latents = codec.encode(frames)
    assert latents.shape == (2, 3, 48, 8, 8)
    assert latents.dtype == torch.float32
    assert latents.min() == -1.0
    assert latents.max() == 1.0
    assert torch.equal(codec.decode(latents), frames)


def test_a_latent_position_holds_its_own_square_of_pixels() -> None:
    frames = torch.zeros(1, 1, 4, 6, 3, dtype=torch.uint8)
    frames[0, 0, 3, 2, 1] = 255
    latents = PixelCodec(patch=2).encode(frames)
    lit = (latents[0, 0] == 1.0).nonzero().tolist()
    assert lit == [[1 * 4 + 1 * 2 + 0, 1, 1]]


def test_the_pixel_codec_clamps_and_rounds() -> None:
    latents = torch.tensor([-3.0, -1.0, 0.003, 1.7]).reshape(1, 4, 1, 1, 1).expand(1, 4, 3, 1, 1)
    assert PixelCodec(patch=1).decode(latents)[0, :, 0, 0, 0].tolist() == [0, 0, 128, 255]


def test_streamed_pixels_equal_the_whole_clip() -> None:
    codec = PixelCodec(patch=2)
    latents = torch.randn(2, 7, 12, 3, 5, generator=torch.Generator().manual_seed(0))
    streamed = torch.cat(list(codec.decode_stream(latents.split(3, 1))), 1)
    assert torch.equal(streamed, codec.decode(latents))


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, 1, 8, 8, 3),
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 1, 8, 6, 3, dtype=torch.uint8),
    ],
)
def test_wrong_pixels_are_refused(frames: torch.Tensor) -> None:
    with pytest.raises(OptionError):
        PixelCodec(patch=4).encode(frames)


def test_latents_of_another_width_are_refused() -> None:
    with pytest.raises(OptionError, match="48"):
        PixelCodec(patch=4).decode(torch.zeros(1, 1, 16, 2, 2))

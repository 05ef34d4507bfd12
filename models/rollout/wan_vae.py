"""Wan2.1's video VAE, run by diffusers, decoding chunk by chunk. diffusers is imported when a codec is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import NotAvailable, OptionError, WeightsError
from videomla_models.checkpoints.load import Checkpoint, load_into
from videomla_models.checkpoints.locate import Source, resolve
from videomla_models.checkpoints.parts import part_names
from videomla_models.checkpoints.tensors import open_tensors
from videomla_models.rollout.codecs import check_pixels, to_pixels

PACKAGES = "pip install -c constraints.txt '.[wan]'"


class WanCodec:
    """Pixels to normalised latents and back.

    Latents are (z - mean) / std with the per-channel constants of the VAE's configuration (Wan2.1 `vae.py`,
    `WanVAE.mean`). The first latent frame is one pixel frame, each later one is four.

    Args:
        vae: a diffusers `AutoencoderKLWan`, on its device.
    """

    temporal_ratio = 4

    def __init__(self, vae: Any) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.channels = int(vae.config.z_dim)
        self.spatial_ratio = int(vae.spatial_compression_ratio)
        statistics = [torch.tensor(vae.config[name]) for name in ("latents_mean", "latents_std")]
        if any(len(values) != self.channels for values in statistics):
            raise WeightsError(
                f"the VAE has {self.channels} latent channels, but statistics of {[len(v) for v in statistics]}",
                "correct latents_mean and latents_std in its config.json",
            )
        self._mean, self._std = (values.view(1, -1, 1, 1, 1) for values in statistics)

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 [batch, 1 + 4 n, height, width, 3] to float32 [batch, 1 + n, channels, height/8, width/8].

        The mode of the posterior is taken, so equal pixels give equal latents.
        """
        check_pixels(frames, self.spatial_ratio)
        if (frames.shape[1] - 1) % self.temporal_ratio:
            raise OptionError(f"{frames.shape[1]} frames", "the VAE takes 1, 5, 9, … frames")
        weight = next(self.vae.parameters())
        images = frames.to(weight.device).movedim(-1, 1).to(weight.dtype).div(127.5).sub(1.0)
        with torch.no_grad():
            latents = self.vae.encode(images).latent_dist.mode().float()
        normal: Tensor = (latents - self._mean.to(latents)) / self._std.to(latents)
        return normal.transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """[batch, 1 + n, channels, h, w] to uint8 [batch, 1 + 4 n, 8 h, 8 w, 3], on the VAE's device."""
        return torch.cat(list(self.decode_stream([latents])), 1)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pixels of each chunk as it comes, equal to those of the whole clip.

        The feature cache of the causal convolutions goes from chunk to chunk and belongs to this stream, so several
        streams may be open at once. Memory does not grow with the clip.
        """
        for images in self.images(chunks):
            yield to_pixels(images).movedim(1, -1)

    def images(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """As `decode_stream`, before rounding: [batch, 3, frames, height, width] in [-1, 1], the VAE's dtype."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        convolutions = sum(isinstance(part, WanCausalConv3d) for part in self.vae.decoder.modules())
        cache: list[Any] = [None] * convolutions
        started = False
        for latents in chunks:
            if latents.ndim != 5 or latents.shape[2] != self.channels:
                raise OptionError(
                    f"latents are {list(latents.shape)}", f"give [batch, frames, {self.channels}, height, width]"
                )
            yield self._chunk(latents, cache, started)
            started = True

    @torch.no_grad()
    def _chunk(self, latents: Tensor, cache: list[Any], started: bool) -> Tensor:
        weight = next(self.vae.parameters())
        scaled = latents.to(weight.device).float().transpose(1, 2)
        scaled = scaled * self._std.to(scaled) + self._mean.to(scaled)
        hidden = self.vae.post_quant_conv(scaled.to(weight.dtype))
        frames = [
            self.vae.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=not started and index == 0)
            for index, frame in enumerate(hidden.split(1, 2))
        ]
        images: Tensor = torch.cat(frames, 2)
        return images.clamp_(-1.0, 1.0)


def load_wan_codec(
    source: str | Path | Source, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> WanCodec:
    """Wan's VAE from a diffusers folder (`config.json` beside the weights) or the original `Wan2.1_VAE.pth`.

    `source` may also be the folder or Hub id of a whole pipeline.

    Raises:
        NotAvailable: diffusers is not installed, or a Hub id is not on this machine.
        WeightsError: the file is damaged or does not fit its configuration.
    """
    try:
        from diffusers import AutoencoderKLWan
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    except ImportError as error:
        raise NotAvailable(f"Wan's VAE needs diffusers ({error})", PACKAGES) from error
    autoencoder: Any = AutoencoderKLWan
    renamed: Any = convert_wan_vae_to_diffusers
    resolved = source if isinstance(source, Source) else resolve(source, component="vae")
    file = open_tensors(resolved)
    config = resolved.files[0].with_name("config.json")
    names = part_names(resolved.name, file.shapes, ("decoder.conv1.weight", "decoder.conv_in.weight"))
    if "decoder.conv1.weight" in names:
        # The converter only renames, so it maps names as well as tensors.
        stored = renamed(dict(names))
        layout = "wan"
        settings: dict[str, Any] = {
            "base_dim": file.shapes[names["encoder.conv1.weight"]][0] if "encoder.conv1.weight" in names else 96,
            "z_dim": file.shapes[names["decoder.conv1.weight"]][1],
        }
    elif config.is_file():
        stored, layout = names or {name: name for name in file.shapes}, "diffusers"
        settings = dict(autoencoder.load_config(config.parent, local_files_only=True))
    else:
        raise WeightsError(
            f"{resolved.name}: no config.json beside it, and not the original Wan2.1_VAE.pth",
            "give the vae folder of a diffusers repository, or the original file",
        )
    with torch.device("meta"):
        vae: nn.Module = autoencoder.from_config(settings)
    load_into(vae, Checkpoint(resolved, file, stored, layout), dtype, device)
    return WanCodec(vae)


def random_wan_codec(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> WanCodec:
    """Wan2.1's VAE at its true size with random weights: its cost without its pictures. Raises `NotAvailable`."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise NotAvailable(f"Wan's VAE needs diffusers ({error})", f"{PACKAGES}, or choose codec: preview") from error
    autoencoder: Any = AutoencoderKLWan
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WanCodec(autoencoder().to(device, dtype))

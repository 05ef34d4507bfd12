"""Stands in for the package `pipeline` of a repository of the Self-Forcing family: its interface, with random weights.

What `stream.py` uses of it has the names, arguments and shapes that it has there. The network is a toy: one attention
over the cached tokens, and a linear map to the flow.
"""

import torch
from torch import nn

CHANNELS, DIM = 16, 32


class CausalInferencePipeline(nn.Module):
    """Generator, text encoder, VAE and the numbers of the block loop."""

    def __init__(self, args, device, generator=None, text_encoder=None, vae=None):
        super().__init__()
        torch.manual_seed(0)
        self.args = args
        self.generator = generator or DiffusionWrapper()
        self.text_encoder = text_encoder or TextEncoder()
        self.vae = vae or VAEWrapper()
        self.scheduler = Scheduler()
        steps = torch.tensor(args.denoising_step_list, dtype=torch.float32) / 1000
        shift = args.timestep_shift
        self.denoising_step_list = 1000 * shift * steps / (1 + (shift - 1) * steps)
        self.num_frame_per_block = args.num_frame_per_block
        self.frame_seq_length = (args.height // 16) * (args.width // 16)
        self.window = args.local_attn_size * self.frame_seq_length
        self.kv_cache1 = self.crossattn_cache = None

    def _initialize_kv_cache(self, batch_size, dtype, device):
        empty = torch.zeros(batch_size, 0, DIM, dtype=dtype, device=device)
        self.kv_cache1 = [{"k": empty, "v": empty, "start": 0, "window": self.window}]

    def _initialize_crossattn_cache(self, batch_size, dtype, device):
        self.crossattn_cache = [{"k": torch.zeros(batch_size, DIM, dtype=dtype, device=device), "is_init": False}]


class DiffusionWrapper(nn.Module):
    """Predicts the flow and the clean latents [B, F, C, H, W]; writes the block's keys and values into the cache."""

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"embed": nn.Linear(4 * CHANNELS, DIM), "qkv": nn.Linear(DIM, 3 * DIM)})
        self.model["text"], self.model["head"] = nn.Linear(DIM, DIM), nn.Linear(DIM, 4 * CHANNELS)

    def forward(self, noisy_image_or_video, conditional_dict, timestep, kv_cache, crossattn_cache, current_start):
        batch, frames, channels, height, width = noisy_image_or_video.shape
        tiles = noisy_image_or_video.unflatten(4, (width // 2, 2)).unflatten(3, (height // 2, 2))
        tokens = self.model["embed"](tiles.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3))
        (text,) = crossattn_cache
        if not text["is_init"]:
            text["k"], text["is_init"] = self.model["text"](conditional_dict["prompt_embeds"]), True
        query, key, value = self.model["qkv"](tokens + text["k"].unsqueeze(1)).chunk(3, -1)
        (cache,) = kv_cache
        past = current_start - cache["start"]
        keys = torch.cat([cache["k"][:, :past], key], 1)[:, -cache["window"] :]
        values = torch.cat([cache["v"][:, :past], value], 1)[:, -cache["window"] :]
        cache.update(k=keys, v=values, start=current_start + key.shape[1] - keys.shape[1])
        tokens = tokens + nn.functional.scaled_dot_product_attention(query, keys, values)
        tiles = self.model["head"](tokens).unflatten(1, (frames, height // 2, width // 2))
        flow = tiles.unflatten(4, (channels, 2, 2)).permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)
        return flow, noisy_image_or_video - (timestep / 1000).view(batch, frames, 1, 1, 1).to(flow.dtype) * flow


class TextEncoder(nn.Module):
    """Embeds the letters of a prompt, {"prompt_embeds": [B, DIM]}."""

    def __init__(self):
        super().__init__()
        self.letters = nn.EmbeddingBag(257, DIM, mode="sum")

    def forward(self, text_prompts):
        device = self.letters.weight.device
        texts = [torch.tensor([[256, *prompt.encode()]], device=device) for prompt in text_prompts]
        return {"prompt_embeds": torch.cat([self.letters(text) for text in texts])}


class VAEWrapper(nn.Module):
    """Decodes latents to pixels in [-1, 1]: one frame for the first latent frame, four for each later one."""

    def __init__(self):
        super().__init__()
        self.model = CausalDecoder()

    def decode_to_pixel(self, latent, use_cache=False):
        if not use_cache:
            self.model.clear_cache()
        assert latent.shape[0] == 1 or not use_cache, "cached decoding takes one clip"
        return self.model.cached_decode(latent)


class CausalDecoder(nn.Module):
    """Keeps the last latent frame in `_feat_map`, as the convolutions of a causal VAE keep theirs."""

    def __init__(self):
        super().__init__()
        self.colours = nn.Linear(CHANNELS, 3)
        self.clear_cache()

    def clear_cache(self):
        self._feat_map = [None]

    def cached_decode(self, latent):
        parts = []
        for frame in latent.unbind(1):
            last, self._feat_map[0] = self._feat_map[0], frame
            shares = [1] if last is None else [0.25, 0.5, 0.75, 1]
            parts += [frame if last is None else last + share * (frame - last) for share in shares]
        pixels = torch.tanh(self.colours(torch.stack(parts, 1).movedim(2, 4))).movedim(4, 2)
        return pixels.repeat_interleave(8, 3).repeat_interleave(8, 4)


class Scheduler:
    """Flow matching: x_t = (1 - sigma) x_0 + sigma noise."""

    def add_noise(self, original_samples, noise, timestep):
        sigma = (timestep / 1000).view(-1, 1, 1, 1).to(noise.dtype)
        return (1 - sigma) * original_samples + sigma * noise

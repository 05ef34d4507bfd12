#!/usr/bin/env bash
# diffusers 0.42.1: enable_cache(TaylorSeerCacheConfig()) caches nothing in Wan's transformer. Its patterns must match the
# whole name of a module and end in `attn`, as in Flux; Wan's are called `attn1` and `attn2`, as are those of CogVideoX,
# LTX and Mochi. Nothing is raised or logged, and `is_cache_enabled` is True. A benchmark of it measures the plain model:
# bit-equal clips, no speed-up. With cache_identifiers that name the modules, half of twelve steps' attentions are skipped.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.13.0 numpy==2.4.6 transformers==5.24.0 ftfy==6.3.1

cat > "$folder/cached.py" <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import TaylorSeerCacheConfig, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models import AutoencoderKLWan

STEPS = 12
vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def clip(**identifiers):
    """The latents of a tiny Wan of random weights, how often its attentions ran, and whether it calls itself cached."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32
    )
    runs = []
    for block in transformer.blocks:
        block.attn1.to_q.register_forward_hook(lambda *_: runs.append(1))
    if identifiers:
        names = identifiers["names"]
        transformer.enable_cache(
            TaylorSeerCacheConfig(
                cache_interval=3, disable_cache_before_step=3, taylor_factors_dtype=torch.float32, cache_identifiers=names
            )
        )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    words = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(1))
    latents = pipe(
        prompt_embeds=words, height=32, width=32, num_frames=9, num_inference_steps=STEPS, guidance_scale=1.0,
        generator=torch.Generator().manual_seed(2), output_type="latent",
    ).frames
    return latents, len(runs), transformer.is_cache_enabled


plain, every, _ = clip()
default, of_default, enabled = clip(names=None)
named, of_named, _ = clip(names=["blocks.*attn[12]"])
print(
    f"diffusers {diffusers.__version__}, {STEPS} steps: {every} self-attentions without a cache; enabled {enabled}: "
    f"{of_default} and equal latents {torch.equal(plain, default)}; with the names given: {of_named} and equal latents "
    f"{torch.equal(plain, named)}"
)
as_seen = enabled and of_default == every and torch.equal(plain, default) and of_named < every
sys.exit(None if as_seen and not torch.equal(plain, named) else "TaylorSeer does something else by default now")
PYTHON
"$folder/venv/bin/python" "$folder/cached.py"

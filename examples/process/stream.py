"""Streams a model of the Self-Forcing family from its own repository, block by block.

`pipeline` is the repository's package; here it is a stand-in with random weights. docs/process.md shows `load` for
Self-Forcing, LongLive and CausVid.
"""

import math
from types import SimpleNamespace

import harness_stream
import torch
from pipeline import CausalInferencePipeline

RATIO = 4  # pixel frames of a latent frame, but for the first
CHANNELS = 16


def load(device, options):
    torch.set_grad_enabled(False)
    config = SimpleNamespace(
        denoising_step_list=[1000, 750, 500, 250],
        timestep_shift=5.0,
        num_frame_per_block=3,
        context_noise=0,
        local_attn_size=options["local_attn_size"],
        height=options["height"],
        width=options["width"],
    )
    return CausalInferencePipeline(config, device=device).to(device)


def stream(pipeline, request, span):
    weight = next(pipeline.generator.parameters())
    place = {"device": weight.device, "dtype": weight.dtype}
    frames = pipeline.num_frame_per_block
    draws = [torch.Generator(weight.device).manual_seed(seed) for seed in request.seeds]
    shape = (frames, CHANNELS, request.height // 8, request.width // 8)

    def noise():
        return torch.stack([torch.randn(shape, generator=draw, **place) for draw in draws])

    with span("text"):
        text = pipeline.text_encoder(text_prompts=request.prompts)
        later = [(frame, pipeline.text_encoder(text_prompts=prompts)) for frame, prompts in request.switches]
    with span("prefix"):
        pipeline._initialize_kv_cache(batch_size=request.batch, **place)
        pipeline._initialize_crossattn_cache(batch_size=request.batch, **place)
        decoders = [None] * request.batch
    latents = 1 + math.ceil((request.frames - 1) / RATIO)
    clean, shown = [], 0
    for index in range(math.ceil(latents / frames)):
        if later and shown >= later[0][0]:
            with span("switch"):
                text = later.pop(0)[1]
                switch(pipeline, clean, text)
        start = index * frames * pipeline.frame_seq_length
        with span(f"chunk[{index}].denoise"):
            block = denoised(pipeline, noise, text, start)
        with span(f"chunk[{index}].clean_pass"):
            call(pipeline, block, text, getattr(pipeline.args, "context_noise", 0), start)
        clean.append(block)
        with span(f"decode[{index}]"):
            video = torch.cat([decoded(pipeline.vae, block, decoders, clip) for clip in range(request.batch)])
        with span("to_host"):
            pixels = ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
            pixels = pixels[:, : request.frames - shown].cpu().contiguous().numpy()
        shown += pixels.shape[1]
        yield pixels


def denoised(pipeline, noise, text, start):
    """A clean block: after each step but the last it is mixed with new noise for the next one."""
    block = noise()
    for number, step in enumerate(pipeline.denoising_step_list):
        if number:
            flat = block.flatten(0, 1)
            times = step * torch.ones(len(flat), device=flat.device)
            block = pipeline.scheduler.add_noise(flat, noise().flatten(0, 1), times).unflatten(0, block.shape[:2])
        _, block = call(pipeline, block, text, step, start)
    return block


def call(pipeline, block, text, step, start):
    return pipeline.generator(
        noisy_image_or_video=block,
        conditional_dict=text,
        timestep=torch.ones(block.shape[:2], device=block.device) * step,
        kv_cache=pipeline.kv_cache1,
        crossattn_cache=pipeline.crossattn_cache,
        current_start=start,
    )


def decoded(vae, block, decoders, clip):
    """Pixels of one clip of the block. The decoder keeps the past of one clip at a time, so those are exchanged."""
    if decoders[clip] is None:
        vae.model.clear_cache()
        decoders[clip] = vae.model._feat_map
    vae.model._feat_map = decoders[clip]
    return vae.decode_to_pixel(block[clip : clip + 1], use_cache=True)


def switch(pipeline, clean, text):
    """LongLive computes the window anew with the new prompt; the others keep it and read the new prompt's keys."""
    if hasattr(pipeline, "_recache_after_switch"):
        latents = torch.cat(clean, 1) if clean else None
        pipeline._recache_after_switch(latents, len(clean) * pipeline.num_frame_per_block, text)
    for cache in pipeline.crossattn_cache:
        cache["is_init"] = False


if __name__ == "__main__":
    harness_stream.serve(load, stream)

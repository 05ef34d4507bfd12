"""A plain pipeline of diffusers as a model: five lines of `stream`. It needs the extra `wan`.

Tiny networks with random weights stand here for `WanPipeline.from_pretrained(...)`. A pipeline gives its whole clip at
once, and rounds the number of frames that it is asked for: the card has the number that really comes.
"""

import hashlib
import math

import numpy as np

from harness.contracts import ModelCard, Options, VideoModel, no_spans
from harness.contracts.registry import models
from harness.errors import ModelFault, OptionError

RATIO = 4  # pixel frames of a latent frame, but for the first


class PipelineOptions(Options):
    num_frames: int = 30
    steps: int = 2
    height: int = 32
    width: int = 48


@models.register("lab/diffusers")
class Pipeline(VideoModel):
    schema = PipelineOptions

    def describe(self):
        options = self.options
        returned = options.num_frames // RATIO * RATIO + 1  # so WanPipeline rounds
        return ModelCard(
            family="wan",
            height=options.height,
            width=options.width,
            frame_rate=16.0,
            frames_per_chunk=returned,
            temporal_ratio=RATIO,
            weights="random",
            details={"frames_asked": options.num_frames, "frames_returned": returned},
        )

    def check_request(self, request):
        super().check_request(request)
        if request.switches:
            raise OptionError("a pipeline cannot switch its prompt", "leave it out of the section (`models:`)")

    def load(self, device):
        import torch
        from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

        torch.manual_seed(0)
        network = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 32, "text_dim": 16}
        parts = {
            "transformer": WanTransformer3DModel(**network, freq_dim=32),
            "vae": AutoencoderKLWan(base_dim=4, num_res_blocks=1, dim_mult=[1, 2, 2, 2]),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        }
        self.pipeline = WanPipeline(tokenizer=None, text_encoder=None, **parts).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def stream(self, request, spans=no_spans):
        asked = math.ceil((request.frames - 1) / RATIO) * RATIO + 1
        with spans("chunk[0].denoise"):
            clips = self.pipeline(num_frames=asked, **self.arguments(request)).frames
        if clips.shape[1] != asked:
            raise ModelFault(f"the pipeline gave {clips.shape[1]} frames for {asked}")
        yield (clips[:, : request.frames] * 255).round().astype(np.uint8)

    def arguments(self, request):
        """What else a pipeline is called with; one with a text encoder takes `prompt=list(request.prompts)`."""
        import torch

        seeds = [int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) for prompt in request.prompts]
        texts = [torch.randn(8, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        options = self.options
        return {
            "prompt_embeds": torch.stack(texts),
            "generator": [torch.Generator().manual_seed(seed) for seed in request.seeds],
            "height": options.height,
            "width": options.width,
            "num_inference_steps": options.steps,
            "guidance_scale": 1.0,
            "output_type": "np",
        }

    def unload(self):
        self.pipeline = None

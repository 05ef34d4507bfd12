"""The full-size models: Wan2.1-T2V-1.3B's transformer under the window policy and sampler of each preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from harness.contracts import PATH_SCHEMA, Agreement, Json, ModelCard, Request
from harness.errors import OptionError, WeightsError, nearest
from videomla_models.adapters.transformer_model import RANDOM, StreamingModel, StreamingOptions
from videomla_models.checkpoints.locate import resolve, weights_path
from videomla_models.checkpoints.lora_config import check_strength, lora_digests, stated_strength
from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig
from videomla_models.spec.published_models import PUBLISHED, Preset
from videomla_models.spec.window import WindowPolicy

if TYPE_CHECKING:
    from videomla_models.network.compiled import CompiledPasses
    from videomla_models.network.transformer import VideoTransformer
    from videomla_models.rollout.codecs import Codec
    from videomla_models.rollout.pipeline import Embed

SPATIAL_RATIO = 8
"""Pixels per latent position along height and width (Wan2.1's VAE)."""

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""Where text encoder and VAE come from unless an option says otherwise."""

TINY = TransformerConfig(
    dim=48,
    heads=2,
    layers=2,
    ffn=64,
    text_width=16,
    text_tokens=8,
    latent=LatentSizes(d_c=16, d_q=24, d_nope=16, d_rope=8, pairs=(2, 1, 1)),
)
"""A network of the same shape that runs anywhere in milliseconds; always with random weights."""

Weights = Annotated[str, weights_path(RANDOM), PATH_SCHEMA]
"""A checkpoint: a path, a Hub id, or `random`."""


class WanOptions(StreamingOptions):
    """Options of the full-size models.

    Attributes:
        weights: a checkpoint (file, folder or Hub id) or `random`. ema: averaged weights or raw ones, where a training
            checkpoint holds both. lora: a low-rank update to merge, as peft, diffusers, ComfyUI and kohya save it.
            lora_alpha: its alpha, where its files do not state it; its rank unless given.
        network: `wan-1.3b`, or `tiny` for trying things out. height, width: pixels, multiples of 16.
        window: another published reading of the preset's window, as in `la7_sink1` (VideoMLA) or
            `la12_sink3_relative` (LongLive, keys rotated at each read, for clips of any length).
        window_frames, sink_frames, counts_sink, counts_current: instead of the preset's, where given.
        text, vae: text encoder and VAE, file, folder or Hub id.
        codec: `wan`, or `preview`: a fixed linear map to colours that costs nothing. Without its own weights, Wan's
            VAE runs at its true size with random ones.
        compile: `blocks` has torch.compile make one block, whose code serves all; `graph` the whole pass. Attention and
            cache stay as they are. The first clip of each shape waits for the compiler.
        steps, first_steps: denoising steps out of 1000 instead of the preset's, noisiest first, and those of the first
            chunk, which are `steps` where none are given or known.
    """

    later: ClassVar[Mapping[str, object]] = {
        **StreamingOptions.later,
        "compile": "none",
        "steps": None,
        "first_steps": None,
    }

    weights: Weights = ""
    ema: bool | None = None
    lora: Weights | None = None
    lora_alpha: float | None = None
    network: Literal["wan-1.3b", "tiny"] = "wan-1.3b"
    height: int = Field(480, gt=0, multiple_of=16)
    width: int = Field(832, gt=0, multiple_of=16)
    window: str = ""
    window_frames: int | None = None
    sink_frames: int | None = None
    counts_sink: bool | None = None
    counts_current: bool | None = None
    text: Weights = WAN
    vae: Weights = WAN
    codec: Literal["wan", "preview"] = "wan"
    compile: Literal["none", "blocks", "graph"] = "none"
    steps: tuple[float, ...] | None = None
    first_steps: tuple[float, ...] | None = None


class WanModel(StreamingModel):
    """A full-size preset; `wan_model` names it."""

    schema: ClassVar[type[WanOptions]] = WanOptions
    temporal_ratio = 4
    preset: ClassVar[Preset]
    passes: CompiledPasses | None = None

    def __init__(self, options: WanOptions) -> None:
        super().__init__(options)
        self.family = self.preset.family  # type: ignore[misc]
        self.licence = self.preset.licence  # type: ignore[misc]
        self.chunk = self.preset.chunk
        if options.window and options.window not in self.preset.readings:
            raise OptionError(
                f"{self.preset.title} has no window {options.window!r}", nearest(options.window, self.preset.readings)
            )

    def describe(self) -> ModelCard:
        """As every model's, and which checkpoint is meant."""
        card, compiled = super().describe(), self.options.compile
        extra: dict[str, Json] = {"checkpoint": self.preset.checkpoint}
        extra |= {name: text for name in ("source", "lacks") if (text := getattr(self.preset, name))}
        return replace(card, details={**card.details, **extra, **({"compile": compiled} if compiled != "none" else {})})

    def encodes(self) -> bool:
        """Wan's VAE does, the preview does not."""
        return bool(self.options.codec == "wan")

    def network_config(self) -> TransformerConfig:
        """The preset's sizes, or tiny ones."""
        network = self.preset.network
        return replace(TINY, attention=network.attention) if self.options.network == "tiny" else network

    def own_policy(self) -> WindowPolicy:
        """The preset's, or the reading that the options choose, with what they change of it.

        Classes of heads are for the preset's own network; a tiny one takes those of its first layers and heads.
        """
        options = self.options
        base = self.preset.readings[options.window] if options.window else self.preset.window
        overrides = {
            "frames": options.window_frames,
            "sink": options.sink_frames,
            "counts_sink": options.counts_sink,
            "counts_current": options.counts_current,
        }
        if options.network == "tiny" and base.head_classes:
            layers, heads = self.network_config().layers, self.network_config().heads
            base = replace(base, head_classes=tuple(row[:heads] for row in base.head_classes[:layers]))
        return replace(base, **{name: value for name, value in overrides.items() if value is not None})

    def sampler_config(self) -> SamplerConfig:
        """The preset's, with the steps that the options give."""
        given = {"steps": self.options.steps, "first_steps": self.options.first_steps}
        return replace(self.preset.sampler, **{name: steps for name, steps in given.items() if steps is not None})

    def pixels(self) -> tuple[int, int]:
        """As the options say."""
        return self.options.height, self.options.width

    def latent_size(self) -> tuple[int, int]:
        """An eighth of the pixels."""
        return self.options.height // SPATIAL_RATIO, self.options.width // SPATIAL_RATIO

    def tiny(self) -> Mapping[str, Json]:
        """The network and pixels that run anywhere in milliseconds."""
        files: dict[str, Json] = {"weights": "", "ema": None, "lora": None, "lora_alpha": None, "text": WAN, "vae": WAN}
        sizes: dict[str, Json] = {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}
        return {**files, **sizes}

    def weights_kind(self) -> Literal["trained", "random", "none"]:
        """Random on request, and whenever the network is tiny; none before weights are chosen."""
        if self.options.network == "tiny" or self.options.weights == RANDOM:
            return "random"
        return "trained" if self.options.weights else "none"

    def _trained(self) -> bool:
        return self.weights_kind() == "trained"

    def weight_digests(self) -> Mapping[str, str]:
        """Of the checkpoint, its LoRA, the text encoder and the VAE."""
        if not self._trained():
            return {}
        digests = resolve(self.options.weights).digests()
        if self.options.lora:
            digests |= {f"lora/{name}": value for name, value in lora_digests(resolve(self.options.lora)).items()}
        parts = {"text_encoder": self.options.text, "vae": self.options.vae}
        for component, source in parts.items():
            for name, value in resolve(source, component=component).digests().items():
                digests[f"{component}/{name}"] = value
        return digests

    def identity(self, device: str) -> Mapping[str, Json]:
        """As every model's, and the strength that a LoRA's files state; refuses weights that nobody has chosen."""
        self._check_chosen()
        check_strength(self.options.lora, self.options.lora_alpha)
        stated = stated_strength(resolve(self.options.lora)) if self._trained() and self.options.lora else None
        return {**super().identity(device), **({"lora": stated.identity()} if stated else {})}

    def _check_chosen(self) -> None:
        if self.weights_kind() == "none":
            raise WeightsError(
                f"{self.preset.title} needs weights ({self.preset.checkpoint or 'none are published'})",
                "set the option weights to a file, folder or Hub id, or to random for speed and memory alone",
            )

    def batch_bytes(self) -> tuple[int, int] | None:
        """Only without VAE and text encoder, whose memory nothing here counts."""
        return None if self.encodes() or self._trained() else super().batch_bytes()

    def load(self, device: str) -> None:
        """As every model, and compiled where the options ask for it."""
        super().load(device)
        if self.options.compile != "none":
            from videomla_models.network.compiled import CompiledPasses

            self.passes = CompiledPasses(self._loaded().network, self.options.compile)

    def unload(self) -> None:
        """Free network, codec and text encoder, and what was compiled."""
        self.passes = None
        super().unload()

    def agreement(self, request: Request) -> Agreement | None:
        """As every model's, uncompiled, and of compiled passes against uncompiled ones."""
        if self.passes is None:
            return super().agreement(request)
        import torch

        from videomla_models.network.compiled import PASS_LIMIT

        with self.passes.off():
            attention = super().agreement(request)
        with self.passes.compared() as errors:
            for _ in self.stream(request):
                continue
        assert attention is not None
        error = float(torch.stack(errors).max())
        details: dict[str, Json] = {"compiled_error": error, "compiled_limit": PASS_LIMIT * attention.limit}
        return replace(
            attention,
            # NaN stays NaN, which does not agree.
            error=max(error / PASS_LIMIT, attention.error) if error == error else error,
            compared=attention.compared + len(errors),
            details={**attention.details, **details},
        )

    def load_network(self, device: str) -> VideoTransformer:
        """From the checkpoint in any published layout, or at random."""
        from videomla_models.checkpoints.load import open_checkpoint
        from videomla_models.network.build import build

        self._check_chosen()
        options, config = self.options, self.network_config()
        if not self._trained():
            return build(config, None, options.dtype, device)
        checkpoint = open_checkpoint(
            options.weights, "any", options.ema, lora=options.lora, lora_alpha=options.lora_alpha
        )
        return build(config, checkpoint, options.dtype, device)

    def load_codec(self, device: str) -> Codec:
        """Wan's VAE, with random weights beside a random network, or the preview."""
        import torch

        from videomla_models.rollout.codecs import PreviewCodec

        if self.options.codec == "preview":
            return PreviewCodec(self.network_config().in_channels, SPATIAL_RATIO, self.temporal_ratio)
        from videomla_models.rollout.wan_vae import load_wan_codec, random_wan_codec

        dtype: torch.dtype = getattr(torch, self.options.dtype)
        if not self._trained():
            return random_wan_codec(dtype, device)
        return load_wan_codec(self.options.vae, dtype, device)

    def load_text(self, device: str) -> Embed:
        """UMT5-XXL, or random embeddings beside a random network."""
        import torch

        config = self.network_config()
        if not self._trained():
            from videomla_models.network.build import random_embeddings

            return random_embeddings(config.text_tokens, config.text_width)
        from videomla_models.rollout.text_encoder import TextEncoder

        dtype: torch.dtype = getattr(torch, self.options.dtype)
        return TextEncoder(self.options.text, tokens=config.text_tokens, dtype=dtype, device=device)


class LatentWanOptions(WanOptions):
    """Widths that the paper varies (Table 5), each the preset's unless given.

    Attributes:
        d_c: cached content latent. d_nope, d_rope: content and positional channels of a head. Rotary pairs are shared
            out as in Wan: a third each to height and width, the rest to time; 32 channels give the paper's (6, 5, 5).
    """

    d_c: int | None = Field(None, ge=1)
    d_nope: int | None = Field(None, ge=1)
    d_rope: int | None = Field(None, ge=6, multiple_of=2)


class LatentWanModel(WanModel):
    """A preset with latent attention, whose widths are options."""

    schema = LatentWanOptions

    def __init__(self, options: LatentWanOptions) -> None:
        super().__init__(options)
        head = super().network_config().head_dim
        if options.d_rope is not None and options.d_rope > head:
            raise OptionError(f"d_rope is {options.d_rope}, more than the {head} channels of a head")

    def tiny(self) -> Mapping[str, Json]:
        """With the widths of the tiny network, whose heads have no room for others."""
        return {**super().tiny(), "d_c": None, "d_nope": None, "d_rope": None}

    def network_config(self) -> TransformerConfig:
        """With the widths that the options give."""
        config = super().network_config()
        options, base = self.options, config.latent
        latent = replace(base, d_c=options.d_c or base.d_c, d_nope=options.d_nope or base.d_nope)
        if options.d_rope is not None:
            latent = replace(latent, d_rope=options.d_rope)
            third = latent.d_rope // 2 // 3
            latent = replace(latent, pairs=(latent.d_rope // 2 - 2 * third, third, third))
        return replace(config, latent=latent)


@cache
def wan_model(name: str) -> type[WanModel]:
    """The class of the preset `name` of `PUBLISHED`."""
    preset = PUBLISHED[name]
    base = LatentWanModel if preset.network.attention == "latent" else WanModel
    body = {"__module__": __name__, "__doc__": preset.about, "preset": preset}
    if preset.version:
        body["version"] = preset.version
    return type(preset.title, (base,), body)


def family() -> dict[str, type[WanModel]]:
    """The class of every preset, by its name in suites."""
    return {name: wan_model(name) for name in PUBLISHED}

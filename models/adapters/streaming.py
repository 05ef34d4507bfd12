"""The adapter that all of this project's models share: a transformer, a window policy, a sampler, text and pixels.

A preset says what differs. Importing this module imports no torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.contracts import Agreement, Frames, Json, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.errors import ModelFault, OptionError
from models import cost
from models.config import TransformerConfig
from models.kernels.forms import Form, choose, preferred_backend
from models.sampler_config import SamplerConfig
from models.window import WindowPolicy

if TYPE_CHECKING:
    from models.codec import Codec
    from models.pipeline import Embed, Pipeline
    from models.transformer import VideoTransformer

RANDOM = "random"
"""Value of `weights` that stands for random ones: right for speed and memory, meaningless for quality."""

Dtype = Literal["float32", "bfloat16", "float16"]
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class StreamingOptions(Options):
    """Options of every model of this project.

    Attributes:
        dtype: of weights, latents and cache.
        attention: form of latent attention; `auto` is the cheaper one for the chunk, window and device, `reference`
            the slow float64 one. Ignored by others.
    """

    dtype: Dtype = "bfloat16"
    attention: Literal["auto", "expanded", "absorbed", "reference"] = "auto"


class StreamingModel(VideoModel):
    """A model of this project. Subclasses say sizes, window, sampler, and where text and pixels come from."""

    version = "2"
    family: ClassVar[str]
    licence: ClassVar[str] = ""
    frame_rate: ClassVar[float] = 16.0
    chunk: int
    temporal_ratio: ClassVar[int] = 1
    pipeline: Pipeline | None = None

    @abstractmethod
    def network_config(self) -> TransformerConfig:
        """Sizes of the transformer."""

    @abstractmethod
    def window_policy(self) -> WindowPolicy:
        """What attention sees."""

    @abstractmethod
    def sampler_config(self) -> SamplerConfig:
        """Denoising steps."""

    @abstractmethod
    def pixels(self) -> tuple[int, int]:
        """Height and width of a frame."""

    @abstractmethod
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a latent frame."""

    @abstractmethod
    def weight_digests(self) -> Mapping[str, str]:
        """SHA-256 by file; empty for random weights."""

    @abstractmethod
    def weights_kind(self) -> Literal["trained", "random", "none"]:
        """Whether the weights mean anything."""

    # -------------------------------------------------------------------------------- torch-free answers

    def form(self, device: str = "cpu") -> str:
        """The form of latent attention that runs on `device`; `none` for other kinds of attention."""
        return self.attention_form(device).name if self.network_config().attention == "latent" else "none"

    def attention_form(self, device: str) -> Form:
        """Form, engine and backend of latent attention for the steady state's chunk and window."""
        config, work = self.network_config(), self.workload()
        return choose(
            self.options.attention,
            device,
            self.options.dtype,
            batch=1,
            lq=work.chunk * work.tokens,
            lk=work.window * work.tokens,
            heads=config.heads,
            sizes=config.latent,
            d_v=config.head_dim,
        )

    def workload(self) -> cost.Workload:
        """Geometry of the steady state."""
        height, width = self.latent_size()
        return cost.workload(
            self.network_config(), self.window_policy(), self.chunk, self.sampler_config(), height, width
        )

    def describe(self) -> ModelCard:
        """The model's card, by arithmetic on its sizes."""
        config, policy, sampler, work = (
            self.network_config(),
            self.window_policy(),
            self.sampler_config(),
            self.workload(),
        )
        height, width = self.pixels()
        dtype, guided = self.options.dtype, sampler.guidance != 1
        element = ELEMENT_BYTES[dtype]
        transient = cost.transient_bytes(config, policy, work, self.form(), element, guided)
        return ModelCard(
            family=self.family,
            height=height,
            width=width,
            frame_rate=self.frame_rate,
            frames_per_chunk=self.chunk * self.temporal_ratio,
            temporal_ratio=self.temporal_ratio,
            parameters=cost.parameters(config),
            layers=config.layers,
            window_frames=work.window,
            sink_frames=policy.sink,
            tokens_per_frame=work.tokens,
            cached_scalars=config.cached_scalars,
            cache_bytes=cost.cache_bytes(config, work, element, guided),
            transient_bytes=sum(transient.values()),
            forwards_per_chunk=work.forwards,
            weights=self.weights_kind(),
            weight_digests=self.weight_digests(),
            licence=self.licence,
            details={
                "cache_dtype": dtype,
                "chunk_latent_frames": self.chunk,
                "denoising_steps": [float(step) for step in sampler.steps],
                "shift": sampler.shift,
                "guidance": sampler.guidance,
                "attention_form": self.form(),
                "window": _window(policy),
                "kept_beside_cache_bytes": dict(cost.kept_bytes(config, policy, work, sampler, element)),
                "transient": dict(transient),
                "flops_per_chunk": dict(cost.flops_per_chunk(config, policy, work, len(sampler.steps), self.form())),
            },
        )

    def identity(self, device: str) -> Mapping[str, Json]:
        """Weight digests, and the attention that runs: its form and, on CUDA, the engine and backend as well."""
        kind = self.network_config().attention
        form: Json = self.form(device)
        if device.startswith("cuda") and kind == "latent":
            form = self.attention_form(device).identity()
        elif device.startswith("cuda") and kind == "dense":
            form = {"form": "dense", "backend_asked": preferred_backend(device, self.options.dtype)}
        return {"weights": dict(self.weight_digests()), "form": form}

    # ------------------------------------------------------------------------------------------- running

    @abstractmethod
    def load_network(self, device: str) -> VideoTransformer:
        """The transformer with its weights, on `device`, in the options' dtype."""

    @abstractmethod
    def load_codec(self, device: str) -> Codec:
        """What decodes latents."""

    @abstractmethod
    def load_text(self, device: str) -> Embed:
        """What embeds prompts."""

    def load(self, device: str) -> None:
        """Bring network, codec and text encoder to `device`."""
        import torch

        from models.kernels.dispatch import Attention
        from models.pipeline import Pipeline

        network = self.load_network(device).eval().requires_grad_(False)
        if self.network_config().attention == "latent":
            form = self.attention_form(device)
            # The identity of the unit says that a kernel runs, so a late fall-back would make its record wrong.
            network.use_form(Attention(form, strict=form.engine == "triton"))
        self.pipeline = Pipeline(
            network=network,
            codec=self.load_codec(device),
            embed=self.load_text(device),
            policy=self.window_policy(),
            sampler=self.sampler_config(),
            chunk=self.chunk,
            latent_size=self.latent_size(),
            device=torch.device(device),
        )

    def unload(self) -> None:
        """Free network, codec and text encoder."""
        self.pipeline = None

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Chunks of pixels as they are decoded; the last one is cut to the frames asked for."""
        return self._loaded().stream(request, self.latent_frames(request.frames), spans)

    def networks(self) -> list[VideoTransformer]:
        """Every network that is loaded."""
        return [self._loaded().network]

    def _loaded(self) -> Pipeline:
        if self.pipeline is None:
            raise ModelFault("the model is not loaded", "call load() first")
        return self.pipeline

    def agreement(self, request: Request) -> Agreement | None:
        """Each layer's attention, to the prompt as well, against float64; None for linear attention, which has none."""
        if self.network_config().attention == "linear":
            return None
        from models.attention.agreement import hold

        pipeline = self._loaded()
        details: dict[str, Json] = {"form": "dense"}
        if self.network_config().attention == "latent":
            form = self.attention_form(str(pipeline.device))
            details = {**form.identity(), "basis": form.basis, "fallback": form.fallback}
        with hold(self.networks(), self.options.dtype) as held:
            for _ in self.stream(request):
                continue
        return held.agreement(details)

    def latent_frames(self, frames: int) -> int:
        """Latent frames, in whole chunks, that hold `frames` pixel frames; a rolling window must fill once."""
        if frames < 1:
            raise OptionError(f"{frames} frames", "ask for at least 1")
        needed = 1 + -(-(frames - 1) // self.temporal_ratio)
        chunks = -(-needed // self.chunk)
        if self.window_policy().schedule == "rolling":
            chunks = max(chunks, len(self.sampler_config().steps))
        return chunks * self.chunk


def _window(policy: WindowPolicy) -> dict[str, Json]:
    return {name: getattr(policy, name) for name in policy.__dataclass_fields__}

"""The adapter that all of this project's models share: a transformer, a window policy, a sampler, text and pixels.

A preset says what differs. Importing this module imports no torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.contracts import Agreement, Frames, Json, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.errors import ModelFault, OptionError
from videomla_models.ops.choice import Form, choose, preferred_backend
from videomla_models.spec import cost
from videomla_models.spec.config import SamplerConfig, TransformerConfig, check_sampler
from videomla_models.spec.latents import check_latents
from videomla_models.spec.storage import CacheOptions, Storage
from videomla_models.spec.timeline import Timeline
from videomla_models.spec.window import WindowPolicy, changed, check_fit, check_patches, check_rolling

if TYPE_CHECKING:
    from videomla_models.network.transformer import VideoTransformer
    from videomla_models.rollout.codecs import Codec
    from videomla_models.rollout.pipeline import Embed, Pipeline

RANDOM = "random"
"""Value of `weights` that stands for random ones: right for speed and memory, meaningless for quality."""

Dtype = Literal["float32", "bfloat16", "float16"]


class StreamingOptions(Options):
    """Options of every model of this project.

    Attributes:
        dtype: of weights, latents and cache.
        attention: form of latent attention; `auto` is the cheaper one for the chunk, window and device, `reference`
            the slow float64 one. Ignored by others.
        policy: fields of the window policy that are to differ from the model's own; docs/cache-policies.md lists them.
        cache: how keys, values and latents are stored between chunks.
        weight_noise: share of itself by which every weight is off, as the standard deviation of a normal number: an arm
            that a metric must call worse. noise_seed: of those numbers.
        at_once: requests of a batch that pass through the network together, a chunk of some after a chunk of others; 0
            for all. What a pass makes for itself is then of so many, however large the batch.
    """

    later: ClassVar[Mapping[str, object]] = {
        "cache": CacheOptions(),
        "policy": {},
        "weight_noise": 0.0,
        "noise_seed": 0,
        "at_once": 0,
    }
    """Options that keys were given before there were, with their defaults, at which keys go without them."""

    dtype: Dtype = "bfloat16"
    attention: Literal["auto", "expanded", "absorbed", "reference"] = "auto"
    cache: CacheOptions = CacheOptions()
    policy: dict[str, Any] = {}  # noqa: RUF012 (frozen)
    weight_noise: float = Field(0.0, ge=0.0, le=10.0)
    noise_seed: int = Field(0, ge=0, lt=2**63)
    at_once: int = Field(0, ge=0)

    @model_serializer(mode="wrap")
    def _as_keys_have_it(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = fields(self)
        return {name: value for name, value in values.items() if self.later.get(name, ...) != getattr(self, name)}


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
    def own_policy(self) -> WindowPolicy:
        """What attention sees unless the options change it."""

    def window_policy(self) -> WindowPolicy:
        """What attention sees."""
        cache: CacheOptions = self.options.cache
        return cache.policy(changed(self.own_policy(), self.options.policy))

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

    def storage(self) -> Storage:
        """How the cache is stored. Raises `OptionError` where the options do not fit network or window."""
        options: CacheOptions = self.options.cache
        return options.storage(self.network_config(), self.window_policy(), self.chunk)

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
            codes=self.storage().content.readable and self.window_policy().schedule != "rolling",
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
        element, storage = cost.ELEMENT_BYTES[dtype], self.storage()
        transient = cost.transient_bytes(config, policy, work, self.form(), element, guided, storage)
        stored: dict[str, Json] = {}
        if self.options.weight_noise:
            stored["weight_noise"] = self.options.weight_noise
        if storage.coded:
            bits = storage.effective_bits(config, work.tokens, work.window + work.spare, element)
            stored["cache"] = {**self.options.cache.model_dump(mode="json"), "effective_bits": bits}
        whole = cost.cache_bytes(config, replace(work, head_frames=0), element, guided, storage)
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
            cache_bytes=cost.cache_bytes(config, work, element, guided, storage),
            transient_bytes=sum(transient.values()),
            forwards_per_chunk=work.forwards,
            weights=self.weights_kind(),
            weight_digests=self.weight_digests(),
            licence=self.licence,
            details={
                "cache_dtype": dtype,
                **stored,
                "chunk_latent_frames": self.chunk,
                "denoising_steps": [float(step) for step in sampler.steps],
                "shift": sampler.shift,
                "guidance": sampler.guidance,
                "attention_form": self.form(),
                "window": policy.said(),
                **({"first_chunk_steps": [float(step) for step in sampler.first_steps]} if sampler.first_steps else {}),
                **({"spare_frames": work.spare} if work.spare else {}),
                **({"cache_bytes_before_classes": whole} if policy.by_head and policy.head_from else {}),
                "kept_beside_cache_bytes": dict(cost.kept_bytes(config, policy, work, sampler, element)),
                "transient": dict(transient),
                "flops_per_chunk": dict(cost.flops_per_chunk(config, policy, work, len(sampler.steps), self.form())),
            },
        )

    def batch_bytes(self) -> tuple[int, int] | None:
        """Twice what a clip keeps and caches, as that is copied in places; activations of a window; pixels."""
        card, config, work = self.describe(), self.network_config(), self.workload()
        kept = cost.kept_bytes(
            config, self.window_policy(), work, self.sampler_config(), cost.ELEMENT_BYTES[self.options.dtype]
        )
        state = (card.cache_bytes or 0) + sum(kept.values())
        rows = work.window * work.tokens * (2 if self.sampler_config().guidance != 1 else 1)
        activations = rows * (config.ffn + 10 * config.dim) * cost.ELEMENT_BYTES[self.options.dtype]
        activations += 2 * (card.transient_bytes or 0)
        pixels = 16 * 3 * card.frames_per_chunk * card.height * card.width
        weights = cost.parameters(config) * cost.ELEMENT_BYTES[self.options.dtype]
        if self.options.at_once:
            return weights + self.options.at_once * activations, 2 * state + pixels
        return weights, 2 * state + activations + pixels

    def identity(self, device: str) -> Mapping[str, Json]:
        """Weight digests, and the attention that runs: its form and, on CUDA, the engine and backend as well."""
        kind = self.network_config().attention
        form: Json = self.form(device)
        if device.startswith("cuda") and kind == "latent":
            form = self.attention_form(device).identity()
        elif device.startswith("cuda") and kind == "dense":
            form = {"form": "dense", "backend_asked": preferred_backend(device, self.options.dtype)}
        return {"weights": dict(self.weight_digests()), "form": form}

    def encodes(self) -> bool:
        """Whether the codec turns pixels into latents, as a prefix needs."""
        return True

    def timeline(self, request: Request) -> Timeline:
        """Where the chunks of a request stand."""
        policy = self.window_policy()
        latents = [1 + (prefix.frames - 1) // self.temporal_ratio for prefix in request.prefixes]
        rolling, restart = (policy.schedule == kind for kind in ("rolling", "restart"))
        return Timeline(
            self.chunk,
            self.temporal_ratio,
            prefix=max(latents, default=0),
            least=len(self.sampler_config().steps) if rolling else 1,
            window=policy.capacity(self.chunk) if restart else 0,
        )

    def switch_frames(self, request: Request) -> Sequence[int | None]:
        """The first frame of the first chunk at or after each frame asked for."""
        return self.timeline(request).switched([switch.frame for switch in request.switches], request.frames)

    def check_request(self, request: Request) -> None:
        """Refuse what schedule, codec or rotary table cannot do."""
        if request.frames < 1:
            raise OptionError(f"{request.frames} frames", "ask for at least 1")
        policy, config = self.window_policy(), self.network_config()
        policy.capacity(self.chunk)
        self.storage()
        check_fit(policy, config)
        check_patches(policy, self.workload().tokens)
        check_sampler(self.sampler_config())
        if policy.bank and policy.bank_by == "prompt" and not all(map(str.strip, request.prompts)):
            raise OptionError("a bank by prompt needs a prompt, and one is empty", "set policy.bank_by to similarity")
        if policy.head_current and len(request.prompts) > 1:
            raise OptionError("classes of heads are found for one clip at a time", "set batch to 1")
        if policy.schedule == "rolling":
            if request.switches or request.prefixes:
                what = "switch" if request.switches else "prefix"
                raise OptionError(f"its rolling schedule takes no {what}", "leave it out of the section (`models:`)")
            check_rolling(policy, self.chunk, self.sampler_config(), config.attention)
        self._check_prefixes(request, policy)
        if len(self.timeline(request).legs(request.frames)) > 1 and not self.encodes():
            raise OptionError(
                f"{request.frames} frames need more than one window, and its preview codec cannot encode a restart",
                "choose codec: wan, or ask for fewer frames",
            )
        _check_positions(self.timeline(request), policy, config, request.frames, self.latent_size())

    def check_latents(self, shape: Sequence[int]) -> None:
        """Refuse latents of a file, [batch, channel, frame, height, width], that the model cannot be run behind."""
        check_latents(shape, self.network_config(), self.window_policy(), self.chunk)

    def _check_prefixes(self, request: Request, policy: WindowPolicy) -> None:
        if not request.prefixes:
            return
        lengths = sorted({prefix.frames for prefix in request.prefixes})
        if not self.encodes():
            raise OptionError("its preview codec cannot encode a prefix", "choose codec: wan")
        if len(lengths) > 1:
            raise OptionError(f"prefixes of {lengths[0]} and {lengths[-1]} frames in one batch", "set batch to 1")
        latents = self.timeline(request).prefix
        reasons = {
            "restarts on whole chunks": policy.schedule == "restart",
            "averages whole chunks into its sink": policy.sink_kind == "average",
            "chooses among whole chunks": policy.select > 0 and policy.select_by == "chunk",
        }
        why = next((reason for reason, holds in reasons.items() if holds), "")
        if why and latents % self.chunk:
            first = 1 + self.temporal_ratio * (self.chunk - 1)
            raise OptionError(
                f"it {why}, and a prefix of {lengths[0]} frames is {latents} latent ones",
                f"give a video of {first} frames, of {first + self.chunk * self.temporal_ratio}, and so on",
            )
        if policy.schedule == "restart" and latents + self.chunk >= policy.capacity(self.chunk):
            raise OptionError(
                f"a prefix of {latents} latent frames leaves no room in its window of {policy.capacity(self.chunk)}",
                "give a shorter one",
            )

    # ------------------------------------------------------------------------------------------- running

    @abstractmethod
    def load_network(self, device: str) -> VideoTransformer:
        """The transformer with its weights, on `device`, in the options' dtype."""

    def to_run(self, network: VideoTransformer) -> VideoTransformer:
        """A transformer that was loaded, without gradients and with the noise of the options on its weights."""
        from videomla_models.network.build import disturb

        if self.options.weight_noise:
            disturb(network, self.options.weight_noise, self.options.noise_seed)
        return network.eval().requires_grad_(False)

    @abstractmethod
    def load_codec(self, device: str) -> Codec:
        """What decodes latents."""

    @abstractmethod
    def load_text(self, device: str) -> Embed:
        """What embeds prompts."""

    def load(self, device: str) -> None:
        """Bring network, codec and text encoder to `device`."""
        import torch

        from videomla_models.ops.latent import Attention
        from videomla_models.rollout.pipeline import Pipeline

        network = self.to_run(self.load_network(device))
        storage = self.storage()
        if self.network_config().attention == "latent":
            form = self.attention_form(device)
            # The identity of the unit says that a kernel runs, so a late fall-back would make its record wrong.
            network.use_form(Attention(form, strict=form.engine == "triton"))
            storage = replace(storage, in_kernel=form.codes)
        self.pipeline = Pipeline(
            network=network,
            codec=self.load_codec(device),
            embed=self.load_text(device),
            policy=self.window_policy(),
            sampler=self.sampler_config(),
            chunk=self.chunk,
            latent_size=self.latent_size(),
            device=torch.device(device),
            storage=storage,
            at_once=self.options.at_once,
        )

    def unload(self) -> None:
        """Free network, codec and text encoder."""
        self.pipeline = None

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Chunks of pixels as they are decoded; the last one is cut to the frames asked for."""
        return self._loaded().stream(request, self.timeline(request), spans)

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
        from videomla_models.network.attention.agreement import hold

        pipeline = self._loaded()
        details: dict[str, Json] = {"form": "dense"}
        if self.network_config().attention == "latent":
            form = self.attention_form(str(pipeline.device))
            details = {**form.identity(), "basis": form.basis, "fallback": form.fallback}
        with hold(self.networks(), self.options.dtype) as comparison:
            for _ in self.stream(request):
                continue
        return comparison.agreement(details)


def _check_positions(
    timeline: Timeline, policy: WindowPolicy, config: TransformerConfig, frames: int, size: tuple[int, int]
) -> None:
    """Refuse a clip or a frame with positions beyond the rotary table."""
    table = config.rope_positions
    for side, length, patch in zip(("height", "width"), size, config.patch[1:], strict=True):
        if length // patch > table:
            raise OptionError(f"{side} takes {length // patch} positions; its rope table has {table}", f"lower {side}")
    if policy.positions == "relative":
        return
    last = max(leg.prefix + leg.chunks * timeline.chunk for leg in timeline.legs(frames))
    if last > table:
        most = timeline.pixels(table - (table - timeline.prefix) % timeline.chunk) - timeline.pixels(timeline.prefix)
        raise OptionError(
            f"{frames} frames take {last} latent frames, and it counts them absolutely in a rope table of {table}",
            f"ask for at most {most} frames, or leave it out of the section (`models:`)",
        )

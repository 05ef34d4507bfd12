"""Checkpoints that `harness train` wrote, as a model: sizes, window and denoising steps come from their headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from harness.contracts import FilePath, Frames, Json, ModelCard, Request, Spans, no_spans
from harness.errors import OptionError, WeightsError
from videomla_models.adapters.small_world import SmallWorldModel
from videomla_models.adapters.transformer_model import Dtype, StreamingOptions
from videomla_models.checkpoints.locate import resolve
from videomla_models.small_world.presets import World
from videomla_models.spec.config import SamplerConfig, TransformerConfig, evenly_spaced
from videomla_models.spec.window import WindowPolicy

if TYPE_CHECKING:
    from videomla_models.network.transformer import VideoTransformer
    from videomla_models.rollout.pipeline import Pipeline
    from videomla_models.training.header import Header


SEED = "{seed}"


class TrainedOptions(StreamingOptions):
    """Options of trained checkpoints.

    Attributes:
        checkpoints: one file, or one for each training seed: clip seed s is made by number s modulo their count. A
            name that holds `{seed}` stands for one file for each of `training_seeds`.
        training_seeds: what `{seed}` in a checkpoint's name stands for.
        step: of the last stage, where the training kept its weights; the end of the training unless given.
        steps: denoising steps per chunk, evenly spaced; those of the training's last stage unless given, and 8
            after teacher forcing alone. first_steps: those of the first chunk, where others.
        guidance: classifier-free guidance scale; 1 after distillation, 2 after teacher forcing unless given.
    """

    later: ClassVar[Mapping[str, object]] = {**StreamingOptions.later, "first_steps": None}

    dtype: Dtype = "float32"
    checkpoints: tuple[FilePath, ...] = Field(min_length=1)
    training_seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    step: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1, le=1000)
    first_steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=1.0)


class Trained(SmallWorldModel):
    """A network of a small world, of any size; several checkpoints differ in their training seeds alone."""

    schema = TrainedOptions
    unkeyed = ("checkpoints", "training_seeds", "step")

    @cached_property
    def files(self) -> list[Path]:
        """The checkpoints, one a training seed. Raises `WeightsError` for a path that names no file."""
        options: TrainedOptions = self.options
        names = [
            name.replace(SEED, str(seed))
            for name in options.checkpoints
            for seed in (options.training_seeds if SEED in name else (0,))
        ]
        suffix = f"-{options.step}" if options.step else ""
        paths = [Path(name) for name in names]
        for path in paths:
            if not path.name:
                raise WeightsError(f"checkpoints: {path} names no file", "name one that `harness train` wrote")
        return [path.with_stem(path.stem + suffix) for path in paths]

    @cached_property
    def headers(self) -> list[Header]:
        """What each checkpoint says of itself. Raises `WeightsError` where they do not belong together."""
        from videomla_models.training.header import read_header

        headers = [read_header(path) for path in self.files]
        first = headers[0]
        for name, header in zip(self.files, headers, strict=True):
            alike = header.config == first.config and header.chain.window == first.chain.window
            alike = alike and header.chain.data.world == first.chain.data.world
            if not alike or header.stage.stage != first.stage.stage:
                raise WeightsError(
                    f"{name} has other sizes, another window or another stage than {self.files[0]}",
                    "give checkpoints that differ in their seed alone",
                )
        return headers

    @property
    def world(self) -> World:  # type: ignore[override]
        """Whose captions it was trained on."""
        return self.headers[0].chain.data.world

    @property
    def chunk(self) -> int:  # type: ignore[override]
        """Latent frames per chunk, as in training."""
        return self.headers[0].chain.chunk

    def network_config(self) -> TransformerConfig:
        """From the header."""
        return self.headers[0].config

    def own_policy(self) -> WindowPolicy:
        """The window of training."""
        return self.headers[0].chain.policy()

    def sampler_config(self) -> SamplerConfig:
        """The last stage's denoising steps and shift."""
        stage = self.headers[0].stage
        own = getattr(stage, "denoising", None)
        steps = evenly_spaced(self.options.steps or 8) if self.options.steps or own is None else own
        guidance = self.options.guidance or (2.0 if own is None else 1.0)
        first = evenly_spaced(self.options.first_steps) if self.options.first_steps else ()
        return SamplerConfig(steps, stage.shift, guidance=guidance, prediction="clean", first_steps=first)

    @cached_property
    def _digests(self) -> list[str]:
        return [next(iter(resolve(path).digests().values())) for path in self.files]

    def weight_digests(self) -> Mapping[str, str]:
        """By place in `checkpoints`, since the files of several seeds may share their names."""
        return {f"{place}": digest for place, digest in enumerate(self._digests)}

    def weights_kind(self) -> Literal["trained", "random", "none"]:
        """Always trained."""
        return "trained"

    def describe(self) -> ModelCard:
        """As every model's, with the budget of each stage and how often it updated the generator."""
        card = super().describe()
        stages: list[Json] = [
            {
                "stage": stage.stage,
                "steps": stage.steps,
                "rate": stage.rate,
                "generator_updates": getattr(stage, "generator_updates", stage.steps),
            }
            for stage in self.headers[0].chain.stages
        ]
        return replace(card, details={**card.details, "stages": stages})

    def identity(self, device: str) -> Mapping[str, Json]:
        """Every checkpoint's digest in order, the form of attention, and the denoising steps of the header."""
        sampler = self.sampler_config()
        return {
            "form": self.form(),
            "weights": list(self._digests),
            "steps": list(sampler.steps),
            "guidance": sampler.guidance,
        }

    def load_network(self, device: str) -> VideoTransformer:
        """From the first checkpoint."""
        return self._network(0, device)

    def _network(self, place: int, device: str) -> VideoTransformer:
        from videomla_models.network.build import build

        return build(self.network_config(), self.files[place], self.options.dtype, device)

    def load(self, device: str) -> None:
        """Every checkpoint, each in a pipeline of its own."""
        super().load(device)
        assert self.pipeline is not None
        self.pipelines: list[Pipeline] = [self.pipeline]
        for place in range(1, len(self.files)):
            network = self.to_run(self._network(place, device))
            network.use_form("absorbed" if self.form() == "absorbed" else "expanded")
            self.pipelines.append(replace(self.pipeline, network=network))

    def networks(self) -> list[VideoTransformer]:
        """Of every checkpoint, since the seeds of a request choose among them."""
        return [pipeline.network for pipeline in self.pipelines]

    def unload(self) -> None:
        """Free all networks."""
        super().unload()
        self.pipelines = []

    def batch_group(self, prompt: str, seed: int) -> Json:
        """Number of the checkpoint that the seed chooses."""
        return seed % len(self.files)

    def check_request(self, request: Request) -> None:
        """As every model's; the seeds of a batch must choose one checkpoint."""
        super().check_request(request)
        if len({self.batch_group("", seed) for seed in request.seeds}) > 1:
            raise OptionError(
                "one batch asks for clips of several training seeds", "use seeds that agree modulo their number"
            )

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Chunks from the checkpoint that the seeds of the request choose."""
        self.check_request(request)
        if self.pipeline is not None:
            self.pipeline = self.pipelines[request.seeds[0] % len(self.files)]
        return super().stream(request, spans)

"""What a training can be told, as checked data: sizes, window, start, and a chain of stages. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.contracts import FilePath, Options
from harness.errors import OptionError
from harness.system.digests import digest, file_sha256
from videomla_models.small_world.marked import KINDS, Kind
from videomla_models.small_world.presets import PATCH, World, text_width
from videomla_models.small_world.words import TEXT_LENGTH
from videomla_models.spec.config import LatentSizes, TransformerConfig
from videomla_models.spec.window import WindowPolicy

TRAINING_VERSION = 2
"""Part of every stage's key; raised with every change that gives the same options other weights."""

STAGE_VERSIONS = {"distribution_matching": 2}
"""Raised instead where a change touches one kind of stage alone; 1 where none is given.

2: gradients that stay in the chunk, and noise levels that are clamped after the shift.
"""

COMPILED_CONSISTENCY = 2
"""Version of a compiled consistency stage with latent attention, or with a teacher of its own, which may have it.

2: queries are rotated where no gradient is recorded, too. Before, their positional channels were not.
"""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
LevelsPer = Literal["chunk", "clip"]
Steps = Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=1)]
FOUR_STEPS = (1000.0, 750.0, 500.0, 250.0)


class LatentOptions(Options):
    """Widths as in `videomla_models.spec.config.LatentSizes`.

    Attributes:
        d_c: cached content latent. d_q: query latent. d_nope, d_rope: content and positional channels of a head.
        pairs: rotary pairs for time, height and width.
    """

    d_c: Count = 24
    d_q: Count = 108
    d_nope: Count = 24
    d_rope: Count = 24
    pairs: tuple[int, int, int] = (4, 4, 4)


class NetworkOptions(Options):
    """Sizes as in `TransformerConfig`; what the data fix (channels, text) is not asked for.

    Attributes:
        dim: width of the blocks. heads: of attention. layers: blocks. ffn: width of a block's feed-forward part.
        rope_theta: base of the rotary positions. attention: keys and values of every head, one latent, or a state of
            constant size (`linear`), which sees all earlier chunks and wants absolute positions.
        latent: widths of latent attention.
    """

    dim: Count = 144
    heads: Count = 3
    layers: Count = 4
    ffn: Count = 432
    rope_theta: Positive = 64.0
    attention: Literal["dense", "latent", "linear"] = "dense"
    latent: LatentOptions = LatentOptions()


class WindowOptions(Options):
    """The window of training and deployment, as in `videomla_models.spec.window.WindowPolicy`.

    Attributes:
        frames: size of the window, sink and current chunk included. sink: first frames that are never evicted.
        rotation: keys are rotated at `write`, or kept unrotated and rotated at each `read`.
        positions: `absolute` frame index, or `relative` to the window.
    """

    frames: int = 6
    sink: int = 1
    rotation: Literal["write", "read"] = "read"
    positions: Literal["absolute", "relative"] = "relative"


class DataOptions(Options):
    """Clips of a small world, as in `videomla_models.training.data`.

    Attributes:
        world: `toy`, or `marked`, where the cache carries what the caption does not say.
        clips: of a step. chunks: of a clip. foreground: extra weight of pixels that are not background.
        crosses: of the toy world, share of clips whose shape becomes a cross.
        kinds: of the marked world's captions, each as often as the others.
        gap: of the marked world, frames at most that half of the clips leave out after their first chunk.
    """

    world: World = "toy"
    clips: Count = 8
    chunks: Count = 4
    foreground: Annotated[float, Field(ge=0.0)] = 2.0
    crosses: Share = 0.0
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    gap: Annotated[int, Field(ge=0, le=10_000)] = 0

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the marked world's options where it is the other one: keys were given before there were any."""
        body: dict[str, Any] = write(self)
        return body if self.world == "marked" else {k: v for k, v in body.items() if k not in ("kinds", "gap")}


class Origin(Options):
    """Weights that come from elsewhere.

    Attributes:
        chain: the end of another training. file: one that a training wrote.
    """

    chain: Chain | None = None
    file: FilePath = ""


class StartOptions(Options):
    """First weights.

    Attributes:
        kind: `random`; `svd` of a dense network's attention; `random_maps`, random attention beside a dense network's
            other weights; or `checkpoint`, a network of the same sizes.
        origin: where all but `random` take them from.
    """

    kind: Literal["random", "svd", "random_maps", "checkpoint"] = "random"
    origin: Origin = Field(default_factory=lambda: Origin())


class StageOptions(Options):
    """What all stages share.

    Attributes:
        steps: the budget. rate: learning rate. warmup, decay: as in `videomla_models.training.loop.Rate`.
        betas: of AdamW. average: decay of the running average that is the stage's result.
        shift: of the noise levels. keep: also keep the averaged weights every so many steps; 0 does not.
    """

    steps: Count
    rate: Positive
    warmup: int = 0
    decay: Share = 0.0
    betas: tuple[float, float] = (0.0, 0.999)
    average: Share = 0.99
    shift: Positive = 5.0
    keep: Annotated[int, Field(ge=0)] = 0


class TeacherForcingOptions(StageOptions):
    """Stage 1.

    Attributes:
        stage: its name.
        optimiser: `muon` trains the blocks' matrices with Muon at `rate`, the rest with AdamW at half of it.
        text_drop: share of clips without a prompt.
        context_noise: largest deviation of the clean copy. noisy_context: share of clips that get it.
    """

    stage: Literal["teacher_forcing"]
    rate: Positive = 5e-6
    optimiser: Literal["adamw", "muon"] = "adamw"
    text_drop: Share = 0.08
    context_noise: Annotated[float, Field(ge=0.0)] = 0.1
    noisy_context: Share = 0.7


class LevelOptions(StageOptions):
    """Of stages that draw noise levels as the pipeline may do otherwise (`videomla_models.training.consistency`).

    Attributes:
        levels_per: each chunk gets a noise level of its own, or all of a `clip` the same.
    """

    levels_per: LevelsPer = "chunk"

    def drawn_levels(self, chunks: int) -> int:
        """How many noise levels a clip of `chunks` chunks gets."""
        return chunks if self.levels_per == "chunk" else 1

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Options that came later are written where they are used alone, so that earlier trainings keep their keys."""
        body: dict[str, Any] = write(self)
        return {name: value for name, value in body.items() if value != LATER.get(name)}


LATER = {"levels_per": "chunk", "levels": 0}


class ConsistencyOptions(LevelOptions):
    """Stage 2.

    Attributes:
        stage: its name. teacher: the chain's teacher forcing unless given.
        denoising: the student's steps out of 1000, noisiest first. guidance: of the teacher; 1 is without.
        substeps: of the teacher from one level to the next.
        levels: distil between so many evenly spaced noise levels, before the shift, instead of the student's own
            steps. With `levels: 48`, `substeps: 1` and `levels_per: clip` as Causal Forcing does.
    """

    stage: Literal["consistency"]
    rate: Positive = 2e-6
    denoising: Steps = FOUR_STEPS
    guidance: Annotated[float, Field(ge=1.0)] = 3.0
    substeps: Count = 2
    levels: Annotated[int, Field(ge=0)] = 0
    teacher: Origin = Field(default_factory=lambda: Origin())


class MatchingOptions(LevelOptions):
    """Stage 3.

    Attributes:
        stage: its name. teacher: the chain's teacher forcing unless given. critic_rate: learning rate of the critic.
        denoising: the generator's steps out of 1000, noisiest first.
        steps: updates of the critic. updates: of the critic for each of the generator.
        guidance: the teacher's scale s in uncond + s (cond - uncond). The pipeline writes cond + 3 (cond - uncond) for
            the paper's 3.0, which is 4 here.
    """

    stage: Literal["distribution_matching"]
    rate: Positive = 2e-6
    critic_rate: Positive = 4e-7
    denoising: Steps = FOUR_STEPS
    guidance: Annotated[float, Field(ge=1.0)] = 4.0
    updates: Count = 5
    teacher: Origin = Field(default_factory=lambda: Origin())

    @property
    def generator_updates(self) -> int:
        """How often the generator is updated."""
        return -(-self.steps // self.updates)


AnyStage = Annotated[TeacherForcingOptions | ConsistencyOptions | MatchingOptions, Field(discriminator="stage")]
BEFORE = {"consistency": "teacher_forcing", "distribution_matching": "consistency"}
"""The stage that each stage goes on from; it may also go on from one of its own kind, with other settings."""


def by_bytes(dumped: Any) -> Any:
    """`dumped` with the path of every file that a training starts from replaced by the file's SHA-256."""
    if isinstance(dumped, list):
        return [by_bytes(entry) for entry in dumped]
    if not isinstance(dumped, dict):
        return dumped
    named = {name: by_bytes(value) for name, value in dumped.items()}
    if path := named.get("file"):
        try:
            named["file"] = file_sha256(Path(path))
        except OSError as error:
            raise OptionError(f"{path} cannot be read: {error.strerror}", "name the weights to start from") from error
    return named


class Chain(Options):
    """One training from its first weights to its last stage.

    Attributes:
        seed: of data, noise and first weights. chunk: latent frames per chunk.
        precision: of matrix products; weights stay float32.
        fast: passes through torch.compile, AdamW in one call, and Muon's products in `precision`: other roundings.
        network: sizes. window: of training and deployment. data: clips. start: first weights.
        stages: one after the other.
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    chunk: Count = 3
    precision: Literal["float32", "bfloat16"] = "float32"
    fast: bool = False
    network: NetworkOptions = NetworkOptions()
    window: WindowOptions = WindowOptions()
    data: DataOptions = DataOptions()
    start: StartOptions = Field(default_factory=lambda: StartOptions())
    stages: Annotated[list[AnyStage], Field(min_length=1)]

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `fast` where it is off: keys were given before there was the option."""
        body: dict[str, Any] = write(self)
        return body if self.fast else {k: v for k, v in body.items() if k != "fast"}

    def config(self) -> TransformerConfig:
        """Sizes of the network, with those that the data fix."""
        own = self.network.model_dump()
        latent = LatentSizes(**own.pop("latent"))
        width = text_width(self.data.world)
        return TransformerConfig(
            **own, latent=latent, in_channels=3 * PATCH * PATCH, text_width=width, text_tokens=TEXT_LENGTH
        )

    def policy(self) -> WindowPolicy:
        """The window."""
        return WindowPolicy(**self.window.model_dump())

    def until(self, stage: str) -> Chain:
        """The chain up to its last stage of this kind; all of it when there is none."""
        last = max((i for i, s in enumerate(self.stages) if s.stage == stage), default=len(self.stages) - 1)
        return self.model_copy(update={"stages": self.stages[: last + 1]})

    def key(self, stage: int) -> str:
        """Digest of everything that decides the weights after stage number `stage`; files count by their bytes."""
        chain = self.model_copy(update={"stages": self.stages[: stage + 1]})
        body = {"version": TRAINING_VERSION, **by_bytes(chain.model_dump(mode="json")), **chain.versions()}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return digest(text)[:24]

    def versions(self) -> dict[str, dict[str, int]]:
        """`stage_versions` of its stages and of those of every chain it starts from or is taught by; empty if all 1."""
        versions = {str(s.stage): STAGE_VERSIONS[s.stage] for s in self.stages if s.stage in STAGE_VERSIONS}
        for stage in self.stages if self.fast else ():
            if isinstance(stage, ConsistencyOptions) and (
                self.network.attention == "latent" or stage.teacher.chain or stage.teacher.file
            ):
                versions["consistency"] = COMPILED_CONSISTENCY
        for origin in (
            self.start.origin,
            *(s.teacher for s in self.stages if not isinstance(s, TeacherForcingOptions)),
        ):
            if origin.chain:
                versions |= origin.chain.versions().get("stage_versions", {})
        return {"stage_versions": versions} if versions else {}

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What is wrong beyond single values: where, and what to do, one line each."""
        try:
            self.policy().capacity(self.chunk)
        except OptionError as error:
            yield ("window", "frames"), f"{error.message}; {error.fix}"
        yield from self._sizes()
        yield from self._world()
        if self.data.chunks < 2:
            yield ("data", "chunks"), "clips of 1 chunk have no past to learn from; use at least 2"
        if self.start.kind != "random" and not (self.start.origin.chain or self.start.origin.file):
            yield ("start", "kind"), f"a start of kind {self.start.kind!r} needs `origin`: an arm or a file"
        if self.network.attention != "latent" and self.start.kind in ("svd", "random_maps"):
            yield ("start", "kind"), f"a start of kind {self.start.kind!r} makes latent attention: set it in network"
        if self.network.attention == "linear" and self.window.positions == "relative":
            yield ("window", "positions"), "a state sums keys as they are rotated once: set positions to absolute"
        yield from self._others(("start", "origin"), self.start.origin, dense=self.start.kind in ("svd", "random_maps"))
        for number, stage in enumerate(self.stages):
            before = self.stages[number - 1].stage if number else self._start_stage()
            if stage.stage in BEFORE and before not in (BEFORE[stage.stage], stage.stage, "checkpoint"):
                needed = BEFORE[stage.stage]
                yield ("stages", number, "stage"), f"stage {stage.stage} goes on from {needed}: put it before"
            if isinstance(stage, ConsistencyOptions | MatchingOptions):
                yield from self._others(("stages", number, "teacher"), stage.teacher)
            if isinstance(stage, MatchingOptions) and not self._has_teacher(stage, number):
                yield ("stages", number, "stage"), "without teacher_forcing in the chain, `teacher` must be given"

    def _world(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        others: dict[str, dict[str, Any]] = {"toy": {"kinds": KINDS, "gap": 0}, "marked": {"crosses": 0.0}}
        for name, unused in others[self.data.world].items():
            if getattr(self.data, name) != unused:
                yield ("data", name), f"the world {self.data.world!r} has no {name}: leave it out"

    def _start_stage(self) -> str:
        if self.start.kind != "checkpoint":
            return ""
        chain = self.start.origin.chain
        return chain.stages[-1].stage if chain else "checkpoint"

    def _has_teacher(self, stage: MatchingOptions, number: int) -> bool:
        configured = bool(stage.teacher.chain or stage.teacher.file) or self._start_stage() == "teacher_forcing"
        # A file that consistency goes on from is a teacher-forced network, whatever it says of itself.
        configured = configured or (self._start_stage() == "checkpoint" and self.stages[0].stage == "consistency")
        return configured or any(other.stage == "teacher_forcing" for other in self.stages[:number])

    def _sizes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        network, latent = self.network, self.network.latent
        if network.dim % (2 * network.heads):
            yield ("network", "heads"), f"dim {network.dim} does not split into {network.heads} heads of even width"
            return
        if network.attention == "latent" and 2 * sum(latent.pairs) != latent.d_rope:
            yield ("network", "latent"), f"pairs {list(latent.pairs)} must sum to half of d_rope, {latent.d_rope}"
        pairs = network.dim // network.heads // 2
        third = pairs // 3
        room = (pairs - 2 * third, third, third)
        if network.attention == "latent" and any(not 0 <= p <= r for p, r in zip(latent.pairs, room, strict=True)):
            yield ("network", "latent"), f"pairs {list(latent.pairs)} are not within the head's {list(room)}"

    def _others(
        self, loc: tuple[str | int, ...], origin: Origin, dense: bool = False
    ) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Weights of another chain must have this one's sizes, attention aside."""
        if origin.chain is None:
            return
        theirs = origin.chain.network
        ours: dict[str, Any] = self.network.model_dump(exclude={"attention", "latent"})
        for name, size in ours.items():
            if getattr(theirs, name) != size:
                yield loc, f"the teacher has {name} {getattr(theirs, name)}, the student {size}: use equal sizes"
        if dense and theirs.attention != "dense":
            yield loc, "the origin has latent attention already: name a dense one"


Origin.model_rebuild()

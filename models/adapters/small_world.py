"""The models of the small world: one transformer, dense and latent with the checkpoints that ship, and linear."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from harness.contracts import PATH_SCHEMA, Json
from harness.errors import WeightsError
from videomla_models.adapters.transformer_model import RANDOM, Dtype, StreamingModel, StreamingOptions
from videomla_models.checkpoints.locate import resolve, weights_path
from videomla_models.small_world import presets
from videomla_models.small_world.world import FRAME_RATE, SIZE
from videomla_models.spec.config import SamplerConfig, TransformerConfig
from videomla_models.spec.window import WindowPolicy

if TYPE_CHECKING:
    from videomla_models.network.transformer import VideoTransformer
    from videomla_models.rollout.codecs import Codec
    from videomla_models.rollout.pipeline import Embed

CHECKPOINTS = Path(__file__).parents[1] / "small_world" / "checkpoints"
FORCED = "teacher_forcing"


class ToyOptions(StreamingOptions):
    """Options of the small models.

    Attributes:
        steps: denoising steps per chunk. first_steps: those of the first chunk, where others.
        guidance: classifier-free guidance scale, 1 is without.
        weights: `shipped`, distilled to four steps without guidance (consistency, then 30 generator updates of
            distribution matching, for VideoMLA along a wrong gradient); `teacher_forcing`, what they were distilled
            from, which wants 8 steps and guidance 2; `random`; or a safetensors file that a training wrote.
    """

    later: ClassVar[Mapping[str, object]] = {**StreamingOptions.later, "first_steps": None}

    dtype: Dtype = "float32"
    steps: int = Field(4, ge=1, le=1000)
    guidance: float = Field(1.0, ge=1.0)
    weights: Annotated[str, weights_path("shipped", FORCED, RANDOM), PATH_SCHEMA] = "shipped"
    first_steps: int | None = Field(None, ge=1, le=1000)


class SmallWorldModel(StreamingModel):
    """What all models of the small worlds share: pixels, latents and words."""

    family = "toy"
    licence = "Apache-2.0"
    frame_rate = FRAME_RATE
    world: presets.World = "toy"

    def pixels(self) -> tuple[int, int]:
        """32 x 32."""
        return SIZE, SIZE

    def latent_size(self) -> tuple[int, int]:
        """8 x 8."""
        return SIZE // presets.PATCH, SIZE // presets.PATCH

    def load_codec(self, device: str) -> Codec:
        """Space to depth, lossless."""
        from videomla_models.rollout.codecs import PixelCodec

        return PixelCodec(presets.PATCH)

    def load_text(self, device: str) -> Embed:
        """Which word stands where."""
        from videomla_models.small_world.text import embed

        return partial(embed, presets.WORDS[self.world])


class ToyModel(SmallWorldModel):
    """A small model; subclasses say its kind of attention."""

    schema = ToyOptions
    chunk = presets.CHUNK
    attention: ClassVar[str]
    checkpoint: ClassVar[str]

    def network_config(self) -> TransformerConfig:
        """Sizes of the small transformer."""
        return presets.network_config(self.attention, self.world)

    def own_policy(self) -> WindowPolicy:
        """VideoMLA's window."""
        return presets.WINDOW

    def sampler_config(self) -> SamplerConfig:
        """Evenly spaced steps."""
        options = self.options
        return presets.sampler_config(options.steps, options.guidance, options.first_steps)

    def _file(self) -> Path:
        chosen: str = self.options.weights
        names = {"shipped": self.checkpoint, FORCED: f"{self.checkpoint}.{FORCED}"}
        return CHECKPOINTS / f"{names[chosen]}.safetensors" if chosen in names else Path(chosen)

    def weight_digests(self) -> Mapping[str, str]:
        """Of the one checkpoint."""
        return {} if self.options.weights == RANDOM else resolve(self._file()).digests()

    def tiny(self) -> Mapping[str, Json]:
        """Its own size, which is small, with random weights."""
        return {"weights": RANDOM}

    def weights_kind(self) -> Literal["trained", "random", "none"]:
        """Random only on request."""
        return "random" if self.options.weights == RANDOM else "trained"

    def batch_may_change_pixels(self, device: str) -> bool:
        """Not in float32 on a CPU: latents may differ in their last bits, which no pixel of the suites' clips shows."""
        return not (device == "cpu" and self.options.dtype == "float32")

    def load_network(self, device: str) -> VideoTransformer:
        """From the checkpoint, or at random."""
        from videomla_models.network.build import build

        source = None if self.options.weights == RANDOM else self._file()
        return build(self.network_config(), source, self.options.dtype, device)


class ToyDense(ToyModel):
    """Per-head keys and values: 384 cached scalars per token and layer."""

    attention = "dense"
    checkpoint = "dense"


class ToyVideoMLA(ToyModel):
    """Latent and head-shared rope key: 56 cached scalars per token and layer, 14.6 % of the dense ones."""

    attention = "latent"
    checkpoint = "videomla"


class ToyLinearOptions(ToyOptions):
    """Options of the small model with a constant state.

    Attributes:
        weights: `random`, or a safetensors file; none is shipped.
    """

    weights: Annotated[str, weights_path("shipped", FORCED, RANDOM), PATH_SCHEMA] = RANDOM


class ToyLinear(ToyModel):
    """Causal linear attention: a state of constant size in place of a cache, which remembers all chunks."""

    schema = ToyLinearOptions
    attention = "linear"
    checkpoint = ""

    def own_policy(self) -> WindowPolicy:
        """The chunk alone, at its absolute position: what came before is in the state."""
        return WindowPolicy(frames=presets.CHUNK)

    def batch_may_change_pixels(self, device: str) -> bool:
        """By rounding, which its state keeps."""
        return True

    def _file(self) -> Path:
        if self.options.weights in ("shipped", FORCED):
            raise WeightsError("toy/linear has no weights of its own", "set weights to random or to a file")
        return super()._file()


class MarkedOptions(ToyOptions):
    """Options of the marked world's models.

    Attributes:
        steps: denoising steps per chunk. first_steps: those of the first chunk, which draws what the others keep.
        guidance: classifier-free guidance scale, 1 is without.
        weights: `shipped`, teacher-forced; `random`; or a safetensors file that a training wrote.
    """

    steps: int = Field(8, ge=1, le=1000)
    first_steps: int | None = Field(32, ge=1, le=1000)
    guidance: float = Field(2.0, ge=1.0)
    weights: Annotated[str, weights_path("shipped", RANDOM), PATH_SCHEMA] = "shipped"


class MarkedDense(ToyDense):
    """As the small dense model, of the marked world."""

    schema = MarkedOptions
    world = "marked"
    checkpoint = "marked_dense"


class MarkedVideoMLA(ToyVideoMLA):
    """As the small VideoMLA, of the marked world."""

    schema = MarkedOptions
    world = "marked"
    checkpoint = "marked_videomla"

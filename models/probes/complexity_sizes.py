"""Options and lengths of the complexity sweep; torch-free."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from harness.contracts import Options, Value
from videomla_models.spec.config import LatentSizes

Form = Literal["causal_full", "causal_local", "causal_linear", "mla_expanded", "mla_absorbed"]

FORMS: tuple[Form, ...] = get_args(Form)

WINDOWED: tuple[Form, ...] = ("causal_local", "mla_expanded", "mla_absorbed")
"""Forms that a window bounds; the other two see the whole clip, linear attention through its state."""

NAN = float("nan")

FIELDS = (
    Value("memory_formula", "scalars", "lower", "memory, formula"),
    Value("token_formula", "multiply-adds", "lower", "compute of the last token, formula"),
    Value("clip_formula", "multiply-adds", "lower", "compute of the clip, formula"),
    Value("chunk_flops", "FLOP", "lower", "chunk, counted"),
    Value("attention_flops", "FLOP", "lower", "of that attention"),
    Value("cache_bytes", "B", "lower", "cache, allocated"),
    Value("chunk_s", "s", "lower", "chunk, measured"),
    Value("clip_s", "s", "lower", "clip, measured"),
)
"""What is found for each form, of one layer and one pass; the chunk is the last one of the clip."""

BY_WINDOW = {
    "window_flops": "chunk_flops",
    "window_attention_flops": "attention_flops",
    "window_bytes": "cache_bytes",
    "window_s": "chunk_s",
}

BY_CLIP = {
    "clip_flops": "chunk_flops",
    "clip_attention_flops": "attention_flops",
    "clip_bytes": "cache_bytes",
    "clip_s": "clip_s",
    "clip_formula": "clip_formula",
}
"""Samples of a form by name: the field that runs over the lengths of windows, or of clips."""


class Latent(Options):
    """Widths of latent attention; as `videomla_models.spec.config.LatentSizes`.

    Attributes:
        d_c: cached content latent. d_q: query latent. d_nope, d_rope: content and positional channels of a head.
        pairs: rotary pairs for time, height and width.
    """

    d_c: int = Field(default=192, ge=1)
    d_q: int = Field(default=768, ge=1)
    d_nope: int = Field(default=96, ge=1)
    d_rope: int = Field(default=32, ge=2)
    pairs: tuple[int, int, int] = (6, 5, 5)

    def sizes(self) -> LatentSizes:
        """The widths as the modules take them."""
        return LatentSizes(self.d_c, self.d_q, self.d_nope, self.d_rope, self.pairs)


class ComplexityOptions(Options):
    """Sizes and sweeps; the defaults are the 1.3B model at 832 x 480 with 60 s clips.

    Attributes:
        dim, heads, latent: widths of the layer.
        grid: rows and columns of tokens of a latent frame. chunk: latent frames of a chunk. sink: of the window.
        window, clip: latent frames of the window and of the clip in values; in the table they stand among the others.
        windows: latent frames of windows in the sweep, at the longest clip. clips: those of clips, under `window`.
        dtype: of weights, activations and cache.
        timed: measure time too; FLOPs and bytes come from shapes alone, which costs nothing at any size.
        measure_s: seconds spent on each timing, of which every length has two.
        min_clock_ratio: a timing below this share of the device's default clock is thrown away.
    """

    dim: int = Field(1536, ge=2)
    heads: int = Field(12, ge=1)
    latent: Latent = Latent()
    grid: tuple[int, int] = (30, 52)
    chunk: int = Field(3, ge=1)
    sink: int = Field(1, ge=0)
    window: int = Field(6, ge=1)
    windows: tuple[int, ...] = (6, 12, 24, 48)
    clip: int = Field(240, ge=1)
    clips: tuple[int, ...] = (30, 60, 120, 240)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    timed: bool = True
    measure_s: float = Field(0.2, gt=0)
    min_clock_ratio: float = Field(0.75, ge=0, le=1)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.dim % self.heads or 2 * sum(self.latent.pairs) != self.latent.d_rope:
            raise ValueError(
                f"dim {self.dim} and heads {self.heads}, or d_rope {self.latent.d_rope} and its pairs, do not fit: dim "
                "is a multiple of heads, and the pairs sum to d_rope / 2"
            )
        if not self.windows or not self.clips:
            raise ValueError("windows and clips must each name at least one length")
        for name, lengths in (("window", (self.window, *self.windows)), ("clip", (self.clip, *self.clips))):
            if any(length < self.chunk for length in lengths):
                raise ValueError(f"a {name} is shorter than a chunk of {self.chunk} latent frames")
        if any(clip % self.chunk for clip in (self.clip, *self.clips)):
            raise ValueError(f"clips are whole chunks of {self.chunk} latent frames")
        return self

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.grid[0] * self.grid[1]


Length = tuple[int, int]
"""Latent frames that the last chunk sees, and those of the clip."""


def seen(form: Form, window: int, clip: int) -> Length:
    """What `window` and `clip` latent frames come to under `form`."""
    return (min(window, clip) if form in WINDOWED else clip), clip

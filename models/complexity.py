"""What self-attention costs by form: the paper's formulas, FLOPs and bytes counted on the modules, and measured time.

Five forms: causal full, causal local, causal linear, and VideoMLA's latent attention expanded and absorbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field

from harness.contracts import Availability, Json, Measurement, Options, Probe, Subject, Value, Workload
from harness.errors import OptionError
from harness.probes.census import flop_counter
from harness.probes.clock import Clock, time_calls
from models.config import LatentSizes, TransformerConfig
from models.window import WindowPolicy

if TYPE_CHECKING:
    from torch import Tensor

    from models.cache import StreamCache

Form = Literal["causal_full", "causal_local", "causal_linear", "mla_expanded", "mla_absorbed"]
FORMS: tuple[Form, ...] = get_args(Form)
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

_CORE = ("scaled_dot_product", "bmm")
"""Parts of operator names that are attention itself; projections are `addmm` and `mm`."""


class Latent(Options):
    """Widths of latent attention; as `models.config.LatentSizes`."""

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
        window: latent frames of the window in the table. windows: those of the sweep, at the longest clip.
        clip: latent frames of the clip in the table. clips: those of the sweep, at `window`.
        dtype: of weights, activations and cache.
        timed: measure time too; without it the modules run on shapes alone, which costs nothing at any size.
        measure_s: seconds spent on each timing.
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

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.grid[0] * self.grid[1]


def formulas(form: Form, options: ComplexityOptions, window: int, clip: int) -> dict[str, float]:
    """Scalars and multiply-adds of one layer at `window` and `clip` latent frames (VideoMLA paper, Table 1).

    The paper's MLA row is the absorbed form. The expanded form is derived here: rebuilt keys of d_nope + d_rope
    channels a head stand for D, and each chunk rebuilds its window, W d_c (n d_nope + D), shared by its tokens.
    """
    heads, dim, latent, tokens = options.heads, options.dim, options.latent, options.tokens
    n, w, head = clip * tokens, min(window, clip) * tokens, dim // heads
    cached = latent.d_c + latent.d_rope
    rebuild = w * latent.d_c * (heads * latent.d_nope + dim) / (options.chunk * tokens)
    expanded = w * heads * (latent.d_nope + latent.d_rope) + rebuild
    memory, token, whole = {
        "causal_full": (2 * n * dim, n * dim, n * n * dim / 2),
        "causal_local": (2 * w * dim, w * dim, n * w * dim),
        "causal_linear": (dim * head, dim * head, n * dim * head),
        "mla_expanded": (w * cached, expanded, n * expanded),
        "mla_absorbed": (w * cached, heads * w * cached, heads * n * w * cached),
    }[form]
    return {"memory_formula": float(memory), "token_formula": float(token), "clip_formula": float(whole)}


def absorbed_over_dense(heads: int, dim: int, d_c: int, d_rope: int) -> float:
    """n (d_c + d_rope) / D: compute of absorbed over dense attention at equal windows, by the paper's formulas."""
    return heads * (d_c + d_rope) / dim


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the last chunk of a clip, one layer, one pass: FLOPs, those of attention, cache bytes, seconds."""

    flops: float
    attention: float
    cache: float
    seconds: tuple[float, ...]


class Bench:
    """One layer of each form over a cache of one layer, on `device` (`meta` for shapes alone). Imports torch."""

    def __init__(self, options: ComplexityOptions, device: str) -> None:
        import torch

        from models.attention.dense import DenseAttention
        from models.attention.latent import LatentAttention
        from models.attention.linear import LinearAttention

        self.options, self.device, self.clock = options, device, Clock(device)
        self.dtype: Any = getattr(torch, options.dtype)
        dim, heads, eps = options.dim, options.heads, TransformerConfig().eps
        torch.manual_seed(0)
        with torch.device(device):
            dense, linear = DenseAttention(dim, heads, eps), LinearAttention(dim, heads, eps)
            latent = LatentAttention(dim, heads, eps, options.latent.sizes())
            self.x: Tensor = torch.randn(1, options.chunk * options.tokens, dim, dtype=self.dtype)
        self.layers: dict[str, Any] = {"causal_linear": linear, "mla": latent, "causal": dense}
        for layer in self.layers.values():
            layer.to(self.dtype).eval().requires_grad_(False)

    def layer(self, form: Form) -> Any:
        """The module of `form`, ready to run."""
        if form.startswith("mla"):
            self.layers["mla"].use(form.removeprefix("mla_"))
            return self.layers["mla"]
        return self.layers["causal_linear" if form == "causal_linear" else "causal"]

    def cache(self, form: Form, window: int, clip: int) -> StreamCache:
        """An empty cache as the form's models keep it; causal full keeps the whole clip."""
        from models.cache import Grid, StreamCache
        from models.rope import RotaryTable

        options = self.options
        frames = clip if form == "causal_full" else min(window, clip)
        sink = 0 if form == "causal_full" else min(options.sink, max(0, frames - options.chunk))
        policy = WindowPolicy(frames=frames, sink=sink)
        if form.startswith("mla"):
            policy = WindowPolicy(frames=frames, sink=sink, rotation="read", positions="relative")
        pairs = options.latent.pairs if form.startswith("mla") else None
        base = TransformerConfig()
        positions = max(base.rope_positions, clip)
        table = RotaryTable(options.dim // options.heads, pairs, base.rope_theta, positions)
        return StreamCache(1, policy, policy.capacity(options.chunk), Grid(*options.grid), table)

    def clip(self, form: Form, window: int, clip: int) -> tuple[StreamCache, Callable[[], Any]]:
        """Run a clip chunk by chunk, one clean pass each; returns the cache and a call that repeats the last chunk."""
        import torch

        layer, cache, count = self.layer(form), self.cache(form, window, clip), self.options.chunk

        def attend(first: int) -> Any:
            context = cache.chunk(first, count, torch.device(self.device))
            context.clean = True
            return layer(self.x, 0, context)

        for first in range(0, clip, count):
            attend(first)
        context = cache.chunk(clip - count, count, torch.device(self.device))
        return cache, lambda: layer(self.x, 0, context)

    def chunk_cost(self, form: Form, window: int, clip: int) -> Cost:
        """Cost of the last chunk of `clip` latent frames under `window`."""
        cache, last = self.clip(form, window, clip)
        with flop_counter() as counter:
            last()
        by_operator = counter.get_flop_counts()["Global"]
        core = sum(n for name, n in by_operator.items() if any(word in str(name) for word in _CORE))
        seconds = self._timed(last)
        return Cost(float(sum(by_operator.values())), float(core), float(cache.bytes()), seconds)

    def clip_seconds(self, form: Form, window: int, clip: int) -> tuple[float, ...]:
        """Seconds of a whole clip, chunk by chunk, one pass each."""
        return self._timed(lambda: self.clip(form, window, clip))

    def _timed(self, call: Callable[[], Any]) -> tuple[float, ...]:
        if not self.options.timed:
            return ()
        budget = self.options.measure_s
        return tuple(time_calls(self.clock, call, warmup_s=budget / 4, measure_s=budget, least=5, most=1000))


class Complexity(Probe):
    """Sweeps window length and clip length over the five forms; needs no model, and weighs nothing but attention."""

    version = "1"
    schema = ComplexityOptions
    needs_model: ClassVar[bool] = False
    values = (
        *(Value(f"{form}_{v.name}", v.unit, v.direction, f"{form}: {v.label}") for form in FORMS for v in FIELDS),
        Value("absorbed_over_dense_default", "", "none", "n(d_c+d_rope)/D at the published widths"),
        Value("absorbed_over_dense", "", "none", "n(d_c+d_rope)/D"),
        Value("absorbed_over_dense_counted", "", "none", "absorbed over dense attention, counted"),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._device = "cpu"

    def available(self, device: str) -> Availability:
        """Always; remembers where to run, since there is no model that says it."""
        self._device = device
        return Availability(True)

    def measure(self, subject: Subject | None, workload: Workload) -> Measurement:
        """Sweep; neither argument is used. Raises `OptionError` for sizes that fit no layer."""
        import torch

        options: ComplexityOptions = self.options
        _check(options)
        bench = Bench(options, self._device if options.timed else "meta")
        guard = torch.inference_mode() if options.timed else nullcontext()
        values: dict[str, float] = {}
        samples: dict[str, list[float]] = {
            "window_frames": [float(w) for w in options.windows],
            "clip_frames": [float(c) for c in options.clips],
        }
        with guard:
            for form in FORMS:
                self._form(bench, form, values, samples)
        latent, config, default = options.latent, TransformerConfig(), LatentSizes()
        values |= {
            "absorbed_over_dense_default": absorbed_over_dense(config.heads, config.dim, default.d_c, default.d_rope),
            "absorbed_over_dense": absorbed_over_dense(options.heads, options.dim, latent.d_c, latent.d_rope),
            "absorbed_over_dense_counted": values["mla_absorbed_attention_flops"]
            / values["causal_local_attention_flops"],
        }
        return Measurement(values, samples, {"table": table(values), "torch": torch.__version__})

    def _form(self, bench: Bench, form: Form, values: dict[str, float], samples: dict[str, list[float]]) -> None:
        options: ComplexityOptions = self.options
        by_window = [bench.chunk_cost(form, window, max(options.clips)) for window in options.windows]
        by_clip = [bench.clip_seconds(form, options.window, clip) for clip in options.clips]
        last = bench.chunk_cost(form, options.window, options.clip)
        at = options.clips.index(options.clip) if options.clip in options.clips else None
        whole = bench.clip_seconds(form, options.window, options.clip) if at is None else by_clip[at]
        found = {
            **formulas(form, options, options.window, options.clip),
            "chunk_flops": last.flops,
            "attention_flops": last.attention,
            "cache_bytes": last.cache,
            "chunk_s": _median(last.seconds),
            "clip_s": _median(whole),
        }
        values.update({f"{form}_{name}": value for name, value in found.items()})
        clips = [formulas(form, options, options.window, clip)["clip_formula"] for clip in options.clips]
        samples.update(
            {
                f"{form}:window_flops": [cost.flops for cost in by_window],
                f"{form}:window_attention_flops": [cost.attention for cost in by_window],
                f"{form}:window_bytes": [cost.cache for cost in by_window],
                f"{form}:window_s": [_median(cost.seconds) for cost in by_window],
                f"{form}:clip_s": [_median(seconds) for seconds in by_clip],
                f"{form}:clip_formula": clips,
                f"{form}:chunk_s_raw": list(last.seconds),
                f"{form}:clip_s_raw": list(whole),
            }
        )


def table(values: Mapping[str, float]) -> Json:
    """The forms as the rows of one table, as a record's notes carry it."""
    return {
        "title": "Self-attention by form, one layer, one pass",
        "corner": "form",
        "columns": [[field.label, field.unit, field.direction] for field in FIELDS],
        "rows": [
            [form.replace("_", " "), [_known(values[f"{form}_{field.name}"]) for field in FIELDS]] for form in FORMS
        ],
        "remarks": [
            f"n(d_c+d_rope)/D, absorbed over dense compute by the formulas: {values['absorbed_over_dense']:.4g} at "
            f"these widths, {values['absorbed_over_dense_default']:.4g} at the published ones; counted: "
            f"{values['absorbed_over_dense_counted']:.4g}. Absorption saves memory, not compute."
        ],
    }


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None


def _median(seconds: tuple[float, ...]) -> float:
    return median(seconds) if seconds else NAN


def _check(options: ComplexityOptions) -> None:
    if options.dim % options.heads or 2 * sum(options.latent.pairs) != options.latent.d_rope:
        raise OptionError(
            f"dim {options.dim} and heads {options.heads}, or d_rope {options.latent.d_rope} and its pairs, do not fit",
            "dim is a multiple of heads, and the pairs sum to d_rope / 2",
        )
    if not options.windows or not options.clips:
        raise OptionError("windows and clips must each name at least one length")
    for name, lengths in (("window", (options.window, *options.windows)), ("clip", (options.clip, *options.clips))):
        if any(length < options.chunk for length in lengths):
            raise OptionError(f"a {name} is shorter than a chunk of {options.chunk} latent frames")
    if any(clip % options.chunk for clip in (options.clip, *options.clips)):
        raise OptionError(f"clips are whole chunks of {options.chunk} latent frames")

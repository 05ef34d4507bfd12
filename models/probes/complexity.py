"""What self-attention costs by form: the paper's formulas, FLOPs and bytes counted on the modules, and measured time.

Five forms: causal full, causal local, causal linear, and VideoMLA's latent attention expanded and absorbed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar

from harness.contracts import Json, Measurement, Probe, ProbeContext, ProbeTable, Subject, Value, Workload
from harness.probes.timing.contention import watch
from harness.probes.timing.repeat import FullClock
from harness.probes.timing.telemetry import Telemetry
from videomla_models.probes.complexity_sizes import (
    BY_CLIP,
    BY_WINDOW,
    FIELDS,
    FORMS,
    NAN,
    ComplexityOptions,
    Form,
    Length,
    seen,
)
from videomla_models.spec.config import LatentSizes, TransformerConfig


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
    """n (d_c + d_rope) / D: compute of absorbed over dense attention at equal windows, by the paper's formulas.

    They charge the sums with d_c + d_rope channels a head. Values are the content latent alone, d_c wide, so that
    attention needs n (2 d_c + d_rope) / (2 D) of dense's: 1.625 where this is 1.75.
    """
    return heads * (d_c + d_rope) / dim


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one layer and one pass at one length.

    Attributes:
        flops, attention: FLOPs of the clip's last chunk, and those of attention among them.
        cache: bytes of the cache after it.
        chunk_s, clip_s: seconds of each timed run of that chunk and of the clip; empty where none was timed.
    """

    flops: float
    attention: float
    cache: float
    chunk_s: tuple[float, ...] = ()
    clip_s: tuple[float, ...] = ()

    def figures(self) -> dict[str, float]:
        """By name, as in `FIELDS`."""
        return {
            "chunk_flops": self.flops,
            "attention_flops": self.attention,
            "cache_bytes": self.cache,
            "chunk_s": _median(self.chunk_s),
            "clip_s": _median(self.clip_s),
        }


class Complexity(Probe):
    """Sweeps window length and clip length over the five forms; needs no model, and weighs nothing but attention.

    FLOPs and bytes are counted on shapes alone, whether or not time is measured, since a kernel hides its FLOPs.
    """

    version = "4"
    schema = ComplexityOptions
    needs_model: ClassVar[bool] = False
    has_table: ClassVar[bool] = True
    plots = ("complexity",)
    values = (
        *(Value(f"{form}_{v.name}", v.unit, v.direction, f"{form}: {v.label}") for form in FORMS for v in FIELDS),
        Value(
            "absorbed_over_dense_default", "", "none", "n(d_c+d_rope)/D at the published widths, the paper's formula"
        ),
        Value("absorbed_over_dense", "", "none", "n(d_c+d_rope)/D, the paper's formula"),
        Value("absorbed_over_dense_counted", "", "none", "absorbed over dense attention, counted (values d_c wide)"),
        Value("rejected", "", "none", "timings thrown away"),
    )

    def tiny(self) -> Mapping[str, Json]:
        """The same layer on a grid of few tokens, two windows and two clips of few chunks."""
        chunk, sink = self.options.chunk, self.options.sink
        windows, clips = [sink + chunk, sink + 2 * chunk], [2 * chunk, 4 * chunk]
        sizes: dict[str, Json] = {"grid": [2, 2], "window": windows[0], "clip": clips[-1], "measure_s": 0.001}
        return {**sizes, "windows": windows, "clips": clips}

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Sweep; neither subject nor workload is used."""
        import torch

        options: ComplexityOptions = self.options
        sweep = Sweep(options)
        sweep.count()
        notes: dict[str, Json] = {"torch": str(torch.__version__)}
        remarks, contended = list[str](), None
        if options.timed:
            telemetry = Telemetry(context.device)
            before = telemetry.snapshot()
            with torch.inference_mode(), watch(telemetry) as other:
                sweep.time(context.device, telemetry)
            notes |= {"device_before": before, "device_after": telemetry.snapshot(), "flags": telemetry.flags()}
            notes["other_work"], contended = other.to_json(), other.contended
            remarks += ["Other work was seen while this was timed (rule T1)."] * other.contended
        values = sweep.values()
        found = table(sweep, values, remarks)
        return Measurement(values, sweep.samples(), notes, contended=contended, table=found)


class Sweep:
    """Costs of every form at every length that `options` name, each distinct length once. Imports torch."""

    def __init__(self, options: ComplexityOptions) -> None:
        self.options = options
        self.costs: dict[tuple[Form, Length], Cost] = {}
        self.rejected = NAN

    def asked(self) -> Iterator[tuple[Form, int, int]]:
        """Each form with each window at the longest clip, and with each clip under the table's window."""
        longest = max(self.options.clips)
        for form in FORMS:
            yield from ((form, window, longest) for window in self.options.windows)
            yield from ((form, self.options.window, clip) for clip in self.options.clips)
            yield form, self.options.window, self.options.clip

    def count(self) -> None:
        """FLOPs and bytes, on shapes alone."""
        from videomla_models.probes.complexity_layers import Bench

        bench = Bench(self.options, "meta")
        for form, window, clip in self.asked():
            place = form, seen(form, window, clip)
            if place not in self.costs:
                self.costs[place] = Cost(*bench.count(form, window, clip))

    def time(self, device: str, telemetry: Telemetry) -> None:
        """Seconds on `device`, of everything that was counted; timings at a low clock are taken anew (rule T11)."""
        from videomla_models.probes.complexity_layers import Bench

        full = FullClock(telemetry.clock_ratio, self.options.min_clock_ratio)
        bench = Bench(self.options, device, full)
        for (form, (window, clip)), cost in self.costs.items():
            chunk_s, clip_s = bench.times(form, window, clip)
            self.costs[form, (window, clip)] = replace(cost, chunk_s=chunk_s, clip_s=clip_s)
        self.rejected = float(full.rejected)

    def figures(self, form: Form, window: int, clip: int) -> dict[str, float]:
        """Each of `FIELDS` at one length."""
        cost = self.costs[form, seen(form, window, clip)]
        return {**formulas(form, self.options, window, clip), **cost.figures()}

    def values(self) -> dict[str, float]:
        """The table's lengths of each form, and what absorption multiplies."""
        options, config, default = self.options, TransformerConfig(), LatentSizes()
        latent = options.latent
        values = {
            f"{form}_{name}": value
            for form in FORMS
            for name, value in self.figures(form, options.window, options.clip).items()
        }
        counted = values["mla_absorbed_attention_flops"] / values["causal_local_attention_flops"]
        return values | {
            "absorbed_over_dense_default": absorbed_over_dense(config.heads, config.dim, default.d_c, default.d_rope),
            "absorbed_over_dense": absorbed_over_dense(options.heads, options.dim, latent.d_c, latent.d_rope),
            "absorbed_over_dense_counted": counted,
            "rejected": self.rejected,
        }

    def samples(self) -> dict[str, list[float]]:
        """Curves over both lengths by form and field, and every timed run by form and length."""
        options, longest = self.options, max(self.options.clips)
        samples = {"window_frames": list(map(float, options.windows)), "clip_frames": list(map(float, options.clips))}
        for form in FORMS:
            by_window = [self.figures(form, window, longest) for window in options.windows]
            by_clip = [self.figures(form, options.window, clip) for clip in options.clips]
            for curve, names in ((by_window, BY_WINDOW), (by_clip, BY_CLIP)):
                samples |= {f"{form}:{name}": [at[field] for at in curve] for name, field in names.items()}
        for (form, (window, clip)), cost in self.costs.items():
            for name, runs in (("chunk_s", cost.chunk_s), ("clip_s", cost.clip_s)):
                samples |= {f"{form}:{window}_of_{clip}:{name}": list(runs)} if runs else {}
        return samples


def table(sweep: Sweep, values: Mapping[str, float], remarks: Sequence[str] = ()) -> ProbeTable:
    """Forms and lengths as the rows of one table."""
    rows = []
    for form, (window, clip) in sorted(sweep.costs, key=lambda place: (FORMS.index(place[0]), place[1])):
        figures = sweep.figures(form, window, clip)
        rows.append((form.replace("_", " "), [window, clip, *(figures[field.name] for field in FIELDS)]))
    return ProbeTable(
        title="Self-attention by form and length, one layer, one pass",
        corner="form",
        columns=[
            ("window", "latent frames", "none"),
            ("clip", "latent frames", "none"),
            *((field.label, field.unit, field.direction) for field in FIELDS),
        ],
        rows=rows,
        remarks=[
            f"n(d_c+d_rope)/D, absorbed over dense compute by the paper's formula: {values['absorbed_over_dense']:.3f} "
            f"at these widths, {values['absorbed_over_dense_default']:.3f} at the published ones. Counted at these: "
            f"{values['absorbed_over_dense_counted']:.3f}. The formula charges the sums of values with d_c + d_rope "
            "channels; values are the content latent alone, d_c wide, and padding of a fall-back is no work.",
            what_absorption_saves(values),
            "Causal full and causal linear have no window: they see the clip. The chunk is the last one of the clip.",
            *remarks,
        ],
    )


def what_absorption_saves(values: Mapping[str, float]) -> str:
    """Memory and compute of absorbed over causal local attention at the table's lengths, as one true sentence."""
    memory = values["mla_absorbed_cache_bytes"] / values["causal_local_cache_bytes"]
    compute = values["absorbed_over_dense_counted"]
    saves = {
        (True, True): "saves memory and compute",
        (True, False): "saves memory, not compute",
        (False, True): "saves compute, not memory",
        (False, False): "saves neither memory nor compute",
    }[memory < 1, compute < 1]
    return (
        f"At these widths and equal windows absorption {saves}: it takes {memory:.3f} of the cache of causal local "
        f"attention and {compute:.3f} of the FLOPs of its scores and sums."
    )


def _median(seconds: tuple[float, ...]) -> float:
    return median(seconds) if seconds else NAN

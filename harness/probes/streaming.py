"""Measure speed and latency of a live model: throughput three ways, chunk gaps, prompt switches, with raw samples."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
from pydantic import Field

from harness.contracts import (
    Json,
    Measurement,
    ModelCard,
    Options,
    Probe,
    ProbeContext,
    Request,
    Subject,
    Value,
    VideoModel,
    Workload,
)
from harness.errors import ModelFault
from harness.probes.timing import agreement, caching_audit, flops
from harness.probes.timing.clock import SECOND, Clock, stage_seconds
from harness.probes.timing.contention import watch
from harness.probes.timing.energy import EnergyMeter
from harness.probes.timing.generation import (
    DECODE,
    DENOISE,
    Generation,
    check_workload,
    generate,
    latents_in,
    steady_chunks,
)
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.repeat import Repeated, Stop, Warmup, repeat, warm_up
from harness.probes.timing.telemetry import Telemetry
from harness.stats import estimates
from harness.system import devices

NAN = float("nan")
MEDIANS = (
    "denoise_fps", "decode_fps", "end_to_end_fps", "clip_denoise_fps", "clip_decode_fps", "clip_fps",
    "real_time_factor", "first_chunk_s", "chunk_s", "clip_s", "switch_s",
)  # fmt: skip
"""Values that are the median of one sample a generation, which the record keeps under the value's own name."""


class StreamingOptions(Options):
    """How long to measure; the defaults are those of a full-size model (rules T6, T8, T11, T13).

    Attributes:
        warmups: generations in a row that must compile nothing before timing; max_warmups: at most so many.
        min_repeats, min_seconds, half_width: demands of the stop rule; ceiling_s: seconds after which it gives up.
        audit_repeats: pairs of distinct and repeated requests in the caching audit; 0 leaves it out.
        audit_tolerance: share by which a repeated request may be faster than distinct ones.
        min_clock_ratio: samples below this share of the device's default clock are thrown away.
        count: count network calls and FLOPs in one untimed generation.
    """

    warmups: int = Field(2, ge=1, le=100)
    max_warmups: int = Field(8, ge=1, le=1000)
    min_repeats: int = Field(10, ge=1, le=100_000)
    min_seconds: float = Field(60.0, ge=0)
    half_width: float = Field(0.02, gt=0, lt=1)
    ceiling_s: float = Field(600.0, gt=0)
    audit_repeats: int = Field(2, ge=0, le=100)
    audit_tolerance: float = Field(0.10, gt=0, lt=1)
    min_clock_ratio: float = Field(0.75, ge=0, le=1)
    count: bool = True

    def stop(self) -> Stop:
        """The stop rule."""
        return Stop(self.min_repeats, self.min_seconds, self.half_width, self.ceiling_s, self.min_clock_ratio)


class Streaming(Probe):
    """Drives a model as a viewer would, one request after another, and times what arrives (rules T2 to T9, T13).

    `denoise_fps`, `decode_fps` and `end_to_end_fps` are taken over the chunks whose window was full; the `clip_` ones
    over the whole clip. All count the pixel frames of the whole batch. Each headline is the median over generations.
    What a viewer waits for is a set of values (rule T5): first chunk, gaps, worst gap, real-time factor.
    """

    version = "4"
    schema = StreamingOptions
    takes_prefix = True
    plots = ("chunk_time",)
    values = (
        Value("denoise_fps", "frames/s", "higher", "denoise"),
        Value("decode_fps", "frames/s", "higher", "+ decode"),
        Value("end_to_end_fps", "frames/s", "higher", "end to end"),
        Value("clip_denoise_fps", "frames/s", "higher", "denoise, whole clip"),
        Value("clip_decode_fps", "frames/s", "higher", "+ decode, whole clip"),
        Value("clip_fps", "frames/s", "higher", "end to end, whole clip"),
        Value("real_time_factor", "", "higher", "real-time factor"),
        Value("first_chunk_s", "s", "lower", "first chunk"),
        Value("chunk_s", "s", "lower", "chunk, window full"),
        Value("gap_p50_s", "s", "lower", "gap p50"),
        Value("gap_p90_s", "s", "lower", "gap p90"),
        Value("gap_p99_s", "s", "lower", "gap p99"),
        Value("gap_worst_s", "s", "lower", "worst gap"),
        Value("clip_s", "s", "lower", "whole clip"),
        Value("clip_iqr_s", "s", "lower", "whole clip, IQR"),
        Value("clip_p10_s", "s", "lower", "whole clip, p10"),
        Value("clip_p90_s", "s", "lower", "whole clip, p90"),
        Value("switch_s", "s", "lower", "prompt switch"),
        Value("switch_extra_s", "s", "lower", "prompt switch over a chunk"),
        Value("forwards_per_chunk", "", "none", "forwards per chunk"),
        Value("flops_per_chunk", "FLOP", "none", "FLOPs per chunk"),
        Value("flop_share", "", "none", "share of peak FLOP/s"),
        Value("byte_share", "", "none", "share of peak bytes/s, weights alone"),
        Value("stage_share", "", "none", "stages over end to end"),
        Value("peak_bytes", "B", "lower", "peak memory"),
        Value("peak_reserved_bytes", "B", "lower", "peak reserved"),
        Value("weight_bytes", "B", "lower", "weights"),
        Value("joules_per_video_s", "J/s of video", "lower", "energy"),
        Value("load_s", "s", "lower", "load"),
        Value("warmup_s", "s", "lower", "warm-up"),
        Value("audit_ratio", "", "none", "repeated over distinct request"),
        Value("agreement_error", "", "none", "relative error against the reference"),
        Value("repeats", "", "none", "generations"),
        Value("rejected", "", "none", "samples thrown away"),
        Value("half_width", "", "none", "half-width of the median"),
        Value("converged", "", "none", "converged"),
        Value("contended", "", "none", "contended"),
    )

    def __init__(
        self,
        options: Options,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        energy: EnergyMeter | None = None,
    ) -> None:
        super().__init__(options)
        self._clock = clock
        self._sleep = sleep
        self._energy = energy

    def tiny(self) -> Mapping[str, Json]:
        """Two short generations; the audit accuses nobody, since so few tell nothing."""
        few: dict[str, Json] = {"warmups": 1, "max_warmups": 2, "min_repeats": 2, "audit_repeats": 1}
        return {**few, "min_seconds": 0.0, "half_width": 0.99, "ceiling_s": 5.0, "audit_tolerance": 0.99}

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Load, count, check, warm up, audit, repeat.

        Raises `ModelFault` when the agreement with the reference, the audit or the sanity line fails.
        """
        assert subject is not None
        check_workload("streaming", workload)
        importlib.import_module("torch")  # or its own size would count as the first model's weights
        clock, telemetry = self._clock or Clock(subject.device), Telemetry(subject.device)
        # The meter's base is read before the model loads: what stands then is not the model's (rule T15).
        meter = MemoryMeter(subject.device)
        model, load_s, weights = _loaded(subject, clock, meter, telemetry)
        counts = flops.Census(NAN, NAN, NAN)
        if self.options.count:
            with context.spans("counting"):
                counts = _counts(model, workload.request(0), subject)
        with context.spans("agreement"):
            agreement_result = agreement.take(model, workload, subject.card)
        devices.give_back(subject.device)  # the reference's memory is not the model's
        with context.spans("warm-up"):
            warmup = self._warm_up(clock, model, subject.card, workload)
        # After warm-up, so that the peak is that of a steady state and not of compilation (rule T15).
        meter.reset()
        device_before, failures_before = telemetry.snapshot(), devices.allocation_failures(subject.device)
        with watch(telemetry) as other_work:
            with context.spans("audit"):
                audit = self._audit(clock, model, workload, first=warmup.runs)
            with context.spans("timing"), (self._energy or EnergyMeter(telemetry)).counting() as energy:
                repeated = self._timed(clock, telemetry, model, subject.card, workload, warmup.runs + audit.used)
        summary = Summary(subject, repeated, counts)
        values = {
            **summary.values(workload),
            **meter.peak(),
            "weight_bytes": float(weights),
            "load_s": load_s,
            "warmup_s": warmup.seconds,
            "audit_ratio": audit.ratio,
            "joules_per_video_s": energy.per(summary.video_seconds()),
        }
        notes: dict[str, Json] = {
            **summary.notes(),
            **_switches_and_prefixes(model, workload),
            **energy.notes("joules_per_video_s"),
            "warmup": _warmup_to_json(warmup),
            "device_before": device_before,
            "device_after": telemetry.snapshot(),
            "allocation_failures": _increase(failures_before, devices.allocation_failures(subject.device)),
            "other_work": other_work.to_json(),
            "flags": telemetry.flags(),
        }
        return Measurement(
            values,
            summary.samples(workload),
            notes,
            converged=repeated.converged,
            contended=other_work.contended,
            audit=audit.audit,
            agreement=agreement_result,
        )

    def _warm_up(self, clock: Clock, model: VideoModel, card: ModelCard, workload: Workload) -> Warmup:
        least, most = self.options.warmups, max(self.options.warmups, self.options.max_warmups)

        def run(number: int) -> Generation:
            return generate(clock, model, workload.request(number), card, distinct=number == 0)

        return warm_up(clock, run, least, most, elsewhere=lambda: _compiled_elsewhere(model))

    def _audit(self, clock: Clock, model: VideoModel, workload: Workload, first: int) -> caching_audit.TakenAudit:
        options = self.options
        repeats, tolerance = options.audit_repeats, options.audit_tolerance
        audit = caching_audit.take(clock, model, workload, first, repeats, tolerance, options.ceiling_s)
        if audit.fault:
            raise ModelFault(audit.fault, "measure the model with its result cache turned off")
        return audit

    def _timed(
        self, clock: Clock, telemetry: Telemetry, model: VideoModel, card: ModelCard, workload: Workload, first: int
    ) -> Repeated[Generation]:
        return repeat(
            clock,
            lambda i: generate(clock, model, workload.request(first + i), card),
            lambda generation: generation.seconds,
            self.options.stop(),
            clock_ratio=telemetry.clock_ratio,
            sleep=self._sleep,
        )


def _loaded(subject: Subject, clock: Clock, meter: MemoryMeter, telemetry: Telemetry) -> tuple[VideoModel, float, int]:
    """The model, the seconds that loading it took, and the bytes of its weights."""
    start = clock.point()
    model = subject.load()
    load_s = (clock.point() - start) / SECOND
    devices.give_back(subject.device)  # temporary memory of loading is no weight
    meter.follow(model)
    telemetry.follow(model)
    return model, load_s, meter.now() - meter.base


def _switches_and_prefixes(model: VideoModel, workload: Workload) -> dict[str, Json]:
    """For the notes: the requested and the actual frame of each switch (null: the model cannot say), and prefixes."""
    notes: dict[str, Json] = {}
    if workload.switches:
        pairs = zip(workload.switches, model.switch_frames(workload.request(0)), strict=True)
        notes["switches"] = [{"asked": switch.frame, "frame": frame} for switch, frame in pairs]
    if workload.prefixes:
        notes["prefixes"] = [{"sha256": prefix.digest, "frames": prefix.frames} for prefix in workload.prefixes]
    return notes


def _compiled_elsewhere(model: VideoModel) -> int:
    state = model.process_state()
    return 0 if state is None else state.compilations


def _increase(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Json]:
    return {name: count - before.get(name, 0) for name, count in after.items()}


def _warmup_to_json(warm: Warmup) -> dict[str, Json]:
    return {
        "generations": warm.runs,
        "first_s": warm.first_s,
        "compilations": warm.compilations,
        "quiet": warm.quiet,
    }


_counted: dict[str, flops.Census] = {}
"""By model and request. Rounds of a measurement share a process, and what is counted does not vary between them."""


def _counts(model: VideoModel, request: Request, subject: Subject) -> flops.Census:
    """Counts of the model on `request`, taken once in a process."""
    about = repr((subject.name, subject.options, subject.device, subject.card, request))
    if about not in _counted:
        _counted[about] = flops.take(model, request, subject.card)
    return _counted[about]


class Summary:
    """Headline values, samples and notes of the accepted generations of one model."""

    def __init__(self, subject: Subject, repeated: Repeated[Generation], counts: flops.Census) -> None:
        self.card = subject.card
        self.repeated = repeated
        self.runs = repeated.samples
        self.counts = counts
        self.device = str(devices.describe(subject.device)["name"])
        self.steady, self.rule = steady_chunks(self.runs[0].frames, self.card)

    def video_seconds(self) -> float:
        """Seconds of video that were made while the energy was counted, thrown away ones included."""
        clips = len(self.runs) + self.repeated.rejected
        return clips * self.runs[0].batch * sum(self.runs[0].frames) / self.card.frame_rate

    def _rates(self, stages: Sequence[str] | None, chunks: Sequence[int]) -> list[float]:
        """Frames per second of each generation over `chunks`, in `stages` or, without them, from gap to gap."""
        return [
            run.rate(run.stage(stages, chunks) if stages else sum(run.gaps[i] for i in chunks), chunks)
            for run in self.runs
        ]

    def _usual(self) -> list[float]:
        """The median gap of the chunks whose window was full, of each generation; empty without such a gap."""
        steady = [i for i in self.steady if i > 0]
        return [median(run.gaps[i] for i in steady) for run in self.runs] if steady else []

    def _switched(self) -> list[float]:
        """The median time from the chunk before a switch to the first that shows it, of each generation."""
        return [median(run.gaps[i] for i in run.switch_chunks) for run in self.runs]

    def _steady_gaps(self) -> list[float]:
        return [run.gaps[i] for run in self.runs for i in self.steady if i > 0]

    def values(self, workload: Workload) -> dict[str, float]:
        """Every value that follows from the generations alone."""
        samples = self.samples(workload)
        clips, gaps = samples["clip_s"], self._steady_gaps()
        later = [gap for run in self.runs for gap in run.gaps[1:]]
        typical = {name: median(samples[name]) if samples.get(name) else NAN for name in MEDIANS}
        return {
            **typical,
            "switch_extra_s": typical["switch_s"] - typical["chunk_s"],
            "gap_p50_s": estimates.percentile(gaps, 50),
            "gap_p90_s": estimates.percentile(gaps, 90),
            "gap_p99_s": estimates.percentile(gaps, 99),
            "gap_worst_s": max(later, default=NAN),
            "clip_iqr_s": float(np.subtract(*np.percentile(clips, [75, 25]))),
            "clip_p10_s": estimates.percentile(clips, 10),
            "clip_p90_s": estimates.percentile(clips, 90),
            **self._sanity(),
            "stage_share": median(run.covered for run in self.runs),
            "repeats": float(len(self.runs)),
            "rejected": float(self.repeated.rejected),
            "half_width": self.repeated.half_width,
        }

    def _sanity(self) -> dict[str, float]:
        """Counts per chunk and the shares of the device's peaks (rule T18). Raises `ModelFault` above a peak."""
        counts = self.counts
        seconds = median(run.stage(DECODE, self.steady) / len(self.steady) for run in self.runs)
        forwards = counts.forwards if counts.forwards == counts.forwards else self.card.forwards_per_chunk or NAN
        flop_share = counts.flops / seconds / flops.peak(flops.PEAK_FLOPS, self.device) if seconds else NAN
        byte_share = counts.weight_bytes * forwards / seconds if seconds else NAN
        byte_share /= flops.peak(flops.PEAK_BYTES, self.device)
        # Faster than the device can be: the model has not waited for it, or the count is wrong.
        for what, share in (("FLOP/s", flop_share), ("bytes/s", byte_share)):
            if share > 1:
                raise ModelFault(
                    f"{share:.0%} of the peak {what} of {self.device}: the time or the count is wrong",
                    "check that the model waits for the device before it yields a chunk",
                )
        return {
            "forwards_per_chunk": float(forwards),
            "flops_per_chunk": counts.flops,
            "flop_share": flop_share,
            "byte_share": byte_share,
        }

    def samples(self, workload: Workload) -> Mapping[str, Sequence[float]]:
        """Every raw sample: one a generation, but one a chunk, generation by generation, for `gap_s` and `chunks:`.

        Gap percentiles and the worst gap are of all generations together, so that no sample bears their names.
        """
        stages = sorted({span.stage for run in self.runs for span in run.spans if span.depth == 0})
        totals = [stage_seconds(run.spans) for run in self.runs]
        everything, end_to_end = range(len(self.runs[0].frames)), self._rates(None, self.steady)
        return {
            "clip_fps": [run.rate(run.seconds, everything) for run in self.runs],
            "clip_denoise_fps": self._rates(DENOISE, everything),
            "clip_decode_fps": self._rates(DECODE, everything),
            "real_time_factor": [rate / workload.batch / self.card.frame_rate for rate in end_to_end],
            "clock_ratio": self.repeated.clock_ratios,
            "rejected_clock_ratio": self.repeated.rejected_ratios,
            "chunk_s": self._usual(),
            "switch_s": self._switched() if workload.switches else [],
            "clip_s": [run.seconds for run in self.runs],
            "first_chunk_s": [run.arrivals[0] for run in self.runs],
            "end_to_end_fps": end_to_end,
            "denoise_fps": self._rates(DENOISE, self.steady),
            "decode_fps": self._rates(DECODE, self.steady),
            "gap_s": [gap for run in self.runs for gap in run.gaps],
            "chunk_s_by_index": [median(gaps) for gaps in zip(*(run.gaps for run in self.runs), strict=False)],
            **{f"stage:{stage}_s": [total.get(stage, 0.0) for total in totals] for stage in stages},
            **{f"chunks:{stage}_s": self._by_chunk(stage) for stage in stages},
        }

    def _by_chunk(self, stage: str) -> list[float]:
        """Seconds in `stage` for each chunk of each generation, 0 where it had none.

        A stage without an index counts for the chunk at work. Each generation takes as many places as it has chunks,
        and one more for stages that ended after the last chunk.
        """
        by_chunk: list[float] = []
        for run in self.runs:
            seconds = [0.0] * (len(run.frames) + 1)
            for span in run.spans:
                if span.depth == 0 and span.stage == stage:
                    chunk = span.chunk if span.index is None else span.index
                    seconds[min(chunk, len(run.frames))] += span.seconds
            by_chunk.extend(seconds)
        return by_chunk

    def notes(self) -> dict[str, Json]:
        """The rule behind the headline, the chunks and frames of a clip, and whether the model's own count agrees."""
        forwards, stated = self.counts.forwards, self.card.forwards_per_chunk
        notes: dict[str, Json] = {
            "steady_rule": self.rule,
            "steady_chunks": list(self.steady),
            "chunks_per_clip": len(self.runs[0].frames),
            "frames_per_chunk": list(self.runs[0].frames),
            "temporal_ratio": self.card.temporal_ratio,
            "latent_frames_per_clip": latents_in(sum(self.runs[0].frames), self.card.temporal_ratio),
            "stop": self.repeated.to_json(),
            "forwards_counted": forwards == forwards,
            "weights": self.card.weights,
        }
        if forwards == forwards and stated is not None and forwards != stated:
            notes["forwards_disagree"] = f"the card says {stated}, {forwards:g} were counted"
        unsupported = [f"p{p}" for p in (50, 90, 99) if not estimates.supports_percentile(p, len(self._steady_gaps()))]
        if unsupported:
            notes["too_few_gaps_for"] = unsupported
        share = median(run.covered for run in self.runs)
        if not abs(share - 1) <= 0.02:
            notes["stages_do_not_add_up"] = f"named stages cover {share:.1%} of the end-to-end time"
        return notes

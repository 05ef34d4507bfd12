"""Measure how many requests fit a memory budget: memory and speed against batch (rule T16)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import numpy as np
from pydantic import Field

from harness.contracts import (
    Agreement,
    Json,
    Measurement,
    ModelCard,
    NotHeld,
    Options,
    Probe,
    ProbeContext,
    Subject,
    Value,
    VideoModel,
    Workload,
)
from harness.errors import ModelFault, NotAvailable, OptionError
from harness.probes.batch_child import OUT_OF_MEMORY, Job, Row, require_budget
from harness.probes.timing.contention import watch
from harness.probes.timing.generation import check_workload, latents_in
from harness.probes.timing.telemetry import Telemetry

NAN = float("nan")
STEADY_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Settings of glibc for batch sizes on a CPU: freed memory goes back at once (mallopt(3); 128 KiB are its own first
thresholds, which it raises as it runs). Otherwise freed blocks that it keeps count as the model's. They vary from run
to run: of one batch size some runs fitted a budget and others did not."""


class BatchScalingOptions(Options):
    """The budget and the bounds of the search.

    Attributes:
        budget_bytes: memory of a process; the independent variable. A suite has one section a budget.
        max_batch: largest batch that is tried.
        timeout_s: seconds after which one batch size counts as failed.
        min_clock_ratio: a timed clip below this share of the device's default clock is thrown away and made anew.
        preload: modules imported before the budget is counted; all that the model imports unless given, as a first
            clip of it without a budget shows.
    """

    budget_bytes: int = Field(gt=0)
    max_batch: int = Field(1024, ge=1)
    timeout_s: float = Field(3600.0, gt=0)
    min_clock_ratio: float = Field(0.75, ge=0, le=1)
    preload: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """Every batch size that was tried, smallest first.

    Attributes:
        largest: the largest that finished; 0 when not even one did.
        bounded: whether a larger one ran out of memory, so that `largest` is the limit and not the end of the search.
    """

    rows: tuple[Row, ...]
    largest: int
    bounded: bool


def search(attempt: Callable[[int], Row], most: int) -> Search:
    """Double the batch until memory runs out or `most` is reached, then bisect to the largest that finishes."""
    rows: dict[int, Row] = {}

    def fits(batch: int) -> bool:
        rows[batch] = attempt(batch)
        return rows[batch].outcome == "ok"

    fitting, batch = 0, 1
    while fitting < most and fits(batch):
        fitting, batch = batch, min(2 * batch, most)
    failing = most + 1 if fitting == most else batch
    while failing - fitting > 1 and failing <= most:
        middle = (fitting + failing) // 2
        if fits(middle):
            fitting = middle
        else:
            failing = middle
    return Search(tuple(rows[key] for key in sorted(rows)), fitting, failing <= most)


def line(rows: Sequence[Row]) -> tuple[float, float]:
    """Slope (bytes a request) and fixed part (bytes) of the memory that the budget limits over batch, least squares.

    NaN where fewer than two batch sizes finished.
    """
    finished = [row for row in rows if row.outcome == "ok"]
    if len(finished) < 2:
        return NAN, NAN
    slope, fixed = np.polyfit([row.batch for row in finished], [row.peak_bytes for row in finished], 1)
    return float(slope), float(fixed)


class BatchScaling(Probe):
    """Runs the model in fresh processes of growing batch, each within the budget and for two full-length clips."""

    version = "5"
    schema = BatchScalingOptions
    plots = ("memory_by_batch",)
    values = (
        Value("budget_bytes", "B", "none", "budget"),
        Value("largest_batch", "requests", "higher", "largest batch", at_least_unless="bounded"),
        Value("bounded", "", "none", "limit found"),
        Value("slope_bytes", "B/request", "lower", "memory per request"),
        Value("fixed_bytes", "B", "lower", "fixed memory"),
        Value("cache_bytes", "B/request", "lower", "cache per request, analytic"),
        Value("cache_share", "", "none", "cache over memory per request"),
        Value("weight_bytes", "B", "lower", "weights"),
        Value("peak_bytes_one", "B", "lower", "peak, one request"),
        Value("peak_bytes_largest", "B", "none", "peak, largest batch"),
        Value("fps_one", "frames/s", "higher", "one request"),
        Value("fps_largest", "frames/s", "higher", "largest batch"),
        Value("clip_one_s", "s", "lower", "clip, one request"),
        Value("clip_largest_s", "s", "lower", "clip, largest batch"),
        Value("agreement_error", "", "none", "relative error against the reference"),
        Value("rejected", "", "none", "clips thrown away"),
        Value("contended", "", "none", "contended"),
    )

    def tiny(self) -> Mapping[str, Json]:
        """One request, and two."""
        return {"max_batch": 2, "timeout_s": min(self.options.timeout_s, 120.0)}

    def check(self, model: VideoModel, workload: Workload) -> None:
        """Refuse clips too short to fill the window."""
        check_length(model.describe(), workload)

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Search the largest batch. The workload's own batch is not used.

        Raises `OptionError` when the budget is smaller than the weights,
        `ModelFault` when a child fails for another reason than memory, or the model does not agree with its reference,
        `NotAvailable` on a CPU elsewhere than on Linux.
        """
        assert subject is not None
        check_workload("batch_scaling", workload)
        require_budget(subject.device)
        telemetry = Telemetry(subject.device)
        job = with_imports(self._job(subject, workload), self.options, context)

        def fits(batch: int) -> Row:
            with context.spans(f"batch {batch}"):
                return attempt(replace(job, batch=batch), self.options.timeout_s)

        with watch(telemetry) as other:
            result = search(fits, self.options.max_batch)
        agreed = agree(replace(job, batch=result.largest), self.options.timeout_s)
        slope, fixed = line(result.rows)
        by_batch = {row.batch: row for row in result.rows if row.outcome == "ok"}
        no_row = Row(0, "out_of_memory")
        one, largest = by_batch.get(1, no_row), by_batch.get(result.largest, no_row)
        cache = float(subject.card.cache_bytes) if subject.card.cache_bytes is not None else NAN
        values = {
            "budget_bytes": float(self.options.budget_bytes),
            "largest_batch": float(result.largest),
            "bounded": float(result.bounded),
            "slope_bytes": slope,
            "fixed_bytes": fixed,
            "cache_bytes": cache,
            "cache_share": cache / slope if slope > 0 else NAN,
            "weight_bytes": one.weight_bytes,
            "peak_bytes_one": one.peak_bytes,
            "peak_bytes_largest": largest.peak_bytes,
            "fps_one": one.fps,
            "fps_largest": largest.fps,
            "clip_one_s": one.clip_s,
            "clip_largest_s": largest.clip_s,
            "rejected": float(sum(row.rejected for row in result.rows)),
        }
        notes: dict[str, Json] = {
            "rows": [_row(row) for row in result.rows],
            "other_work": other.to_json(),
            "allocator": dict({} if subject.device.startswith("cuda") else STEADY_MALLOC),
        }
        if not result.bounded:
            notes["search_ended"] = f"batch {result.largest} still fits; max_batch stopped the search"
        if over_budget := [row for row in result.rows if (row.grown_bytes or 0) > self.options.budget_bytes]:
            most = max(row.grown_bytes or 0 for row in over_budget) - self.options.budget_bytes
            batches = ", ".join(str(row.batch) for row in over_budget)
            notes["over_budget"] = f"by the driver's count batch {batches} took up to {most:g} bytes over the budget"
        if one.notes:
            notes.update(one.notes)
        return Measurement(values, _samples(result.rows), notes, contended=other.contended, agreement=agreed)

    def _job(self, subject: Subject, workload: Workload) -> Job:
        return Job(
            name=subject.name,
            options=subject.options,
            plugins=tuple(str(path) for path in subject.plugins),
            device=subject.device,
            prompts=workload.prompts,
            seeds=workload.seeds,
            frames=workload.frames,
            batch=1,
            budget_bytes=self.options.budget_bytes,
            preload=self.options.preload or (),
            min_clock_ratio=self.options.min_clock_ratio,
        )


class Preloading(Protocol):
    """Options of a probe that holds a model to a budget."""

    preload: tuple[str, ...] | None
    timeout_s: float


def with_imports(job: Job, options: Preloading, context: ProbeContext) -> Job:
    """`job` with what its model imports, as a clip without a budget shows; unless the options name the modules."""
    if options.preload is not None:
        return job
    with context.spans("imports"):
        row = attempt(replace(job, batch=1, learn=True), options.timeout_s)
    return replace(job, imports=tuple(row.imports))


def agree(job: Job, timeout_s: float) -> Agreement | NotHeld:
    """Check the agreement (rule T14) in a process of its own without a budget, since the reference needs memory.

    It is checked at the job's batch. Where even the whole device is too small for both, the batch is halved.
    """
    batch = job.batch
    while batch:
        row = attempt(replace(job, batch=batch, agreement=True), timeout_s)
        if row.outcome == "ok":
            return Agreement(**row.agreement) if row.agreement else "no reference"
        batch //= 2
    return "not taken"


def attempt(job: Job, timeout_s: float) -> Row:
    """Run one batch size; the row of one that finished, or ran out of memory as it generated.

    Raises `ModelFault` where it failed otherwise, `OptionError` where the budget is smaller than the weights, and
    `NotAvailable`.
    """
    row = run_child(job, timeout_s)
    if row.outcome == "failed":
        if row.kind == NotAvailable.__name__:
            raise NotAvailable(*_two_lines(row.message))
        raise ModelFault(f"batch {job.batch} failed: {row.kind or 'process'}: {row.message}")
    if row.outcome == "out_of_memory" and row.at == "load" and not job.agreement:
        raise OptionError(
            f"the budget of {job.budget_bytes} bytes is smaller than the weights of {job.name}", "raise budget_bytes"
        )
    return row


def run_child(job: Job, timeout_s: float) -> Row:
    """Run one batch size in a fresh process. A process that the system ends for its memory is out of memory."""
    try:
        process = subprocess.run(
            [sys.executable, "-m", "harness.probes.batch_child"],
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            # glibc reads these when a process starts, so they cannot be set inside it.
            env=os.environ | ({} if job.device.startswith("cuda") else STEADY_MALLOC),
        )
    except subprocess.TimeoutExpired:
        return Row(job.batch, "failed", message=f"no answer within {timeout_s:g} s", kind="timeout")
    if process.returncode == 0 and process.stdout.strip():
        return Row(**json.loads(process.stdout))
    errors = process.stderr.strip()
    # The system's own killer sends SIGKILL and leaves no words; a failed allocation in C++ aborts and leaves some.
    if process.returncode == -9 or any(words in errors.lower() for words in (*OUT_OF_MEMORY, "memoryerror")):
        return Row(job.batch, "out_of_memory", "generate", f"ended by signal {-process.returncode}")
    last = errors.splitlines()[-1] if errors else "no message"
    return Row(job.batch, "failed", message=f"exit status {process.returncode}: {last}", kind="process")


def check_length(card: ModelCard, workload: Workload) -> None:
    """Raise `OptionError` unless the clip fills the window: memory before that says nothing about the limit."""
    latents = latents_in(workload.frames, card.temporal_ratio)
    if card.window_frames is not None and latents < card.window_frames:
        least = (card.window_frames - 1) * card.temporal_ratio + 1
        raise OptionError(
            f"{workload.frames} frames are {latents} latent frames: the window of {card.window_frames} is never full",
            f"set frames to at least {least}",
        )


def _samples(rows: Sequence[Row]) -> Mapping[str, Sequence[float]]:
    """One entry a batch size, smallest first; `fits` is 1 or 0."""
    names = ("batch", "peak_bytes", "fps", "clip_s", "first_chunk_s")
    fits = [float(row.outcome == "ok") for row in rows]
    return {"fits": fits, **{name: [float(getattr(row, name)) for row in rows] for name in names}}


def _row(row: Row) -> dict[str, Json]:
    names = ("batch", "outcome", "at", "message", "held_bytes", "driver_bytes", "grown_bytes", "rejected")
    return {name: getattr(row, name) for name in names} | {"allocation_failures": dict(row.failures)}


def _two_lines(text: str) -> tuple[str, str]:
    message, _, fix = text.partition("\n")
    return message, fix.strip()

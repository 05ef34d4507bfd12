"""Measure how many viewers a device holds in real time within a memory budget: batches bound by bytes and by time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from harness.contracts import Json, Measurement, Options, Probe, ProbeContext, Subject, Value, VideoModel, Workload
from harness.errors import OptionError
from harness.probes.batch_child import Job, Row, require_budget
from harness.probes.batch_scaling import agree, attempt, check_length, search, with_imports
from harness.probes.timing.contention import watch
from harness.probes.timing.generation import check_workload
from harness.probes.timing.telemetry import Telemetry
from harness.stats import estimates

NAN = float("nan")


class SessionsOptions(Options):
    """The budget, and what in real time means.

    Attributes:
        budget_bytes: memory of a process, as for `batch_scaling`.
        frame_rate: frames per second of every viewer; the model's unless given.
        percent: share of the gaps between chunks, in percent, that must not be longer than a chunk plays.
        max_batch: largest batch that is tried.
        timeout_s: seconds after which one batch size counts as failed.
        min_clock_ratio: a timed clip below this share of the device's default clock is thrown away and made anew.
        preload: modules imported before the budget is counted, as for `batch_scaling`.
    """

    budget_bytes: int = Field(gt=0)
    frame_rate: float | None = Field(None, gt=0)
    percent: float = Field(99.0, gt=0, lt=100)
    max_batch: int = Field(1024, ge=1)
    timeout_s: float = Field(3600.0, gt=0)
    min_clock_ratio: float = Field(0.75, ge=0, le=1)
    preload: tuple[str, ...] | None = None


def gaps_needed(percent: float) -> int:
    """The fewest samples that support this percentile (rule T9)."""
    count = 1
    while not estimates.supports_percentile(percent, count):
        count += 1
    return count


class Sessions(Probe):
    """Finds the largest batch whose chunks come as fast as each of its viewers plays them, and that fits the memory.

    Every batch size runs in a fresh process within the budget (rule T16), for as many clips as the percentile of its
    gaps needs (rule T9). Only gaps of a full window count (rule T7).
    """

    schema = SessionsOptions
    values = (
        Value("sessions", "", "higher", "sessions in real time", at_least_unless="bounded"),
        Value("bounded", "", "none", "limit found"),
        Value("limit_s", "s", "none", "a chunk plays"),
        Value("gap_s", "s", "lower", "gap, at the largest"),
        Value("gap_one_s", "s", "lower", "gap, one session"),
        Value("bound_by_time", "", "none", "bound by time"),
        Value("bound_by_memory", "", "none", "bound by memory"),
        Value("fps", "frames/s", "higher", "frames of all, at the largest"),
        Value("budget_bytes", "B", "none", "budget"),
        Value("peak_bytes", "B", "none", "peak, at the largest"),
        Value("contended", "", "none", "contended"),
        Value("agreement_error", "", "none", "relative error against the reference"),
    )

    def tiny(self) -> Mapping[str, Json]:
        """One viewer and two, by the median of the gaps, which few clips support."""
        return {"max_batch": 2, "percent": 50.0, "timeout_s": min(self.options.timeout_s, 120.0)}

    def check(self, model: VideoModel, workload: Workload) -> None:
        """Refuse prompt switches, and clips too short to fill the window."""
        if workload.switches:
            raise OptionError("it takes no prompt switches", "leave `switches` out of its section")
        check_length(model.describe(), workload)

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Search the largest batch. The workload's own batch is not used; 0 where not even one keeps up.

        The agreement with the reference is that of this batch (rule T14). Raises as `batch_scaling` does.
        """
        assert subject is not None
        check_workload("sessions", workload)
        require_budget(subject.device)
        options: SessionsOptions = self.options
        limit = subject.card.frames_per_chunk / (options.frame_rate or subject.card.frame_rate)
        rows: dict[int, Row] = {}
        job = with_imports(self._job(subject, workload), options, context)

        def keeps_up(batch: int) -> Row:
            with context.spans(f"batch {batch}"):
                rows[batch] = attempt(replace(job, batch=batch), options.timeout_s)
            late = rows[batch].outcome == "ok" and not self._gap(rows[batch]) <= limit
            return replace(rows[batch], outcome="failed", message="late") if late else rows[batch]

        with watch(Telemetry(subject.device)) as other:
            result = search(keeps_up, options.max_batch)
        agreed = agree(replace(job, batch=max(1, result.largest)), options.timeout_s)
        at_largest, one = rows.get(result.largest), rows.get(1)
        above = [row for batch, row in rows.items() if batch > result.largest]
        values = {
            "sessions": float(result.largest),
            "bounded": float(result.bounded),
            "limit_s": limit,
            "gap_s": self._gap(at_largest),
            "gap_one_s": self._gap(one),
            "bound_by_time": float(any(row.outcome == "ok" for row in above)),
            "bound_by_memory": float(any(row.outcome == "out_of_memory" for row in above)),
            "fps": at_largest.fps if at_largest else NAN,
            "budget_bytes": float(options.budget_bytes),
            "peak_bytes": at_largest.peak_bytes if at_largest else NAN,
        }
        notes: dict[str, Json] = {"percent": options.percent, "gaps_needed": gaps_needed(options.percent)}
        notes["other_work"] = other.to_json()
        if not result.bounded:
            notes["search_ended"] = f"batch {result.largest} keeps up; max_batch stopped the search"
        if one is not None and one.notes:
            notes.update(one.notes)
        return Measurement(values, self._samples(rows, limit), notes, contended=other.contended, agreement=agreed)

    def _gap(self, row: Row | None) -> float:
        """The percentile of the gaps of one batch size; NaN where there is none."""
        return estimates.percentile(row.gaps, self.options.percent) if row is not None and row.gaps else NAN

    def _samples(self, rows: Mapping[int, Row], limit: float) -> dict[str, Sequence[float]]:
        """One entry a batch size, smallest first, and every gap of each as `gaps:<batch>`."""
        ordered = [rows[batch] for batch in sorted(rows)]
        gaps = [self._gap(row) for row in ordered]
        return {
            "batch": [float(row.batch) for row in ordered],
            "fits": [float(row.outcome == "ok") for row in ordered],
            "in_time": [float(not math.isnan(gap) and gap <= limit) for gap in gaps],
            "gap_s": gaps,
            "fps": [row.fps for row in ordered],
            "peak_bytes": [row.peak_bytes for row in ordered],
            **{f"gaps:{row.batch}": row.gaps for row in ordered},
        }

    def _job(self, subject: Subject, workload: Workload) -> Job:
        options: SessionsOptions = self.options
        return Job(
            name=subject.name,
            options=subject.options,
            plugins=tuple(str(path) for path in subject.plugins),
            device=subject.device,
            prompts=workload.prompts,
            seeds=workload.seeds,
            frames=workload.frames,
            batch=1,
            budget_bytes=options.budget_bytes,
            preload=options.preload or (),
            min_clock_ratio=options.min_clock_ratio,
            least_gaps=gaps_needed(options.percent),
        )

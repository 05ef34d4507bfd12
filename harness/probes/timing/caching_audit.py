"""Audit a model for answering repeated requests from a cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from statistics import median

from harness.contracts import Audit, AuditVerdict, Request, VideoModel, Workload
from harness.probes.timing.clock import SECOND, Clock, no_garbage_collection
from harness.stats.estimates import chance_of_lower

ORDER = "DSSD"
"""Distinct, same, same, distinct: drift of the device cancels (rule T12)."""

ACCUSE_BELOW = 1e-6
"""A model is accused where noise alone would order repeats as far in front in fewer than one of a million audits. Six
blocks are the fewest that can show it: 12 repeats all faster than 12 distinct requests are one order in 2.7 million."""

PLAIN = 0.5
"""Share of the time below which a repeat looks like a cache plainly enough to be followed up whatever it costs."""

MOST_BLOCKS = 10
"""Blocks after which an unproven suspicion stays `unclear`; chosen here, well above the six."""

MEDIAN_FROM = 6
"""Repeats from which on a median is little moved by one stall."""


@dataclass(frozen=True, slots=True)
class TakenAudit:
    """An audit (rule T13), and what it took.

    Attributes:
        ratio: median seconds of a repeated request over those of distinct ones; NaN when left out.
        fault: the reason, when it failed.
        used: distinct requests that it consumed.
    """

    audit: Audit
    ratio: float
    fault: str
    used: int

    @property
    def verdict(self) -> AuditVerdict:
        """Of the audit."""
        return self.audit.verdict


def take(
    clock: Clock,
    model: VideoModel,
    workload: Workload,
    first: int,
    pairs: int,
    tolerance: float,
    ceiling_s: float = float("inf"),
) -> TakenAudit:
    """Run `pairs` blocks of two distinct requests and twice a request that was run before.

    Where repeats are faster by more than `tolerance`, blocks are added: until they no longer are (`passed`), until
    chance is ruled out (`failed`, see `ACCUSE_BELOW`), or until `MOST_BLOCKS` have run (`unclear`). Where the ratio is
    not below `PLAIN`, `ceiling_s` seconds end it too. The medians count. With fewer than `MEDIAN_FROM` samples the
    fastest count too, so that one stall hides no cache. It fails too when two distinct requests give the same pixels.
    Time counts while the model works, not while its pixels are hashed.

    Args:
        first: number of the first distinct request that may be used.
    """
    if not pairs:
        return TakenAudit(Audit("left out"), float("nan"), "", 0)
    runs = _Runs(clock, model, workload, first)
    for _ in range(pairs):
        runs.block()
    fault = runs.alike()
    verdict: AuditVerdict = "passed"
    # Blocks are only added on suspicion, so a model that caches nothing pays for `pairs` of them.
    while not fault and runs.suspicion < 1 - tolerance:
        verdict = "unclear"
        if runs.ratio < 1 - tolerance and chance_of_lower(runs.same_s, runs.distinct_s) < ACCUSE_BELOW:
            fault = f"a repeated request took {runs.ratio:.0%} of the time of distinct ones: results are cached"
            break
        # A block has two repeats.
        if len(runs.same_s) >= 2 * max(pairs, MOST_BLOCKS) or (runs.seconds >= ceiling_s and runs.ratio >= PLAIN):
            break
        runs.block()
        verdict, fault = "passed", runs.alike()
    verdict = "failed" if fault else verdict
    return TakenAudit(Audit(verdict, runs.distinct_s, runs.same_s), runs.ratio, fault, runs.used)


@dataclass(slots=True)
class _Runs:
    """Every generation of an audit: seconds of distinct and of repeated requests, and the pixels' digests."""

    clock: Clock
    model: VideoModel
    workload: Workload
    first: int
    used: int = 1
    distinct_s: list[float] = field(default_factory=list)
    same_s: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Not timed: the first of the equal requests is as distinct as any other.
        self.digests.add(self._run(self._same)[1])

    @property
    def _same(self) -> Request:
        return self.workload.request(self.first)

    @property
    def ratio(self) -> float:
        distinct = median(self.distinct_s)
        return median(self.same_s) / distinct if distinct > 0 else float("nan")

    @property
    def seconds(self) -> float:
        """Seconds that the model has worked."""
        return sum(self.distinct_s) + sum(self.same_s)

    @property
    def suspicion(self) -> float:
        """`ratio`, or that of the fastest samples where it is lower and there are few."""
        distinct = min(self.distinct_s)
        if len(self.same_s) >= MEDIAN_FROM or not distinct > 0:
            return self.ratio
        return min(self.ratio, min(self.same_s) / distinct)

    def block(self) -> None:
        """One block of requests in `ORDER`."""
        for kind in ORDER:
            if kind == "S":
                self.same_s.append(self._run(self._same)[0])
                continue
            seconds, digest = self._run(self.workload.request(self.first + self.used))
            self.distinct_s.append(seconds)
            self.digests.add(digest)
            self.used += 1

    def alike(self) -> str:
        """The fault where distinct requests gave the same pixels; empty where they did not."""
        if len(self.digests) == self.used:
            return ""
        clips = f"{self.used} distinct requests gave {len(self.digests)} different clips"
        return f"{clips}: results are cached, or seeds ignored"

    def _run(self, request: Request) -> tuple[float, str]:
        """Seconds that the model worked on `wanted`, and the digest of its pixels."""
        digest, worked = hashlib.sha256(), 0
        with no_garbage_collection():
            stream = self.model.stream(request)
            while True:
                start = self.clock.point()
                chunk = next(stream, None)
                worked += self.clock.point() - start
                if chunk is None:
                    return worked / SECOND, digest.hexdigest()
                digest.update(chunk.tobytes())

"""The caching audit: a repeated request must not be faster than distinct ones, and distinct ones must differ."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from statistics import median

from harness.contracts import Json, Request, VideoModel, Workload
from harness.probes.clock import SECOND, Clock, no_garbage_collection
from harness.probes.generation import request

ORDER = "DSSD"
"""Distinct, same, same, distinct: drift of the device cancels (rule T12)."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What the audit found (rule T13).

    Attributes:
        ratio: median seconds of a repeated request over those of distinct ones; NaN when left out.
        verdict: `passed`, `failed`, `unclear` or `left out`.
        fault: what is wrong, when it failed.
        used: distinct requests that it consumed.
    """

    ratio: float
    verdict: str
    fault: str
    used: int
    distinct_s: tuple[float, ...] = ()
    same_s: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """For a record's notes."""
        return {"verdict": self.verdict, "distinct_s": list(self.distinct_s), "same_s": list(self.same_s)}


def take(clock: Clock, model: VideoModel, workload: Workload, first: int, pairs: int, tolerance: float) -> Audit:
    """Run `pairs` blocks of two distinct requests and twice a request that was run before.

    It fails when repeats are faster by more than `tolerance` and every repeat beats every distinct request, so that
    noise alone rarely fails it; faster without that is `unclear`. It fails too when two distinct requests give the
    same pixels. Time is counted while the model works, not while its pixels are hashed.

    Args:
        first: number of the first distinct request that may be used.
    """
    if not pairs:
        return Audit(float("nan"), "left out", "", 0)
    same = request(workload, first)
    _, known = _run(clock, model, same)
    used, distinct_s, same_s, digests = 1, [], [], {known}
    for kind in ORDER * pairs:
        if kind == "S":
            same_s.append(_run(clock, model, same)[0])
            continue
        seconds, digest = _run(clock, model, request(workload, first + used))
        distinct_s.append(seconds)
        digests.add(digest)
        used += 1
    ratio = median(same_s) / median(distinct_s) if median(distinct_s) > 0 else float("nan")
    fault, verdict = "", "passed"
    if len(digests) < used:
        fault = f"{used} distinct requests gave {len(digests)} different clips: results are cached, or seeds ignored"
    elif ratio < 1 - tolerance:
        verdict = "unclear"
        if max(same_s) < min(distinct_s):
            fault = f"a repeated request took {ratio:.0%} of the time of distinct ones: results are cached"
    return Audit(ratio, "failed" if fault else verdict, fault, used, tuple(distinct_s), tuple(same_s))


def _run(clock: Clock, model: VideoModel, wanted: Request) -> tuple[float, str]:
    """Seconds that the model worked on `wanted`, and the digest of its pixels."""
    digest, spent = hashlib.sha256(), 0
    with no_garbage_collection():
        stream = model.stream(wanted)
        while True:
            start = clock.point()
            chunk = next(stream, None)
            spent += clock.point() - start
            if chunk is None:
                return spent / SECOND, digest.hexdigest()
            digest.update(chunk.tobytes())

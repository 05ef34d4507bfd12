"""Try a registered metric against its contract: what it declares, its arithmetic over clips, and scores of clips."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Clip, Json, Metric, Value, enforce, registry
from harness.errors import ClipError, PluginFault
from harness.system import video
from harness.system.digests import canonical
from harness.testing.finding import Finding, attempt, left_out
from harness.testing.values import declared

PROMPT = "a red square moves slowly to the left on a navy background"
NAN = float("nan")


def check_metric(
    name: str, options: Mapping[str, Json] | None = None, device: str = "cpu", live: bool | None = None
) -> list[Finding]:
    """Try the registered metric `name` against its contract, on a small clip of a moving square.

    Scoring is tried only where the metric says that it is available, and `live` lets it: unless given, a metric of an
    environment of its own is not scored, and others score one clip. With `live` every metric also scores a clip of one
    frame, a longer one and one with a prompt switch. Raises `HarnessError` only for an unknown name or wrong options.
    """
    metric = registry.metrics.create(name, options or {})
    findings: list[Finding] = []
    attempt(findings, "values", lambda: declared([*metric.values, *metric.derived]))
    attempt(findings, "identity", lambda: canonical(dict(metric.identity())))
    attempt(findings, "asked_for", lambda: _asked_for(metric))
    for value in metric.values:
        attempt(findings, f"aggregate {value.name}", partial(_aggregates, metric, value.name))
    attempt(findings, "keep", lambda: _keeps(metric))
    for kind, every in _means(metric):
        attempt(findings, f"derive of {kind} means", partial(_derives, metric, kind, every))
    attempt(findings, "samples before a score", lambda: _samples_of(metric))
    state = attempt(findings, "available", metric.available)
    if state is None:
        return findings
    if not state.ready:
        left_out(findings, "score", state.reason, state.fix)
    elif live or (live is None and metric.environment == "core"):
        _score_all(findings, metric, device, bool(live))
    else:
        left_out(findings, "score", f"it runs in environment {metric.environment!r}", "try --live")
    return findings


# ------------------------------------------------------------------------------------------- over clips


def _asked_for(metric: Metric) -> None:
    names = {value.name for value in (*metric.values, *metric.derived)}
    if unknown := sorted(enforce.asked_for(metric) - names):
        raise PluginFault(f"asked_for names what it does not declare: {', '.join(unknown)}")


def _aggregates(metric: Metric, name: str) -> None:
    for scores in ([], [0.5], [0.25, 0.75]):
        total = metric.aggregate(name, scores)
        if not isinstance(total, float):
            raise PluginFault(f"aggregate of {len(scores)} scores is a {type(total).__qualname__}, not a float")


def _keeps(metric: Metric) -> None:
    """Of no clip, of two, and of two of which one does not define the value."""
    for value in metric.values:
        for scores in ([], [0.25, 0.75], [0.25, NAN]):
            kept = enforce.keep(metric, value.name, list(range(len(scores))), scores)
            if len(scores) == 2 and math.isnan(scores[1]) and kept[1]:
                raise PluginFault(f"keep of {value.name} counts a clip that does not define it")


def _means(metric: Metric) -> Iterator[tuple[str, Sequence[Mapping[str, float]]]]:
    """Means by name: of all values, of some of them, undefined ones, and none."""
    every = {value.name: _inside(value) for value in metric.values}
    names = list(every)
    some = [{name: every[name] for name in names if name != absent} for absent in names]
    some += [{name: every[name]} for name in names]
    yield "all", [every]
    yield "some", some
    yield "undefined", [dict.fromkeys(names, NAN)]
    yield "no", [{}]


def _inside(value: Value) -> float:
    """A number that the value may have: 0.5 unless its bounds say otherwise."""
    return min(max(0.5, -math.inf if value.low is None else value.low), math.inf if value.high is None else value.high)


def _derives(metric: Metric, kind: str, every: Sequence[Mapping[str, float]]) -> None:
    names = {value.name for value in metric.derived}
    for means in every:
        derived = enforce.derive(metric, means)
        if unknown := sorted(set(derived) - names):
            raise PluginFault(f"derive gives what it does not declare: {', '.join(unknown)}", "add it to `derived`")
        if infinite := sorted(name for name, number in derived.items() if math.isinf(number)):
            raise PluginFault(f"derive gives an infinite {infinite[0]}", "leave out what cannot be made")
    lacking = sorted((names & enforce.asked_for(metric)) - set(enforce.derive(metric, every[0])))
    if kind == "all" and lacking:
        raise PluginFault(f"derive gives no {', '.join(lacking)} though every mean is there")


# --------------------------------------------------------------------------------------------- of clips


def _score_all(findings: list[Finding], metric: Metric, device: str, live: bool) -> None:
    """Set the metric up, and score the clips; many only with `live`."""
    with tempfile.TemporaryDirectory(prefix="videomla-bench-") as folder:
        clips = _clips(Path(folder))
        try:
            attempt(findings, "setup", lambda: metric.setup(device))
            if findings[-1].ok:
                for name, clip in clips if live else itertools.islice(clips, 1):
                    if metric.takes_reference:
                        clip = replace(clip, reference=clip)
                    attempt(findings, name, partial(_scores, metric, clip))
        finally:
            metric.close()


def _clips(folder: Path) -> Iterator[tuple[str, Clip]]:
    """Clips by the name of their check, the one of the fast check first; each is written when it is asked for."""
    yield "score", sample_clip(folder / "clip.mp4")
    yield "score of one frame", sample_clip(folder / "one.mp4", frames=1)
    yield "score of a longer clip", sample_clip(folder / "long.mp4", frames=81, size=64)
    switches = ((11, "a blue square moves slowly to the left on a navy background"),)
    yield "score of a clip with a prompt switch", sample_clip(folder / "switch.mp4", switches=switches)


def sample_clip(path: Path, frames: int = 21, size: int = 32, switches: tuple[tuple[int, str], ...] = ()) -> Clip:
    """A clip of a red square that moves to the left over navy, written to `path`."""
    pixels = np.zeros((frames, size, size, 3), np.uint8)
    pixels[:] = (0, 0, 128)
    for index in range(frames):
        place = (21 - index) % (size - 8)
        pixels[index, 12:20, place : place + 8] = (220, 30, 30)
    info: Any = video.write(path, [pixels], 16.0, 8, "veryfast")
    read: Callable[[], Any] = partial(video.read, path)
    return Clip(path, PROMPT, 0, 0, frames, size, size, 16.0, info["digest"], read, switches)


def _scores(metric: Metric, clip: Clip) -> None:
    owner = "the metric"
    try:
        first = enforce.values(owner, metric.values, metric.score(clip))
    except ClipError:  # a metric may decline a clip that it has no rule for
        return
    again = enforce.values(owner, metric.values, metric.score(clip))
    if {name: repr(value) for name, value in first.items()} != {name: repr(value) for name, value in again.items()}:
        raise PluginFault("the same clip scored twice gives two scores")
    _curves(metric, clip)
    canonical(dict(metric.notes()))


def _samples_of(metric: Metric) -> dict[str, list[float]]:
    """The metric's samples as numbers. Raises `PluginFault` for what is none."""
    samples = metric.samples()
    if not isinstance(samples, Mapping):
        raise PluginFault(f"samples() gives a {type(samples).__qualname__}, not a mapping by name")
    return {str(name): [float(number) for number in numbers] for name, numbers in samples.items()}


def _curves(metric: Metric, clip: Clip) -> None:
    """Raise `PluginFault` unless every curve has samples, and as many places as numbers."""
    samples = _samples_of(metric)
    for curve in metric.curves:
        name, places = curve.value.name, curve.starts or curve.frames
        if name not in samples:
            raise PluginFault(f"it declares the curve {name!r}, and samples() has none of that name")
        count = len(samples[name])
        if places and len(samples.get(places, ())) != count:
            raise PluginFault(f"the curve {name!r} has {count} numbers, and {len(samples.get(places, ()))} {places!r}")
        if count > clip.frames and curve.kind != "distance":
            raise PluginFault(f"the curve {name!r} has {count} numbers along a clip of {clip.frames} frames")

"""Try a plug-in against its contract: for authors of models, metrics and probes, and behind `harness check`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.contracts import (
    Clip,
    Frames,
    Json,
    Metric,
    ModelCard,
    Request,
    Switch,
    Value,
    VideoModel,
    registry,
)
from harness.contracts.enforce import agreement, chunks, values
from harness.errors import (
    ClipError,
    HarnessError,
    ModelFault,
    NotAvailable,
    OptionError,
    PluginFault,
    RegistryError,
    WeightsError,
    nearest,
)
from harness.system import video
from harness.system.digests import canonical

T = TypeVar("T")

LIVE_PARAMETERS = 50_000_000
"""Models up to this size are run by `check_model` without being asked to."""


# ------------------------------------------------------------------------------------- harness check


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: `ok` is None where it could not be tried, and `detail` says why."""

    name: str
    ok: bool | None
    detail: str = ""


def check_named(
    name: str, options: Mapping[str, Json] | None = None, device: str = "cpu", live: bool | None = None
) -> list[Finding]:
    """Try whatever is registered under `name`: a model, else a metric, else a probe. Raises `RegistryError`."""
    if name in registry.models.names():
        return check_model(name, options, device, live)
    if name in registry.metrics.names():
        return check_metric(name, options, device)
    if name in registry.probes.names():
        return check_probe(name, options, device)
    names = [*registry.models, *registry.metrics, *registry.probes]
    fix = f"{nearest(name, names)}; what a file of yours registers wants --plugin FILE"
    raise RegistryError(f"no model, metric or probe is called {name!r}", fix)


def check_model(
    name: str, options: Mapping[str, Json] | None = None, device: str = "cpu", live: bool | None = None
) -> list[Finding]:
    """Try the registered model `name` against its contract.

    Its weights are loaded and clips are made only where `live` says so; unless given, that is for models of up to
    `LIVE_PARAMETERS` weights. Raises `HarnessError` only for an unknown name or wrong options.
    """
    model = registry.models.create(name, options or {})
    findings: list[Finding] = []
    card = _try(findings, "describe", lambda: _card(model))
    _try(findings, "identity", lambda: canonical(dict(model.identity(device.partition(":")[0]))))
    if card is None:
        return findings
    if model.existing:
        _existing(findings, model)
        return findings
    if live is None:
        live = (card.parameters or 0) <= LIVE_PARAMETERS
    if not live:
        findings.append(Finding("stream", None, f"not run: {card.parameters} parameters"))
        return findings
    try:
        model.load(device)
    except (NotAvailable, WeightsError) as error:
        findings.append(Finding("load", None, error.message))
        return findings
    _live(findings, model, card, device)
    return findings


def _existing(findings: list[Finding], model: VideoModel) -> None:
    """Whether every clip that is there can be taken; each is decoded."""
    states = _try(findings, "inventory", lambda: model.inventory(None, 0, True))
    if states is not None:
        good = sum(state.state == "ok" for state in states)
        findings.append(Finding("clips", good == len(states) > 0, f"{good} of {len(states)} can be taken"))
        findings += [
            Finding(state.file, False, f"{state.state}: {state.detail}") for state in states if state.state != "ok"
        ]


def _card(model: VideoModel) -> ModelCard:
    card = model.describe()
    if not isinstance(card, ModelCard):
        raise ModelFault(f"describe() gave a {type(card).__qualname__}, not a ModelCard")
    json.dumps(asdict(card), allow_nan=False)
    if min(card.height, card.width, card.frames_per_chunk, card.temporal_ratio) < 1 or not card.frame_rate > 0:
        raise ModelFault("height, width, frames_per_chunk, temporal_ratio and frame_rate must be positive")
    if model.describe() != card:
        raise ModelFault("describe() differs from call to call")
    return card


def _live(findings: list[Finding], model: VideoModel, card: ModelCard, device: str) -> None:
    frames = 3 * card.frames_per_chunk + 1
    prompt = "a red circle moves slowly to the left on a navy background"

    def clip(seed: int = 0, count: int = frames) -> Frames:
        request = Request((prompt,), (seed,), count)
        return np.concatenate([chunk[0] for chunk in chunks(model, request, card)])

    first = _try(findings, f"stream of {frames} frames", clip)
    if first is None:
        return
    _try(findings, "stream of 1 frame", lambda: clip(count=1))
    _try(findings, "equal seeds give equal clips", lambda: _equal(first, clip()))
    _batch(findings, model, card, device, prompt, clip)
    _switches(findings, model, card, prompt, first)
    _try(findings, "a stream left early does no harm", lambda: _left_early(model, card, prompt, frames))
    _try(findings, "clip unchanged after a stream was left", lambda: _equal(first, clip()))
    model.unload()
    _try(findings, "load again", lambda: model.load(device))
    _try(findings, "clip unchanged after loading again", lambda: _equal(first, clip()))
    result = _try(findings, "agreement with its reference", lambda: agreement(model, Request((prompt,), (0,), frames)))
    if result is None and findings[-1].ok:
        findings[-1] = replace(findings[-1], ok=None, detail="it has none, so its speed will be marked")
    model.unload()


def _batch(
    findings: list[Finding], model: VideoModel, card: ModelCard, device: str, prompt: str, clip: Callable[[int], Frames]
) -> None:
    """Whether a batch gives the clips that requests of one clip give, where the model says that it does."""
    group = model.batch_group(prompt, 0)
    seeds = tuple(seed for seed in range(8) if model.batch_group(prompt, seed) == group)[:2]
    alone = [clip(seed) for seed in seeds]
    request = Request((prompt,) * len(seeds), seeds, len(alone[0]))
    try:
        model.check_request(request)
    except OptionError as refused:
        findings.append(Finding("a batch", None, refused.message))
        return
    made = _try(findings, f"a batch of {len(seeds)}", lambda: np.concatenate(list(chunks(model, request, card)), 1))
    if made is None:
        return
    name = "a clip of a batch equals the clip by itself"
    if model.batch_may_change_pixels(device.partition(":")[0]):
        findings.append(Finding(name, None, "it need not, since the keys of this model hold the batch"))
    else:
        _try(findings, name, lambda: _equal(np.stack(alone), made))


def _switches(findings: list[Finding], model: VideoModel, card: ModelCard, prompt: str, plain: Frames) -> None:
    """Whether a switch leaves every frame alone before the one that the model states."""
    name = "a prompt switch changes nothing before the frame that it states"
    switch = Switch(card.frames_per_chunk + 1, (prompt.replace("red", "blue"),))
    request = Request((prompt,), (0,), len(plain), (switch,))
    try:
        model.check_request(request)
        frame = next(iter(model.switch_frames(request)))
    except OptionError as refused:
        findings.append(Finding(name, None, refused.message))
        return
    if frame is None:
        findings.append(Finding(name, None, "it states none; metrics judge from the frame that was asked for"))
        return

    def switched() -> None:
        clip = np.concatenate([chunk[0] for chunk in chunks(model, request, card)])
        _equal(plain[:frame], clip[:frame])

    _try(findings, name, switched)


def _equal(one: Frames, other: Frames) -> None:
    if not np.array_equal(one, other):
        raise ModelFault(f"{int((one != other).sum())} of {one.size} bytes differ")


def _left_early(model: VideoModel, card: ModelCard, prompt: str, frames: int) -> None:
    stream = chunks(model, Request((prompt,), (1,), frames), card)
    next(stream)
    stream.close()


def check_metric(name: str, options: Mapping[str, Json] | None = None, device: str = "cpu") -> list[Finding]:
    """Try the registered metric `name` against its contract, on a small clip of a moving square.

    Scoring is tried only where the metric says that it is available. Raises `HarnessError` only for an unknown name
    or wrong options.
    """
    metric = registry.metrics.create(name, options or {})
    findings: list[Finding] = []
    _try(findings, "values", lambda: _declared([*metric.values, *metric.derived]))
    _try(findings, "identity", lambda: canonical(dict(metric.identity())))
    for value in metric.values:
        _try(findings, f"aggregate {value.name}", partial(_aggregates, metric, value.name))
    state = metric.available()
    if not state.ready:
        findings.append(Finding("score", None, state.reason))
        return findings
    with tempfile.TemporaryDirectory(prefix="videomla-bench-") as folder:
        clip = _sample(Path(folder) / "clip.mp4")
        if metric.takes_reference:
            clip = replace(clip, reference=clip)
        try:
            _try(findings, "setup", lambda: metric.setup(device))
            if findings[-1].ok:
                _try(findings, "score", lambda: _scores(metric, clip))
        finally:
            metric.close()
    return findings


def check_probe(name: str, options: Mapping[str, Json] | None = None, device: str = "cpu") -> list[Finding]:
    """Try the registered probe `name` against its contract, short of measuring.

    Raises `HarnessError` only for an unknown name or wrong options.
    """
    probe = registry.probes.create(name, options or {})
    findings: list[Finding] = []
    _try(findings, "values", lambda: _declared(probe.values))
    _try(findings, "identity", lambda: canonical(dict(probe.identity())))
    state = _try(findings, "available", lambda: probe.available(device))
    if state is not None and not state.ready and not state.reason:
        findings.append(Finding("available", False, "it is not, and does not say why"))
    return findings


def _declared(value_list: Sequence[Value]) -> None:
    names = [value.name for value in value_list]
    if not names or len(set(names)) != len(names):
        raise PluginFault(f"values must be declared, each once; declared: {', '.join(names) or 'none'}")
    if wrong := [name for name in names if not name or ":" in name or not name.isprintable()]:
        raise PluginFault(f"a table cannot name the values {wrong}")


def _aggregates(metric: Metric, name: str) -> None:
    for scores in ([], [0.5], [0.25, 0.75]):
        total = metric.aggregate(name, scores)
        if not isinstance(total, float):
            raise PluginFault(f"aggregate of {len(scores)} scores is a {type(total).__qualname__}, not a float")


def _scores(metric: Metric, clip: Clip) -> None:
    owner = "the metric"
    try:
        first = values(owner, metric.values, metric.score(clip))
    except ClipError:  # a metric may decline a clip that it has no rule for
        return
    again = values(owner, metric.values, metric.score(clip))
    if {name: repr(value) for name, value in first.items()} != {name: repr(value) for name, value in again.items()}:
        raise PluginFault("the same clip scored twice gives two scores")
    _curves(metric, clip)


def _curves(metric: Metric, clip: Clip) -> None:
    """Raise `PluginFault` unless every curve has samples, and as many places as numbers."""
    samples = metric.samples()
    for curve in metric.curves:
        name, places = curve.value.name, curve.starts or curve.frames
        if name not in samples:
            raise PluginFault(f"it declares the curve {name!r}, and samples() has none of that name")
        count = len(samples[name])
        if places and len(samples.get(places, ())) != count:
            raise PluginFault(f"the curve {name!r} has {count} numbers, and {len(samples.get(places, ()))} {places!r}")
        if count > clip.frames and curve.kind != "distance":
            raise PluginFault(f"the curve {name!r} has {count} numbers along a clip of {clip.frames} frames")


def _sample(path: Path) -> Clip:
    """A clip of a red square that moves to the left over navy."""
    frames = np.zeros((21, 32, 32, 3), np.uint8)
    frames[:] = (0, 0, 128)
    for index in range(21):
        frames[index, 12:20, 21 - index : 29 - index] = (220, 30, 30)
    prompt = "a red square moves slowly to the left on a navy background"
    info: Any = video.write(path, [frames], 16.0, 8, "veryfast")
    return Clip(path, prompt, 0, 0, 21, 32, 32, 16.0, info["digest"], lambda: video.read(path))


def _try(findings: list[Finding], name: str, step: Callable[[], T]) -> T | None:
    """Note how `step` ends; its result, or None when it failed."""
    try:
        result = step()
    except HarnessError as error:
        findings.append(Finding(name, False, error.message))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        findings.append(Finding(name, False, f"{type(error).__name__}: {error}"))
    else:
        findings.append(Finding(name, True))
        return result
    return None

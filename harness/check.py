"""What a plug-in must keep to: enforced on every chunk and score of a run, and tried out by `harness check`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

from harness import registry
from harness.contracts import Frames, Json, ModelCard, Request, Spans, Value, VideoModel, no_spans
from harness.errors import HarnessError, ModelFault, NotAvailable, PluginFault, WeightsError
from harness.identity import canonical

T = TypeVar("T")
LIVE_PARAMETERS = 50_000_000
"""Models up to this size are run by `check_model` without being asked to."""


def chunks(
    model: VideoModel, request: Request, card: ModelCard, spans: Spans = no_spans
) -> Generator[Frames, None, None]:
    """The chunks of `model.stream(request)`, each checked before it is handed on. Raises `ModelFault`."""
    total = 0
    shape = (request.batch, card.height, card.width, 3)
    for index, chunk in enumerate(model.stream(request, spans)):
        _check_chunk(chunk, index, shape)
        total += chunk.shape[1]
        if total > request.frames:
            raise ModelFault(f"chunk {index} brings the clip to {total} frames; {request.frames} were asked for")
        yield chunk
    if total != request.frames:
        raise ModelFault(f"the model gave {total} frames; {request.frames} were asked for")


def _check_chunk(chunk: object, index: int, shape: tuple[int, ...]) -> None:
    if not isinstance(chunk, np.ndarray):
        raise ModelFault(
            f"chunk {index} is a {type(chunk).__module__}.{type(chunk).__qualname__}, not a numpy array",
            "bring the pixels to the host as uint8 first",
        )
    if chunk.dtype != np.uint8:
        bad = " with NaN" if chunk.dtype.kind == "f" and bool(np.isnan(chunk).any()) else ""
        raise ModelFault(f"chunk {index} is {chunk.dtype}{bad}, not uint8", "scale to 0..255, round and clip")
    batch, height, width, channels = shape
    want = f"[{batch}, frames, {height}, {width}, {channels}]"
    if chunk.ndim != 5 or (chunk.shape[0], *chunk.shape[2:]) != shape or chunk.shape[1] < 1:
        raise ModelFault(f"chunk {index} has shape {list(chunk.shape)}, not {want}")


def values(owner: str, declared: Sequence[Value], given: Mapping[str, float]) -> dict[str, float]:
    """`given` as floats, in the declared order: every declared name and no other, none infinite.

    Raises `PluginFault` that starts with `owner`.
    """
    names = [value.name for value in declared]
    if unknown := sorted(set(given) - set(names)):
        raise PluginFault(f"{owner} gave a value it does not declare: {', '.join(unknown)}")
    if missing := [name for name in names if name not in given]:
        raise PluginFault(f"{owner} gave no value {', '.join(missing)}", "give NaN where a value is undefined")
    found = {name: float(given[name]) for name in names}
    for name, value in found.items():
        if math.isinf(value):
            raise PluginFault(f"{owner} gave an infinite {name}")
    return found


# ------------------------------------------------------------------------------------- harness check


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: `ok` is None where it could not be tried, and `detail` says why."""

    name: str
    ok: bool | None
    detail: str = ""


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
    frames = 2 * card.frames_per_chunk + 1
    prompt = "a red circle moves slowly to the left on a navy background"

    def clip(seed: int = 0, count: int = frames) -> Frames:
        request = Request((prompt,), (seed,), count)
        return np.concatenate([chunk[0] for chunk in chunks(model, request, card)])

    first = _try(findings, f"stream of {frames} frames", clip)
    if first is None:
        return
    _try(findings, "stream of 1 frame", lambda: clip(count=1))
    _try(findings, "equal seeds give equal clips", lambda: _equal(first, clip()))
    _try(findings, "a stream left early does no harm", lambda: _left_early(model, card, prompt, frames))
    _try(findings, "clip unchanged after a stream was left", lambda: _equal(first, clip()))
    model.unload()
    _try(findings, "load again", lambda: model.load(device))
    _try(findings, "clip unchanged after loading again", lambda: _equal(first, clip()))
    model.unload()


def _equal(one: Frames, other: Frames) -> None:
    if not np.array_equal(one, other):
        raise ModelFault(f"{int((one != other).sum())} of {one.size} bytes differ")


def _left_early(model: VideoModel, card: ModelCard, prompt: str, frames: int) -> None:
    stream = chunks(model, Request((prompt,), (1,), frames), card)
    next(stream)
    stream.close()


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

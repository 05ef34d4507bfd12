"""Checks of what a plug-in hands over: chunks, values and agreements that break a contract fail their unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.contracts.base import Frames
from harness.contracts.metric import Metric, Value
from harness.contracts.model import Agreement, ModelCard, Request, Spans, VideoModel, no_spans
from harness.errors import HarnessError, ModelFault, PluginFault, RegistryError, shown

T = TypeVar("T")

FLOAT16_STEPS = 2 * 2.0**-10
"""Two steps of float16 above 1, as a share of a value's ends."""


def card(name: str, model: VideoModel) -> ModelCard:
    """What the model `name` says of itself. Raises `RegistryError`, or the `HarnessError` that the model raises."""
    try:
        described = model.describe()
    except HarnessError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise RegistryError(f"model {name!r} cannot describe itself: {type(error).__name__}: {error}") from error
    if not isinstance(described, ModelCard):
        raise RegistryError(f"model {name!r}: describe() gave a {type(described).__qualname__}, not a ModelCard")
    return described


def chunks(
    model: VideoModel, request: Request, card: ModelCard, spans: Spans = no_spans
) -> Generator[Frames, None, None]:
    """The chunks of `model.stream(request)`, each checked before it is handed on.

    Raises `OptionError` for a request that the model refuses, and `ModelFault`.
    """
    model.check_request(request)
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
        nan_note = " with NaN" if chunk.dtype.kind == "f" and bool(np.isnan(chunk).any()) else ""
        raise ModelFault(f"chunk {index} is {chunk.dtype}{nan_note}, not uint8", "scale to 0..255, round and clip")
    batch, height, width, channels = shape
    if chunk.ndim == 5 and chunk.shape[0] != batch:
        raise ModelFault(
            f"the model ignores the batch: chunk {index} holds {chunk.shape[0]} clips, {batch} were asked for",
            "yield one clip for each prompt of the request",
        )
    expected_shape = f"[{batch}, frames, {height}, {width}, {channels}]"
    if chunk.ndim != 5 or (chunk.shape[0], *chunk.shape[2:]) != shape or chunk.shape[1] < 1:
        raise ModelFault(f"chunk {index} has shape {list(chunk.shape)}, not {expected_shape}")


def agreement(model: VideoModel, request: Request) -> Agreement | None:
    """The loaded `model`'s agreement with its reference on `request`.

    Raises `ModelFault` where it returns something else, compared nothing or does not agree. An error of NaN does not
    agree.
    """
    check = model.agreement(request)
    if check is None:
        return None
    if not isinstance(check, Agreement):
        raise ModelFault(f"agreement() gave a {type(check).__qualname__}, not an Agreement, or None")
    if check.compared < 1:
        raise ModelFault(f"nothing was held against {check.reference}", "compare some results, or return None")
    if not check.error <= check.limit:
        raise ModelFault(
            f"relative error {check.error:.2e} against {check.reference}, above {check.limit:.0e}: no speed is taken",
            "mend the fast path; `attention: reference` runs the slow one where the model has it",
        )
    return check


def values(owner: str, value_list: Sequence[Value], raw: Mapping[str, float]) -> dict[str, float]:
    """`raw` as floats, in the declared order: every declared name and no other, none infinite or out of its bounds.

    Raises `PluginFault` that starts with `owner`.
    """
    names = [value.name for value in value_list]
    if unknown := sorted(set(raw) - set(names)):
        raise PluginFault(f"{owner} gave a value it does not declare: {', '.join(unknown)}")
    if absent := [name for name in names if name not in raw]:
        raise PluginFault(f"{owner} gave no value {', '.join(absent)}", "give NaN where a value is undefined")
    numbers = {name: float(raw[name]) for name in names}
    for name, value in numbers.items():
        if math.isinf(value):
            raise PluginFault(f"{owner} gave an infinite {name}")
    for declared in value_list:
        low, high = (0.0, 1.0) if declared.share else (declared.low, declared.high)
        number = numbers[declared.name]
        # A mean of cosines may end some roundings beyond 1, of float16 where a network runs in it; a share is counted.
        slack = 0.0 if declared.share else FLOAT16_STEPS * max(abs(low or 0.0), abs(high or 0.0))
        if (low is not None and number < low - slack) or (high is not None and number > high + slack):
            raise PluginFault(f"{owner} gave {declared.name} {number:g}, outside of {low} to {high}")
    return numbers


# ------------------------------------------------------------------------------- over clips, for tables


def aggregate(metric: Metric, name: str, scores: Sequence[float]) -> float:
    """The metric's value `name` over clips. Raises `PluginFault` for whatever it raises or a result that is no number.

    The fault says what failed and not whose it is: it stands where the metric is named.
    """
    return _called(f"aggregate of {name}", lambda: float(metric.aggregate(name, scores)))


def derive(metric: Metric, means: Mapping[str, float]) -> dict[str, float]:
    """The metric's derived values; none where it looks for a mean that no clip defines. Raises as `aggregate` does."""
    absent = {value.name for value in metric.values} - means.keys()

    def call() -> dict[str, float]:
        try:
            derived = metric.derive(means)
        except KeyError as error:
            if error.args and error.args[0] in absent:
                return {}
            raise
        return {str(name): float(number) for name, number in derived.items()}

    return _called("derive", call)


def keep(metric: Metric, name: str, prompts: Sequence[int], scores: Sequence[float]) -> NDArray[np.bool_]:
    """Which clips count for the value `name`, one truth a clip. Raises as `aggregate` does."""
    kept = _called(f"keep of {name}", lambda: np.asarray(metric.keep(name, prompts, scores), np.bool_))
    if kept.shape != (len(scores),):
        raise PluginFault(f"keep of {name} gave {list(kept.shape)} truths for {len(scores)} clips")
    return kept


def asked_for(metric: Metric) -> frozenset[str]:
    """The names that the metric's options ask for. Raises as `aggregate` does."""
    return _called("asked_for", lambda: frozenset(metric.asked_for()))


def _called(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # a plug-in may raise anything
        message = error.message if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        raise PluginFault(shown(f"{what} raised {message}", 200)) from error

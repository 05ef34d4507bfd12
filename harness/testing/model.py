"""Try a registered model against its contract: what it says of itself, and clips that it makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from harness.contracts import SPAN_NAMES, Frames, Json, ModelCard, Request, Switch, VideoModel, registry
from harness.contracts.enforce import agreement, chunks
from harness.errors import ModelFault, NotAvailable, OptionError, WeightsError, nearest, shown
from harness.system.digests import canonical
from harness.testing.finding import Finding, attempt, attempt_all, left_out, unloaded_when_interrupted

LIVE_PARAMETERS = 50_000_000
"""Models up to this size are run by `check_model` without being asked to."""

PROMPTS = (
    "a red circle moves slowly to the left on a navy background",
    "a blue square moves quickly to the right on a brown background",
)
VISIBLE = 1.0
"""Mean grey levels from which a seed or a prompt is said to decide a clip; rounding in a batch moves far less."""

_KNOWN_SPAN = re.compile("|".join(re.escape(name).replace(r"\[i\]", r"\[\d+\]") for name in SPAN_NAMES))


def check_model(
    name: str, options: Mapping[str, Json] | None = None, device: str = "cpu", live: bool | None = None
) -> list[Finding]:
    """Try the registered model `name` against its contract.

    Its weights are loaded and clips are made only where `live` says so; unless given, that is for models of up to
    `LIVE_PARAMETERS` weights, and a larger one is run at its tiny size where it has one. Raises `HarnessError` only for
    an unknown name or wrong options.
    """
    model = registry.models.create(name, options or {})
    findings: list[Finding] = []
    card = attempt(findings, "describe", lambda: _card(model))
    small = card is not None and (card.parameters or 0) <= LIVE_PARAMETERS
    tiny = None
    if live is None and card is not None and not small:
        tiny = attempt(findings, "tiny", lambda: _tiny(name, model))
    if tiny is None:
        attempt(findings, "identity", lambda: canonical(dict(model.identity(device.partition(":")[0]))))
    if card is None:
        return findings
    if model.existing:
        _existing(findings, model)
        return findings
    if tiny is not None:
        findings[-1] = replace(findings[-1], detail="what follows is of its tiny size; --live runs its own")
        model, card = tiny, tiny.describe()
    elif not (small if live is None else live):
        left_out(findings, "stream", f"{card.parameters or 0:,} parameters", "try --live")
        return findings
    with unloaded_when_interrupted(model):
        try:
            model.load(device)
        except (NotAvailable, WeightsError) as error:
            left_out(findings, "load", error.message, error.fix)
            return findings
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            findings.append(Finding("load", False, f"{type(error).__name__}: {error}"))
            return findings
        _Trial(findings, model, card, device).all()
    return findings


def _existing(findings: list[Finding], model: VideoModel) -> None:
    """Whether every clip that is there can be taken; each is decoded."""
    states = attempt(findings, "inventory", lambda: model.inventory(None, 0, True))
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


def _tiny(name: str, model: VideoModel) -> VideoModel | None:
    """The model at its tiny size; None where it has none. Raises `OptionError` for options that it does not take."""
    options = dict(model.tiny())
    return registry.models.create(name, {**model.options.model_dump(), **options}) if options else None


class _Trial:
    """The checks of a loaded model, in their order; every clip has `frames` frames, of three chunks and one more."""

    def __init__(self, findings: list[Finding], model: VideoModel, card: ModelCard, device: str) -> None:
        self.findings, self.model, self.card, self.device = findings, model, card, device
        self.frames = 3 * card.frames_per_chunk + 1
        self.spans = _SpanNames()

    def all(self) -> None:
        """Every check; those of what clips show only where there is a first one."""
        findings, model = self.findings, self.model
        first = attempt(findings, f"stream of {self.frames} frames", self.clip)
        if first is None:
            model.unload()
            return
        attempt(findings, "span names", self.spans.check)
        attempt(findings, "stream of 1 frame", lambda: self.clip(frames=1))
        attempt(findings, "equal seeds give equal clips", lambda: _equal(first, self.clip()))
        attempt(findings, "pixels differ within a clip", lambda: _not_blank(first))
        attempt(findings, "frames differ within a clip", lambda: _not_frozen(first))
        seed_moves = self._effect("another seed gives another clip", first, partial(self.clip, seed=1), _SEED_FIX)
        prompt_moves = self._effect(
            "another prompt gives another clip", first, partial(self.clip, prompt=1), _PROMPT_FIX
        )
        visible = [moved for moved in (seed_moves, prompt_moves) if moved >= VISIBLE]
        attempt_all(findings, "a batch", partial(self._batch, visible))
        attempt_all(findings, "a prompt switch", partial(self._switches, first, prompt_moves > 0))
        attempt(findings, "a stream left early does no harm", self._leave_early)
        attempt(findings, "clip unchanged after a stream was left", lambda: _equal(first, self.clip()))
        model.unload()
        attempt(findings, "load again", lambda: model.load(self.device))
        attempt(findings, "clip unchanged after loading again", lambda: _equal(first, self.clip()))
        self._agreement()
        model.unload()

    def clip(self, seed: int = 0, frames: int = 0, prompt: int = 0) -> Frames:
        """One clip, uint8 [frames, height, width, 3]."""
        (clip,) = self.batch(Request((PROMPTS[prompt],), (seed,), frames or self.frames))
        return np.asarray(clip, np.uint8)

    def batch(self, request: Request) -> Frames:
        """The clips of a request, uint8 [batch, frames, height, width, 3]."""
        return np.concatenate(list(chunks(self.model, request, self.card, self.spans)), 1)

    def _effect(self, name: str, first: Frames, other: Callable[[], Frames], fix: str) -> float:
        """Note whether two clips differ; their mean difference in grey levels, 0 where there is no other one."""

        def moved() -> float:
            if not (levels := _distance(first, other())):
                raise ModelFault("not a byte of the clip changes", fix)
            return levels

        return attempt(self.findings, name, moved) or 0.0

    def _batch(self, effects: Sequence[float]) -> None:
        """Whether a batch of two prompts and seeds gives the clips that requests of one clip give.

        Exactly where the model says so; else far nearer than the least of `effects`, what one more seed or prompt does.
        """
        model, findings = self.model, self.findings
        group = model.batch_group(PROMPTS[0], 0)
        seeds = (0, next((seed for seed in range(1, 9) if model.batch_group(PROMPTS[1], seed) == group), 0))
        request = Request(PROMPTS, seeds, self.frames)
        try:
            model.check_request(request)
        except OptionError as refused:
            left_out(findings, "a batch", refused.message, refused.fix)
            return
        together = attempt(findings, "a batch of 2", lambda: self.batch(request))
        if together is None:
            return
        alone = np.stack([self.clip(seed, prompt=number) for number, seed in enumerate(seeds)])
        exact = "a clip of a batch equals the clip by itself"
        if not model.batch_may_change_pixels(self.device.partition(":")[0]):
            attempt(findings, exact, lambda: _equal(alone, together))
            return
        left_out(findings, exact, "it need not, since the keys of this model hold the batch")
        name = "a clip of a batch follows its own prompt and seed"
        if not effects:
            left_out(findings, name, "seeds and prompts change too little to tell")
            return
        start = slice(0, self.card.frames_per_chunk)  # rounding grows along a clip
        attempt(findings, name, lambda: _near(alone[:, start], together[:, start], min(effects) / 2))

    def _switches(self, plain: Frames, prompts_decide: bool) -> None:
        """Whether a switch leaves every frame alone before the one that the model states, and has an effect after."""
        before = "a prompt switch changes nothing before the frame that it states"
        after = "a prompt switch changes what follows"
        switch = Switch(self.card.frames_per_chunk + 1, (PROMPTS[1],))
        request = Request((PROMPTS[0],), (0,), len(plain), (switch,))
        try:
            self.model.check_request(request)
            frame = next(iter(self.model.switch_frames(request)))
        except OptionError as refused:
            left_out(self.findings, before, refused.message, refused.fix)
            return
        switched = attempt(self.findings, "a prompt switch", lambda: self.batch(request)[0])
        if switched is None:
            return
        if frame is None:
            left_out(self.findings, before, "it states none; metrics judge from the frame that was asked for")
        else:
            attempt(self.findings, before, lambda: _equal(plain[:frame], switched[:frame]))
        start = switch.frame if frame is None else frame
        if not prompts_decide or start >= len(plain):
            why = "its prompts change nothing" if not prompts_decide else "it never happens within so short a clip"
            left_out(self.findings, after, why)
        else:
            self._effect(after, plain[start:], lambda: switched[start:], _SWITCH_FIX)

    def _leave_early(self) -> None:
        stream = chunks(self.model, Request(PROMPTS[:1], (1,), self.frames), self.card)
        next(stream)
        stream.close()

    def _agreement(self) -> None:
        request = Request(PROMPTS[:1], (0,), self.frames)
        name = "agreement with its reference"
        result = attempt(self.findings, name, lambda: agreement(self.model, request))
        if result is None and self.findings[-1].ok:
            self.findings[-1] = Finding(name, None, "it has none, so its speed will be marked")


_SEED_FIX = "draw all noise from request.seeds, a generator a clip"
_PROMPT_FIX = "pass request.prompts on to the text encoder, and its output to every pass"
_SWITCH_FIX = "act on request.switches (request.prompt says the text in force), or refuse them in check_request"
_BATCH_FIX = "clip i takes request.prompts[i] and a generator of request.seeds[i] alone, not one stream for all"


class _SpanNames:
    """Spans that keep the names which figures of speed do not know."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def __call__(self, name: str) -> AbstractContextManager[None]:
        if not _KNOWN_SPAN.fullmatch(name) and name not in self.unknown:
            self.unknown.append(name)
        return nullcontext()

    def check(self) -> None:
        """Raise `ModelFault` for unknown names."""
        if self.unknown:
            names = ", ".join(repr(shown(name, 60)) for name in self.unknown[:5])
            near = nearest(re.sub(r"\d+", "i", self.unknown[0]), SPAN_NAMES)
            raise ModelFault(f"no figure of speed knows the span {names}", near)


def _equal(one: Frames, other: Frames) -> None:
    if not np.array_equal(one, other):
        raise ModelFault(f"{int((one != other).sum())} of {one.size} bytes differ")


def _distance(one: Frames, other: Frames) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def _near(alone: Frames, together: Frames, most: float) -> None:
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        if (away := _distance(one, other)) > most:
            says = f"clip {number} of a batch is {away:.1f} grey levels from the clip by itself; rounding is far less"
            raise ModelFault(says, _BATCH_FIX)


def _not_blank(clip: Frames) -> None:
    if clip.min() == clip.max():
        colour = {0: "black", 255: "white"}.get(int(clip.max()), f"of value {clip.max()}")
        raise ModelFault(f"every pixel is {colour}", "scale the decoder's output to 0..255 before it becomes uint8")


def _not_frozen(clip: Frames) -> None:
    if (clip == clip[:1]).all():
        raise ModelFault(f"all {len(clip)} frames are the same", "yield each chunk's own frames, not one buffer again")

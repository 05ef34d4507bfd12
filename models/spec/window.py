"""Window policies as data: which latent frames attention sees, and where they stand; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from harness.contracts import Json
from harness.contracts.base import NO_TRUTH, truth_as_number
from harness.errors import OptionError, nearest
from videomla_models.spec.config import SamplerConfig, TransformerConfig

MOST_FRAMES = 100_000
"""Of any number in a policy; more is a slip."""
SINK, LOCAL, CURRENT, WINDOW, TOKENS = CLASSES = "s", "l", "c", "w", "t"
"""Classes of heads, as `WindowPolicy.head_classes` has them."""


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Which latent frames attention sees, and where they stand.

    Attributes:
        frames: size of the window. sink: first frames that are never evicted.
        counts_sink, counts_current: whether `frames` includes the sink and the chunk being denoised. The public
            codebases include both (Self-Forcing `local_attn_size`); VideoMLA's text can be read either way.
        sink_kind: `kept` as first written; a running `average` of what is evicted (Reward Forcing); or, in a window
            that is full, copies of its first frames in the place of those before the last chunk: walked forwards and
            back (`ping_pong`, Rolling Sink), or forwards again and again (`rolling`).
        average_decay: weight of the old sink in that average.
        rotation: keys are rotated at `write`, or kept unrotated and rotated at each `read`.
        positions: `absolute` frame index, or `relative` to the window, 0 for its oldest frame.
        switch: what a new prompt does to the cache: `keep` it, `rebuild` it from the finished frames of the window
            in one pass (LongLive), `flush` it to the sink and the `flush_keep` latest frames (Infinity-RoPE), or
            rebuild it and keep the first `anchor` frames made after the switch, once they leave the window, beside it
            until those of the next switch take their place (`anchor`, Anchor Forcing).
        keep_sink_on_rebuild: LongLive's `global_sink`.
        schedule: `chunk` by chunk; `rolling` joint denoising of several noise levels (Rolling Forcing); or `restart`,
            chunk by chunk until the window is full, then anew on its last chunk, whose first latent frame becomes an
            image encoded again (CausVid).
        average_rates: one running average for each, a frame of the window behind the sink: weight of what leaves
            (MemRoPE: 0.01 and 0.1). They start as the mean of what leaves first.
        average_over: one mean of all `tokens` that leave (MemRoPE), or of their `frames`, place by place.
        bank: frames that attention sees besides the window, each the first of a chunk. Until it is full, one is added
            every `bank_every` chunks, of the latest of them; then, chunk by chunk, the latest takes the place of the
            one that has least to do with the prompt (`bank_by: prompt`, MemFlow: mean score of the prompt's keys), or
            is least like the latest (`similarity`: cosine of the means of its keys). With a `bank_pool`, so many
            frames are remembered besides, one every `bank_every` chunks, and for each chunk those that have left the
            window and are worth most are the bank (LongLive-RAG). Of a pool, `latents` chooses as well: cosine of the
            means of finished latents over a frame, to those of the last one, for all layers at once.
        bank_of: of a pool, whether the `first` frame of a chunk comes into it or `all` of them. bank_recent: frames
            before the chunk that are not chosen from, whether they have left the window or not.
        bank_at: where a bank's frames stand: `before` the window, which moves up for them, or all at position `zero`.
        span: relative positions are those in a window of so many frames, of which `frames` are seen: recent ones keep
            their distance to a sink at 0 as if those between were there. 0: no more than are seen.
        select: frames' worth of tokens that attention sees besides the window: of those that left it, the ones whose
            keys the queries score highest. What stays or goes as one is a `chunk`, a `frame`, a `token` of all heads,
            a token of each `head` apart, or a `patch`, of which a frame has `select_patches`, each a run of its tokens
            (`select_by`). The queries are those of the `first` pass of the chunk that frames leave for, or of the
            `clean` pass before (`select_at`). With `select_score` `change` it is not queries that choose: of the frames
            that have just left, what is least like the same place a frame later stays until the next ones leave.
        head_classes: a string for each layer, a letter for each head: `s` sees sink and chunk, `l` and `c` as many
            frames before the chunk as `head_recent` says, and the chunk (Dummy Forcing); `w` sees the window, and `t`
            the chosen tokens as well (Forcing-KV). All heads see the window until chunk `head_from`, counted from 0.
        head_current: where no classes are given, the share of all heads that is to be `c`; which, and what the others
            are, is found from where heads look in the clean pass before `head_from`.
    """

    frames: int
    sink: int = 0
    counts_sink: bool = True
    counts_current: bool = True
    sink_kind: Literal["kept", "average", "rolling", "ping_pong"] = "kept"
    average_decay: float = 0.999
    rotation: Literal["write", "read"] = "write"
    positions: Literal["absolute", "relative"] = "absolute"
    switch: Literal["keep", "rebuild", "flush", "anchor"] = "keep"
    flush_keep: int = 2
    keep_sink_on_rebuild: bool = False
    schedule: Literal["chunk", "rolling", "restart"] = "chunk"
    average_rates: tuple[float, ...] = ()
    average_over: Literal["tokens", "frames"] = "tokens"
    bank: int = 0
    bank_every: int = 3
    bank_by: Literal["prompt", "similarity", "latents"] = "prompt"
    bank_pool: int = 0
    bank_of: Literal["first", "all"] = "first"
    bank_recent: int = 0
    bank_at: Literal["before", "zero"] = "before"
    span: int = 0
    anchor: int = 3
    select: int = 0
    select_by: Literal["chunk", "frame", "patch", "token", "head"] = "token"
    select_at: Literal["first", "clean"] = "first"
    head_classes: tuple[str, ...] = ()
    head_current: float = 0.0
    head_from: int = 0
    head_recent: tuple[int, int] = (3, 1)
    select_score: Literal["query", "change"] = "query"
    select_patches: int = 6

    def capacity(self, chunk: int) -> int:
        """Latent frames that attention sees of chunks of `chunk` frames; checks the policy against them."""
        check(self, chunk)
        total = self.total(chunk)
        if total < self.fixed + chunk:
            averages = f", {len(self.average_rates)} averages" if self.average_rates else ""
            raise OptionError(
                f"window of {total} frames cannot hold its sink of {self.sink}{averages} and a chunk of {chunk}",
                f"set window.frames to at least {self.frames + self.fixed + chunk - total}",
            )
        if self.sink_kind == "average" and (total - self.sink) % chunk:
            raise OptionError(
                f"an averaged sink needs whole chunks to leave: {total - self.sink} recent frames, chunks of {chunk}",
                f"set window.frames to {total - (total - self.sink) % chunk}",
            )
        if self.rolls and total < 2 * chunk:
            raise OptionError(
                f"a {self.sink_kind} sink needs a chunk to copy to: window of {total} frames, chunks of {chunk}",
                f"set window.frames to at least {2 * chunk}",
            )
        return total

    def spare(self, chunk: int) -> int:
        """Latent frames held beside those that attention sees: first ones that a sink walks, or a bank's pool."""
        return self.capacity(chunk) - chunk if self.rolls else self.bank_pool

    @property
    def front(self) -> int:
        """Latent frames, or their worth of tokens, that attention sees besides the window."""
        return self.bank + self.select + (self.anchor if self.switch == "anchor" else 0)

    @property
    def rebuilds(self) -> bool:
        """Whether a switch runs finished frames again."""
        return self.switch in ("rebuild", "anchor")

    @property
    def fixed(self) -> int:
        """Frames that hold their slots: the sink, and the running averages behind it."""
        return self.sink + len(self.average_rates)

    @property
    def by_head(self) -> bool:
        """Whether heads have windows of their own."""
        return bool(self.head_classes or self.head_current)

    def of_class(self, letter: str, chunk: int) -> WindowPolicy:
        """The window of the heads of a class."""
        if letter in (WINDOW, TOKENS):
            return replace(self, head_classes=(), head_current=0.0, select=self.select if letter == TOKENS else 0)
        sink, recent = (self.sink, 0) if letter == SINK else (0, self.head_recent[0 if letter == LOCAL else 1])
        frames = sink + recent + chunk
        own = self.of_class(WINDOW, chunk)
        return replace(own, frames=frames, sink=sink, counts_sink=True, counts_current=True)

    @property
    def rolls(self) -> bool:
        """Whether the sink is a walk through the first frames."""
        return self.sink_kind in ("rolling", "ping_pong")

    def said(self) -> dict[str, Json]:
        """By name, for cards: the fields that a policy always had, and later ones where they are not at their defaults.

        So a card of a policy that needs none of the later ones stays what it was.
        """
        values = asdict(self)
        names = [field.name for field in fields(self)]
        always = names[: names.index("schedule") + 1]
        changed = [field.name for field in fields(self) if values[field.name] != field.default]
        return {name: value for name, value in values.items() if name in always or name in changed}

    def total(self, chunk: int) -> int:
        """Frames of the window, sink and chunk included."""
        return self.frames + (0 if self.counts_sink else self.sink) + (0 if self.counts_current else chunk)


_CHOICES = {
    "sink_kind": ("kept", "average", "rolling", "ping_pong"),
    "rotation": ("write", "read"),
    "positions": ("absolute", "relative"),
    "switch": ("keep", "rebuild", "flush", "anchor"),
    "schedule": ("chunk", "rolling", "restart"),
    "average_over": ("tokens", "frames"),
    "bank_by": ("prompt", "similarity", "latents"),
    "bank_of": ("first", "all"),
    "bank_at": ("before", "zero"),
    "select_by": ("chunk", "frame", "patch", "token", "head"),
    "select_at": ("first", "clean"),
    "select_score": ("query", "change"),
}


def check(policy: WindowPolicy, chunk: int) -> None:
    """Raise `OptionError` where fields of `policy` do not fit each other or chunks of `chunk` frames."""
    for name, values in _CHOICES.items():
        if getattr(policy, name) not in values:
            raise OptionError(f"window.{name} is {getattr(policy, name)!r}", f"choose one of {', '.join(values)}")
    if policy.frames < 1 or policy.sink < 0 or chunk < 1:
        raise OptionError(
            f"window.frames {policy.frames}, sink {policy.sink}, chunk {chunk}: out of range",
            "frames and chunk are at least 1, sink at least 0",
        )
    if policy.rotation == "write" and policy.positions == "relative":
        raise OptionError(
            "window.positions relative needs keys that are rotated at read", "set window.rotation to read"
        )
    if policy.schedule == "restart" and (policy.sink or policy.frames % chunk or policy.frames < 2 * chunk):
        raise OptionError(
            f"a window of {policy.frames} frames with a sink of {policy.sink} cannot restart on a chunk of {chunk}",
            f"set window.sink to 0, and window.frames to a multiple of {chunk}, at least {2 * chunk}",
        )
    if policy.switch == "flush" and (policy.sink < 1 or policy.flush_keep < 1):
        raise OptionError("window.switch flush needs a sink and flush_keep of at least 1", "set window.sink to 1")
    sizes = ("frames", "sink", "flush_keep", "bank", "bank_every", "bank_pool", "select", "head_from", "anchor")
    for name in (*sizes, "bank_recent", "span"):
        if getattr(policy, name) > MOST_FRAMES:
            raise OptionError(f"window.{name} is {getattr(policy, name)}", f"give at most {MOST_FRAMES}")
    _check_sink(policy, chunk)
    _check_bank(policy)
    _check_pool(policy, chunk)
    _check_span(policy, chunk)
    _check_anchor(policy, chunk)
    _check_selection(policy, chunk)
    _check_heads(policy, chunk)


def _check_sink(policy: WindowPolicy, chunk: int) -> None:
    if policy.sink_kind == "average" and not (policy.sink == chunk and 0 < policy.average_decay < 1):
        raise OptionError(
            f"an averaged sink of {policy.sink} frames does not fit chunks of {chunk}",
            f"set window.sink to {chunk}, and average_decay between 0 and 1",
        )
    if policy.sink_kind == "average" and policy.rotation == "write":
        raise OptionError("an averaged sink needs unrotated keys", "set window.rotation to read")
    if policy.rolls and (policy.sink or policy.rotation == "write" or policy.switch != "keep"):
        raise OptionError(
            f"a {policy.sink_kind} sink stands in recent frames, needs unrotated keys, and no switch rebuilds it",
            "set window.sink to 0, rotation to read and switch to keep",
        )
    rates = list(policy.average_rates)
    if any(not 0 < rate <= 1 for rate in rates):
        raise OptionError(f"window.average_rates {rates} are not all rates", "give values above 0, up to 1")
    if rates and (policy.rotation == "write" or policy.positions == "absolute"):
        raise OptionError(
            "running averages have no frame of their own", "set window.rotation to read and positions to relative"
        )
    if (rates or policy.rolls) and policy.schedule != "chunk":
        raise OptionError(
            f"schedule {policy.schedule} keeps neither running averages nor a sink that rolls",
            "set window.schedule to chunk",
        )
    if rates and policy.sink_kind != "kept":
        raise OptionError(f"running averages stand behind a kept sink, not a {policy.sink_kind} one", "choose one")


def _check_bank(policy: WindowPolicy) -> None:
    if policy.bank < 0 or policy.bank_every < 1 or policy.bank_recent < 0 or policy.span < 0:
        raise OptionError(
            f"window.bank {policy.bank}, bank_every {policy.bank_every}, bank_recent {policy.bank_recent} or span "
            f"{policy.span}: out of range",
            "bank_every is at least 1, the others at least 0",
        )
    if policy.bank_pool and not 0 < policy.bank <= policy.bank_pool:
        raise OptionError(
            f"a bank of {policy.bank} frames cannot be chosen from a pool of {policy.bank_pool}",
            "set window.bank to at least 1, and bank_pool to at least that",
        )
    if policy.bank and policy.rolls:
        raise OptionError(f"a bank goes with no {policy.sink_kind} sink", "set window.sink_kind to kept")
    if policy.bank and policy.schedule != "chunk":
        raise OptionError(f"schedule {policy.schedule} keeps no bank", "set window.schedule to chunk, or bank to 0")
    if policy.bank and policy.rotation == "read" and policy.positions == "absolute":
        raise OptionError(
            "frames of a bank are not known by number, and keys rotated at read at absolute positions need one",
            "set window.positions to relative, or rotation to write",
        )


def _check_pool(policy: WindowPolicy, chunk: int) -> None:
    used = {
        "bank_by latents": policy.bank_by == "latents",
        "bank_of all": policy.bank_of == "all",
        f"bank_recent {policy.bank_recent}": policy.bank_recent,
    }
    kind = next((name for name, value in used.items() if value), "")
    if kind and not policy.bank_pool:
        raise OptionError(f"window.{kind} chooses from a pool, and there is none", "set window.bank_pool")
    reach = policy.bank_pool * (1 if policy.bank_of == "all" else chunk * policy.bank_every)
    if policy.bank_pool and reach <= policy.bank_recent:
        raise OptionError(
            f"a pool that reaches {reach} frames back has none before the latest {policy.bank_recent}",
            "raise window.bank_pool, or lower bank_recent",
        )
    if policy.bank_at == "zero" and not (policy.bank and policy.positions == "relative"):
        raise OptionError(
            "window.bank_at zero says where a bank stands among relative positions",
            "set window.bank, and positions to relative, or leave it out",
        )


def _check_span(policy: WindowPolicy, chunk: int) -> None:
    if not policy.span:
        return
    if policy.span < policy.total(chunk):
        raise OptionError(
            f"window.span {policy.span} is less than the {policy.total(chunk)} frames that are seen",
            f"set it to at least {policy.total(chunk)}, or to 0",
        )
    usual = policy.sink_kind == "kept" and policy.switch == "keep" and policy.schedule == "chunk"
    if policy.positions == "absolute" or policy.by_head or policy.average_rates or not usual:
        raise OptionError(
            "window.span counts relative positions behind a kept sink: no averages, classes of heads, or other switch "
            "or schedule",
            "set window.positions to relative and leave the others at their defaults, or set span to 0",
        )


def _check_anchor(policy: WindowPolicy, chunk: int) -> None:
    if policy.switch != "anchor":
        return
    if not 1 <= policy.anchor <= chunk:
        raise OptionError(f"window.anchor is {policy.anchor}", f"give 1 to {chunk} frames, as many as a chunk has")
    if policy.bank or policy.select or policy.average_rates or policy.sink_kind != "kept" or policy.schedule != "chunk":
        raise OptionError(
            "an anchor goes with a kept sink alone: no bank, selection, averages or schedule of another kind",
            "leave those fields at their defaults, or set window.switch to rebuild",
        )


def _check_selection(policy: WindowPolicy, chunk: int) -> None:
    if policy.select < 0:
        raise OptionError(f"window.select is {policy.select}", "give a budget in frames, 0 for none")
    if not policy.select:
        return
    if policy.rotation == "read":
        raise OptionError("a choice of tokens compares rotated keys", "set window.rotation to write, or select to 0")
    others = policy.bank or policy.average_rates or policy.sink_kind != "kept" or policy.schedule != "chunk"
    if others or policy.switch == "flush":
        raise OptionError(
            "a choice of tokens goes with a kept sink alone: no bank, averages, flush or schedule of another kind",
            "leave those fields at their defaults, or set window.select to 0",
        )
    recent = policy.total(chunk) - policy.sink
    if policy.select > recent:
        raise OptionError(
            f"window.select keeps {policy.select} frames, and the window has {recent} that can leave",
            f"set window.select to at most {recent}, or frames to at least {policy.frames + policy.select - recent}",
        )
    if policy.select_by == "patch" and not 1 <= policy.select_patches <= MOST_FRAMES:
        raise OptionError(f"window.select_patches is {policy.select_patches}", f"give 1 to {MOST_FRAMES}")
    fits = policy.select_by not in ("chunk", "head") and policy.select < chunk < recent
    if policy.select_score == "change" and not fits:
        raise OptionError(
            f"a choice by change compares a frame with the next: {policy.select} frames of tokens by "
            f"{policy.select_by}, chunks of {chunk}, {recent} frames that can leave",
            f"set window.select below {chunk}, select_by to patch, token or frame, and frames to more than a chunk",
        )
    if policy.select_by == "chunk" and (policy.select % chunk or recent % chunk or policy.sink % chunk):
        raise OptionError(
            f"whole chunks of {chunk} are to stay: sink {policy.sink}, budget {policy.select}, {recent} that can leave",
            f"make each a multiple of {chunk}, or set window.select_by to frame",
        )


def _check_heads(policy: WindowPolicy, chunk: int) -> None:
    if not policy.by_head:
        return
    letters = set("".join(policy.head_classes))
    wrong = sorted(letters - set(CLASSES))
    if wrong:
        raise OptionError(f"window.head_classes has the letter {wrong[0]!r}", "give s, l, c, w or t for every head")
    if policy.head_classes and policy.head_current:
        raise OptionError(
            "window.head_classes says what heads see, and head_current has it found", "give one of the two"
        )
    if not 0 <= policy.head_current <= 1:
        raise OptionError(f"window.head_current is {policy.head_current}", "give a share of all heads, from 0 to 1")
    if policy.head_from < (1 if policy.head_current else 0):
        raise OptionError(
            f"window.head_from is {policy.head_from}, and classes are found in the chunk before it",
            "set it to at least 1",
        )
    if policy.sink < 1 or min(policy.head_recent) < 0:
        raise OptionError(
            f"classes of heads with a sink of {policy.sink} and {list(policy.head_recent)} recent frames",
            "set window.sink to at least 1, and head_recent to at least 0",
        )
    room = policy.total(chunk) - policy.sink - chunk
    own_recent = policy.head_current > 0 or letters & {LOCAL, CURRENT}
    if policy.head_from and own_recent and max(policy.head_recent) > room:
        raise OptionError(
            f"heads are to keep {max(policy.head_recent)} frames before the chunk, and the window holds {room}",
            f"set window.frames to at least {policy.frames + max(policy.head_recent) - room}",
        )
    usual = policy.sink_kind == "kept" and policy.switch == "keep" and policy.schedule == "chunk"
    if policy.bank or policy.average_rates or not usual:
        raise OptionError(
            "classes of heads go with a kept sink alone: no bank, averages, or other switch or schedule",
            "leave those fields at their defaults",
        )
    if (policy.select > 0) != (TOKENS in letters):
        raise OptionError(
            f"classes of heads {'choose' if TOKENS in letters else 'leave out'} tokens, and window.select is "
            f"{policy.select}",
            "give the letter t to heads that are to see chosen tokens, and window.select a budget, or neither",
        )


def check_fit(policy: WindowPolicy, config: TransformerConfig) -> None:
    """Raise `OptionError` where a network of `config` cannot be run under `policy`."""
    used = {
        "bank": policy.bank,
        "average_rates": policy.average_rates,
        "sink_kind": policy.sink_kind != "kept",
        "select": policy.select,
        "head_classes": policy.head_classes,
        "head_current": policy.head_current,
        "positions": policy.positions == "relative",
    }
    kind = next((name for name, value in used.items() if value), "")
    if config.attention == "linear" and kind:
        raise OptionError(
            f"linear attention keeps one state over all that came before: window.{kind} means nothing there",
            "leave it out",
        )
    if policy.span > config.rope_positions:
        raise OptionError(
            f"window.span {policy.span} is more than the {config.rope_positions} positions of its rope table",
            f"set it to at most {config.rope_positions}",
        )
    by_head = policy.by_head or (policy.select and policy.select_by == "head")
    if by_head and config.attention == "latent":
        raise OptionError(
            "all heads of latent attention share one latent a token, so windows or tokens of their own would keep no "
            "fewer bytes",
            "use a dense model, or set select_by to token and leave head_classes and head_current out",
        )
    if policy.head_classes and (len(policy.head_classes), {*map(len, policy.head_classes)}) != (
        config.layers,
        {config.heads},
    ):
        raise OptionError(
            f"window.head_classes does not fit {config.layers} layers of {config.heads} heads",
            f"give {config.layers} strings of {config.heads} letters",
        )
    if policy.bank and policy.bank_by == "prompt" and config.attention == "latent":
        raise OptionError(
            "a bank by prompt compares keys of heads, and latent attention caches none",
            "set window.bank_by to similarity",
        )


def check_patches(policy: WindowPolicy, tokens: int) -> None:
    """Raise `OptionError` where frames of `tokens` tokens have not the patches that are chosen."""
    if policy.select and policy.select_by == "patch" and tokens % policy.select_patches:
        raise OptionError(
            f"{policy.select_patches} patches do not divide a frame of {tokens} tokens",
            f"set policy.select_patches to a divisor of {tokens}",
        )


def check_rolling(policy: WindowPolicy, chunk: int, sampler: SamplerConfig, attention: str) -> None:
    """Raise `OptionError` where the rolling schedule cannot run so."""
    if policy.sink != chunk or sampler.guidance != 1 or sampler.first_steps or attention == "linear":
        raise OptionError(
            "the rolling schedule needs a sink of one chunk, no guidance, no first steps, and a cache of keys",
            f"set window.sink to {chunk} and sampler.guidance to 1, and leave first_steps out",
        )


def walked(place: int, length: int, kind: str) -> int:
    """The frame at `place` of a walk through `length` first frames: forwards and back, or forwards again."""
    lap, at = divmod(place, length)
    return length - 1 - at if kind == "ping_pong" and lap % 2 else at


def changed(policy: WindowPolicy, options: Mapping[str, Any]) -> WindowPolicy:
    """`policy` with other values for some fields, as a suite says them; `OptionError` for what is no field or value."""
    if not options:
        return policy
    for name in options:
        if name not in {field.name for field in fields(WindowPolicy)}:
            raise OptionError(
                f"policy has no field {name!r}", nearest(name, [field.name for field in fields(WindowPolicy)])
            )
    try:
        found = TypeAdapter(WindowPolicy).validate_python(asdict(policy) | dict(options))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise OptionError(f"policy.{where} is {fault['input']!r}", fault["msg"]) from error
    for name, value in options.items():
        if truth_as_number(value, getattr(found, name)):
            raise OptionError(f"policy.{name} is {value!r}", f"it {NO_TRUTH}")
    return found

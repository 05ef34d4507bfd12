"""The contract of a model: a stream of decoded chunks for a request, and a card that says what it is.

The harness owns seeds, files, clocks and retries: a model writes no file and reads no clock. Constructing one is cheap,
imports no heavy package and touches no device, so that a plan can be made on a machine without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from harness.contracts.base import Frames, Json, Options
from harness.errors import OptionError

# ---------------------------------------------------------------------------------------------- models


PREFIX_RULE = 1
"""Part of every key of a clip with a prefix; raised when the same file would give a model other pixels."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A new prompt for every clip of the batch, asked for at pixel frame `frame`.

    It happens at the first pixel frame of the first chunk that starts there or later.
    """

    frame: int
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """An image or a video that a clip continues. Its frames are no part of the clip.

    Attributes:
        path: the file. digest: SHA-256 of its bytes.
        frames: pixel frames that are used. An image is one; of a video they are the last 1 + r m, r being the card's
            `temporal_ratio` and m as large as can be.
        read: decodes them at the card's size, uint8 [frames, height, width, 3]; a frame of another shape is cropped
            to its middle, then scaled. Raises `ClipError`.
    """

    path: Path
    digest: str
    frames: int
    read: Callable[[], Frames] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a model: a batch of clips of equal length.

    Attributes:
        prompts: one text for each clip of the batch.
        seeds: one seed for each clip; equal seeds and prompts must give equal clips.
        frames: pixel frames wanted of each clip, a prefix not counted. Frame 0 is the first that the model makes. 0
            stands for all that a clip has; only a model whose clips are `existing` is asked for so many.
        switches: later prompts, in order of their frame.
        prefixes: what each clip continues, one a clip, or none.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    frames: int
    switches: tuple[Switch, ...] = ()
    prefixes: tuple[Prefix, ...] = ()

    @property
    def batch(self) -> int:
        """Number of clips asked for."""
        return len(self.prompts)

    def prompt(self, clip: int, frame: int) -> str:
        """The text in force at pixel frame `frame` of clip number `clip` of the batch."""
        texts = [self.prompts, *(switch.prompts for switch in self.switches if switch.frame <= frame)]
        return texts[-1][clip]


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A clip that is a file, of any container and codec that FFmpeg decodes.

    Attributes:
        path: the file.
        size: height and width that it must have, in pixels; None for any.
        cut: whether a longer clip is cut to the request's frames, or refused.
        frame_rate: frames per second that it is resampled to; None keeps its own, which must not vary.
        release: called when the file is needed no more.
    """

    path: Path
    size: tuple[int, int] | None = None
    cut: bool = True
    frame_rate: float | None = None
    release: Callable[[], object] = field(default=lambda: None, compare=False)


@dataclass(frozen=True, slots=True)
class ClipState:
    """What is known of a clip that exists, or should.

    Attributes:
        prompt, seed: of it. file: its name, empty where there is none.
        state: `ok`, `missing`, `surplus` (nothing asks for it), `too short`, `unreadable` or `twice`.
        detail: frames, size and rate, or the reason.
    """

    prompt: str
    seed: int
    file: str
    state: Literal["ok", "missing", "surplus", "too short", "unreadable", "twice"]
    detail: str = ""


SPAN_NAMES = ("text", "prefix", "chunk[i].denoise", "chunk[i].clean_pass", "decode[i]", "to_host", "switch")
"""The stages that figures of speed know, i being the number of the chunk."""


class Spans(Protocol):
    """Names a stage while it runs; the harness, never the model, reads the clock behind it.

    Names: those of `SPAN_NAMES`.
    """

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """A context that lasts as long as the stage `name`."""
        ...


@runtime_checkable
class TimedSpans(Spans, Protocol):
    """`Spans` that take stages of another process too, timed there by the harness's own code."""

    def took(self, name: str, seconds: float, depth: int, chunk: int) -> None:
        """Stage `name` took `seconds`, inside `depth` others, while chunk number `chunk` was at work."""
        ...


def no_spans(name: str) -> AbstractContextManager[None]:
    """The `Spans` that measures nothing."""
    return nullcontext()


def pixels_alone(name: str) -> AbstractContextManager[None]:
    """The `Spans` of whoever keeps nothing but the pixels: a model may leave out work that none of them depends on."""
    return nullcontext()


class FlopCounter(Protocol):
    """What counts FLOPs while a model runs, where something does."""

    def replace(self, name: str, flops: int) -> AbstractContextManager[None]:
        """A context whose FLOPs are `flops`, under `name`, whatever the counter sees inside."""
        ...


COUNTING: ContextVar[FlopCounter | None] = ContextVar("COUNTING", default=None)
"""The counter of the pass that runs now; set by the harness alone."""


def counted_as(name: str, flops: int) -> AbstractContextManager[None]:
    """Around a kernel that torch's counter does not see, or a call that it sees padded: the FLOPs that the work needs.

    Args:
        name: as in `latent_attention`. flops: a multiply-add counts two, and padding nothing.

    Outside of the probes' counting pass it does nothing. A second one inside the first says nothing more.
    """
    counter = COUNTING.get()
    return nullcontext() if counter is None else counter.replace(name, flops)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model says of itself without its weights being allocated. `None` means that it does not apply.

    Attributes:
        family: the published method, as in `videomla` or `self_forcing`.
        height, width: pixels of a frame.
        frame_rate: nominal frames per second of the clips.
        frames_per_chunk: pixel frames that one chunk adds in the steady state.
        temporal_ratio: pixel frames per latent frame (4 for Wan's VAE, 1 without one).
        parameters: weights of the video transformer.
        layers: transformer blocks with a self-attention cache.
        window_frames: latent frames that attention sees, sink and current chunk included; None when unlimited.
        sink_frames: latent frames that are never evicted.
        tokens_per_frame: tokens of one latent frame.
        cached_scalars: numbers kept per token and layer.
        cache_bytes: bytes of one request's full window over all layers, guidance's second cache included.
        transient_bytes: bytes that one layer makes of that cache for its own attention, and that the next one reuses.
        forwards_per_chunk: network calls per chunk, clean pass and guidance included.
        weights: `trained`, `random` (speed and memory only; marked in every table) or `none`.
        weight_digests: SHA-256 by file name.
        licence: of the weights, as the user must respect it.
        details: anything else, JSON.
    """

    family: str
    height: int
    width: int
    frame_rate: float
    frames_per_chunk: int
    temporal_ratio: int = 1
    parameters: int | None = None
    layers: int | None = None
    window_frames: int | None = None
    sink_frames: int | None = None
    tokens_per_frame: int | None = None
    cached_scalars: int | None = None
    cache_bytes: int | None = None
    transient_bytes: int | None = None
    forwards_per_chunk: int | None = None
    weights: Literal["trained", "random", "none"] = "none"
    weight_digests: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a model's fast path lies from a slow reference on the work of one request (rule T14).

    Attributes:
        reference: what it was held against, in words.
        error: the largest relative error that was found; limit: what is allowed.
        compared: results that were compared.
        details: anything else, JSON.
    """

    reference: str
    error: float
    limit: float
    compared: int
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Readings of a model that has a process of its own.

    Attributes:
        pid: of that process; what it has started belongs to it.
        base_bytes: resident before the weights were loaded. shared_bytes: of pixels on their way to the harness, which
            are resident there too.
        compilations: graphs and kernels that it has compiled so far.
        allocator: bytes `allocated`, `peak` and `reserved` of torch's allocator on its GPU; None where it has none.
    """

    pid: int
    base_bytes: int
    shared_bytes: int = 0
    compilations: int = 0
    allocator: Mapping[str, int] | None = None


class VideoModel(ABC):
    """A streaming video model behind a name and checked options.

    `version` changes whenever the adapter's code could change a pixel. The harness calls `load` once, `stream` any
    number of times, and `unload` when no more units need the model. `unkeyed` names the options that cannot change a
    pixel and stay out of keys: a time limit, or where files lie whose digests `identity` gives. `existing` says that
    its clips are there already, each of its own size, length and rate: `file` gives every one of them.
    """

    version: ClassVar[str] = "1"
    schema: ClassVar[type[Options]] = Options
    unkeyed: ClassVar[tuple[str, ...]] = ()
    existing: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        self.options: Any = options

    @abstractmethod
    def describe(self) -> ModelCard:
        """The model's card. Allocates no weights."""

    def identity(self, device: str) -> Mapping[str, Json]:
        """What decides the pixels beyond name, version and options: weight digests, resolved back end, dtype.

        Part of every unit's key. Imports no torch. `device` is `cpu` or `cuda`.
        """
        return {"weights": dict(self.describe().weight_digests)}

    def request_identity(self, prompt: str, seed: int) -> Mapping[str, Json]:
        """What decides this one clip's pixels beyond `identity`, as the digest of a file it is read from.

        Part of the key of the generate unit. Imports no torch. Where `file` gives the clip, a member `file` is the
        SHA-256 of that file, and one that has another by then is refused.
        """
        return {}

    def unkeyed_files(self) -> Sequence[Path]:
        """Files beside the model's own code that may change a clip and whose content is in no key.

        Their digests stand in the records, so that a run can tell that one has changed. Imports no torch.
        """
        return ()

    def batch_may_change_pixels(self, device: str) -> bool:
        """Whether a clip's pixels may depend on how many others are made with it, be it by rounding alone.

        True, as for every model that does not override this, has the batch stand in the keys of its clips. A model that
        says no is held to it by `harness check`. Imports no torch. `device` is `cpu` or `cuda`.
        """
        return True

    def batch_bytes(self) -> tuple[int, int] | None:
        """Bytes of the loaded weights, and bytes that each clip of a request adds, from above; libraries not counted.

        None, as for every model that does not override this, has a suite refused that leaves the batch to it
        (`batch: auto`). Imports no torch.
        """
        return None

    def tiny(self) -> Mapping[str, Json]:
        """Options that, set over these, make the smallest model which still takes every step, of random weights.

        `harness check` and `harness rehearse` run it in place of a model that is too large or whose weights are not
        here. Empty, as for every model that does not override this: it runs at its own size. Imports no torch.
        """
        return {}

    def batch_group(self, prompt: str, seed: int) -> Json:
        """What the clips of one request must have in common beyond lengths, as weights that the seed chooses.

        Clips of a batch are asked for in one request only where they agree in it. Imports no torch.
        """
        return None

    def check_request(self, request: Request) -> None:
        """Refuse a request that the model cannot answer, before anything is loaded. Raises `OptionError`.

        Asked when a suite is planned, and before every stream. Lengths, switches, prefixes and seeds may decide, a
        text never. Imports no torch. A model that takes a prefix says so by overriding this.
        """
        if request.prefixes:
            raise OptionError("it takes no image or video prefix", "leave the model out of the section (`models:`)")

    def switch_frames(self, request: Request) -> Sequence[int | None]:
        """The pixel frame at which each of `request.switches` happens; `request.frames` or more where it never does.

        None, as for every model that does not override this, where the model cannot say; metrics then judge from the
        frame that was asked for, and the record says so. Imports no torch.
        """
        return [None] * len(request.switches)

    def load(self, device: str) -> None:
        """Bring the weights to `device` (`cpu`, `cuda`, `cuda:1`). Raises `WeightsError` when they do not fit."""
        return

    @abstractmethod
    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Yield decoded chunks, uint8 [batch, frames, height, width, 3], `request.frames` frames in all.

        Each chunk is yielded as soon as its pixels are on the host. The first may be shorter than the others.
        Randomness comes from `request.seeds` alone, a generator a clip.
        """

    def file(self, request: Request) -> ClipFile | None:
        """A file that holds the clip of this request (of one prompt) already.

        It is kept byte for byte where it has just the request's frames, else copied without loss. None, as for every
        model that makes its clips, has the frames of `stream` encoded.
        """
        return None

    def inventory(self, clips: Sequence[tuple[str, int]] | None, frames: int, decode: bool) -> Sequence[ClipState]:
        """The state of the `clips` (prompt and seed) that are asked for, and of those there without being asked for.

        Only of a model whose clips are `existing`; others have none. `clips` None: whatever is there. `frames`: how
        many each must have, 0 for any number. `decode`: every frame is decoded, so that damage shows; otherwise
        packets are counted. Imports no torch.
        """
        return ()

    def agreement(self, request: Request) -> Agreement | None:
        """Answer `request` as `stream` would, untimed, holding what is fast against a slow reference.

        A probe asks for it before it times the model. None, as for every model that has no reference, leaves the
        speed figures marked.
        """
        return None

    def unload(self) -> None:
        """Free the weights."""
        return

    def process_state(self, reset_peaks: bool = False) -> ProcessState | None:
        """Readings of the loaded model's own process; None, as for every model that runs in this one.

        Args:
            reset_peaks: begin new peaks of memory.
        """
        return None

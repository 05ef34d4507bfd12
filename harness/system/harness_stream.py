"""Stream a model from its own environment to the harness. It needs the standard library alone, from Python 3.8 on.

`harness new process NAME` copies this file beside yours, which ends with `harness_stream.serve(load, stream)`:

    load(device, options) -> model          called once; `device` is cpu, cuda or cuda:1, `options` are the suite's
    stream(model, request, span) -> chunks  a generator; each chunk is uint8 [batch, frames, height, width, 3]

`with span("chunk[0].denoise"):` names a stage while it runs (`text`, `prefix`, `switch`, `chunk[i].denoise`,
`chunk[i].clean_pass`, `decode[i]`, `to_host`); this file reads the clock behind it. What you print is the log that
errors show. Import heavy packages at the top of your file, so that their memory does not count as the model's.
"""

from __future__ import annotations

import atexit
import json
import math
import mmap
import os
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

PROTOCOL = 1
VARIABLE = "HARNESS_STREAM"
"""Environment variable: numbers of the descriptors for requests, answers, the harness's life, and shared memory."""
HEADER = struct.Struct("<8sQQ5Q")
"""What stands before a chunk in shared memory: magic, number of the chunk, bytes of the pixels, shape."""
MAGIC = b"harness1"
LENGTH = struct.Struct("<I")
"""What stands before a message in a pipe: its bytes."""
TRACEBACK_CHARACTERS = 12000


class Request:
    """A batch of clips of equal length.

    Attributes:
        prompts, seeds: one for each clip; equal prompts and seeds must give equal clips.
        frames: pixel frames wanted of each clip, a prefix not counted. height, width: of a frame.
        switches: pairs of a pixel frame and the prompts from then on; a switch happens at the first chunk that starts
            there or later.
        prefixes: what each clip continues, or none: memoryviews, uint8 [frames, height, width, 3].
    """

    def __init__(self, fields: dict[str, Any], prefixes: list[memoryview]) -> None:
        self.prompts: list[str] = fields["prompts"]
        self.seeds: list[int] = fields["seeds"]
        self.frames: int = fields["frames"]
        self.height: int = fields["height"]
        self.width: int = fields["width"]
        self.switches: list[list[Any]] = fields["switches"]
        self.prefixes = prefixes

    @property
    def batch(self) -> int:
        """Clips asked for."""
        return len(self.prompts)


class Spans:
    """Times stages by name: with device events where torch has work on CUDA, else by the host's clock."""

    def __init__(self) -> None:
        self.open = 0
        self.chunk = 0
        self._marks: list[tuple[str, int, int, Any, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A context that lasts as long as the stage `name`."""
        depth, start = self.open, _mark()
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
            self._marks.append((str(name), depth, self.chunk, start, _mark()))

    def read(self) -> list[tuple[str, float, int, int]]:
        """Name, seconds, depth and chunk of every stage, after the device has nothing left to do."""
        return [(name, _seconds(start, end), depth, chunk) for name, depth, chunk, start, end in self._marks]


def _cuda() -> Any:
    """`torch.cuda` where this process has work on a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _mark() -> tuple[int, Any]:
    # An event waits for nothing, so that the host may run ahead of the device as it does without the harness.
    cuda, event = _cuda(), None
    if cuda is not None:
        event = cuda.Event(enable_timing=True)
        event.record()
    return time.perf_counter_ns(), event


def _seconds(start: tuple[int, Any], end: tuple[int, Any]) -> float:
    if start[1] is None or end[1] is None:
        return (end[0] - start[0]) / 1e9
    end[1].synchronize()
    return float(start[1].elapsed_time(end[1])) / 1e3


class _Compiled:
    """Counts what torch and Triton compile in this process."""

    def __init__(self) -> None:
        self.kernels = 0
        self._hooked = False

    def count(self) -> int:
        runtime = getattr(getattr(sys.modules.get("triton"), "knobs", None), "runtime", None)
        if runtime is not None and not self._hooked:
            self._hooked, before = True, runtime.jit_post_compile_hook

            def hook(*args: Any, **kwargs: Any) -> Any:
                self.kernels += 1
                return before(*args, **kwargs) if before is not None else None

            runtime.jit_post_compile_hook = hook
        dynamo = sys.modules.get("torch._dynamo.utils")
        return self.kernels + (int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0)


class _Link:
    """The pipes and the memory that the harness has opened."""

    def __init__(self, requests: int, answers: int, life: int, memory: int) -> None:
        self.requests, self.answers, self.memory = requests, answers, memory
        self.slots: dict[int, memoryview] = {}
        self.pixels = memoryview(b"")
        # What this process starts must hold no pipe: the harness would then not see that this process died.
        for descriptor in (requests, answers, life, memory):
            os.set_inheritable(descriptor, False)
        threading.Thread(target=_end_with, args=(life,), daemon=True).start()
        # A print into the pipe of a harness that is gone may end the program before that thread has run.
        atexit.register(lambda: select.select([life], [], [], 0)[0] and _end_all())

    def receive(self) -> dict[str, Any]:
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        message: dict[str, Any] = json.loads(self._read(length).decode())
        return message

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = os.read(self.requests, count - len(data))
            if not part:
                _end_all()
            data += part
        return data

    def send(self, **message: Any) -> None:
        data = json.dumps(message).encode()
        data = LENGTH.pack(len(data)) + data
        while data:
            try:
                data = data[os.write(self.answers, data) :]
            except OSError:
                _end_all()

    def use(self, slot: list[int]) -> None:
        """Let the next chunk stand at `slot`, a place and a length in the shared memory."""
        place, length = slot
        if place not in self.slots:
            # Kept, as the first touch of each page costs as much as the copy.
            self.slots[place] = memoryview(mmap.mmap(self.memory, length, offset=place))
        self.pixels = self.slots[place]

    def prefixes(self, shapes: list[list[int]]) -> list[memoryview]:
        views, start = [], HEADER.size
        for shape in shapes:
            count = math.prod(shape)
            views.append(memoryview(bytes(self.pixels[start : start + count])).cast("B", shape=shape))
            start += count
        return views

    def hand_over(self, number: int, chunk: Any, open_spans: int) -> None:
        """Put a chunk into the shared memory and say so. Raises `TypeError` for what is no chunk."""
        if hasattr(chunk, "detach"):
            chunk = chunk.detach().cpu().numpy()
        view = memoryview(chunk)
        if view.format != "B" or view.ndim != 5:
            raise TypeError(
                f"chunk {number} is {getattr(chunk, 'dtype', view.format)} of {view.ndim} dimensions, "
                "not uint8 [batch, frames, height, width, 3]: scale to 0..255, round and clip"
            )
        size, shape = view.nbytes, view.shape or ()
        if HEADER.size + size > len(self.pixels):
            raise ValueError(f"chunk {number} of shape {list(shape)} holds more than the request asked for")
        if size:
            flat = view.cast("B") if view.c_contiguous else view.tobytes()
            self.pixels[HEADER.size : HEADER.size + size] = flat
        self.pixels[: HEADER.size] = HEADER.pack(MAGIC, number, size, *shape)
        self.send(op="chunk", number=number, open=open_spans)


def _end_with(life: int) -> None:
    os.read(life, 1)  # nothing is ever written: this ends when the harness does
    _end_all()


def _end_all() -> NoReturn:
    """End this process and what it has started, as the harness is gone."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _open() -> _Link | None:
    text = os.environ.pop(VARIABLE, "")
    return _Link(*(int(number) for number in text.split(","))) if text else None


_link = _open() if __name__ == "harness_stream" else None
"""Opened when a program imports its copy, as the imports after it may take long. The harness's own file opens none."""


def serve(load: Callable[[str, dict[str, Any]], Any], stream: Callable[[Any, Request, Spans], Iterable[Any]]) -> None:
    """Answer the harness until it says that no more is asked for. Ends with the harness, should that die."""
    link = _link
    if link is None:
        sys.exit(f"this file is started by the harness: harness check process --set file={sys.argv[0]}")
    compiled, device, model = _Compiled(), "cpu", None
    link.send(op="hello", protocol=PROTOCOL, python=sys.version.split()[0])
    while True:
        message = link.receive()
        try:
            if message["op"] == "stop":
                return
            if message["op"] == "load":
                device = message["device"]
                model = load(device, message["options"])
                link.send(op="ready")
            elif message["op"] == "state":
                link.send(op="state", compilations=compiled.count(), cuda=_allocator(device, message["reset"]))
            else:
                _answer(link, message, partial(stream, model))
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # noqa: BLE001 - a model may raise anything, SystemExit included
            trace = traceback.format_exc()[-TRACEBACK_CHARACTERS:]
            link.send(op="error", type=type(fault).__name__, message=str(fault)[:2000], traceback=trace)


def _answer(link: _Link, message: dict[str, Any], stream: Callable[[Request, Spans], Iterable[Any]]) -> None:
    """One request: each chunk waits until the harness asks for the next, as it does of a model in its own process."""
    link.use(message["slot"])
    spans = Spans()
    chunks = iter(stream(Request(message, link.prefixes(message["prefixes"])), spans))
    left = False
    try:
        for number, chunk in enumerate(chunks):
            link.hand_over(number, chunk, spans.open)
            spans.chunk = number + 1
            del chunk
            word = link.receive()
            left = word["op"] != "next"
            if left:
                break
            link.use(word["slot"])
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    link.send(op="left") if left else link.send(op="done", spans=spans.read())


def _allocator(device: str, reset: bool) -> dict[str, int] | None:
    """Bytes that torch's allocator holds on `device`; None where it has no work there. `reset` begins new peaks."""
    cuda = _cuda()
    if cuda is None or not device.startswith("cuda"):
        return None
    if reset:
        cuda.reset_peak_memory_stats(device)
    return {
        "allocated": int(cuda.memory_allocated(device)),
        "peak": int(cuda.max_memory_allocated(device)),
        "reserved": int(cuda.max_memory_reserved(device)),
    }

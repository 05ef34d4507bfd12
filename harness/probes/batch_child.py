"""One batch size in a process of its own, held to a memory budget: `python -m harness.probes.batch_child`.

It reads one JSON object from standard input and writes one to standard output. The model's own output goes to standard
error. `hold_to_budget` says what the budget covers.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from harness.contracts import Json, VideoModel, Workload, registry
from harness.errors import NotAvailable, OptionError
from harness.probes.timing import agreement
from harness.probes.timing.clock import Clock
from harness.probes.timing.generation import Generation, generate, steady_chunks
from harness.probes.timing.memory import MemoryMeter, status_bytes
from harness.probes.timing.repeat import FullClock
from harness.probes.timing.telemetry import Telemetry
from harness.system import devices
from harness.system.platforms import described, here, on_linux

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
    "memory allocation failed",
    "alloc_failed",
    "could not create a memory object",
)
"""Messages of torch, NumPy, oneDNN, cuBLAS and the C++ library when memory runs out."""


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one child: a model by name, a batch, and a budget in bytes.

    With `agreement` it compares the model with its reference instead, without a budget and without timing. With
    `least_gaps` it makes more clips, until there are so many gaps between chunks of a full window. With `learn` it
    makes one clip without a budget and says what that imported.

    Attributes:
        preload: modules imported before the budget counts. imports: such that another process found; those that cannot
            be imported here are left out.
    """

    name: str
    options: Mapping[str, Json]
    plugins: tuple[str, ...]
    device: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    frames: int
    batch: int
    budget_bytes: int
    preload: tuple[str, ...] = ()
    min_clock_ratio: float = 0.75
    agreement: bool = False
    least_gaps: int = 0
    imports: tuple[str, ...] = ()
    learn: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one batch size.

    Attributes:
        outcome: `ok`, `out_of_memory` or `failed` (with `message`).
        at: `load` or `generate`, where memory ran out or something failed.
        peak_bytes: highest memory of the kind that the budget limits, as `BudgetMeter` has it. weight_bytes: of that
            kind, after loading. held_bytes: highest memory as `MemoryMeter` has it: resident, on CUDA allocated.
        driver_bytes: on CUDA, of the whole device as the driver has it; None elsewhere. grown_bytes: by how much it
            grew while the budget was held.
        failures: on CUDA, the counts of `devices.allocation_failures`.
        clip_s, first_chunk_s: of the second clip. It was made anew `rejected` times, while the device's clock was low.
        fps: its pixel frames per second over the chunks whose window was full, all clips of the batch together.
        gaps: seconds between chunks whose window was full, of that clip and later ones, where the job asks for some.
        agreement: of a job that asks for the check of rule T14 alone: members of an `Agreement`; None without a
            reference.
        imports: of a job that asks to learn them alone.
    """

    batch: int
    outcome: Literal["ok", "out_of_memory", "failed"]
    at: str = ""
    message: str = ""
    peak_bytes: float = float("nan")
    weight_bytes: float = float("nan")
    held_bytes: float = float("nan")
    driver_bytes: float | None = None
    grown_bytes: float | None = None
    failures: dict[str, int] = field(default_factory=dict)
    clip_s: float = float("nan")
    first_chunk_s: float = float("nan")
    fps: float = float("nan")
    gaps: list[float] = field(default_factory=list)
    rejected: int = 0
    agreement: dict[str, Any] | None = None
    imports: Sequence[str] = ()
    kind: str = ""
    notes: dict[str, Json] = field(default_factory=dict)


def require_budget(device: str) -> None:
    """Raise `NotAvailable` where a process cannot be held to a budget on `device`."""
    if not device.startswith("cuda") and not on_linux():
        raise NotAvailable(
            f"a memory budget on a CPU needs Linux (RLIMIT_DATA); {described(here())} enforces none",
            "run batch scaling on Linux, or on CUDA",
        )


def hold_to_budget(device: str, budget: int) -> str:
    """Limit this process to `budget` bytes from now on. Returns in words what they cover.

    On CUDA the caching allocator gets a fraction of the device: weights, caches and activations, but not the CUDA
    context. On a CPU the data segment is limited (RLIMIT_DATA, which on Linux counts private writable memory, also
    mapped), beyond what interpreter and imported libraries hold already. Raises `NotAvailable` where less than the
    budget is free, or none can be enforced.
    """
    require_budget(device)
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        _require_free(budget, free, "the device")
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)
        return "memory of torch's allocator on the device, without the CUDA context"
    base = status_bytes("VmData")
    if base is None:
        raise NotAvailable("a memory budget on a CPU needs /proc, which is not mounted", "mount /proc, or use CUDA")
    _require_free(budget, psutil.virtual_memory().available, "this machine")
    resource.setrlimit(resource.RLIMIT_DATA, (base + budget, base + budget))
    return "private writable memory asked for, resident or not, beyond interpreter and libraries (RLIMIT_DATA)"


class BudgetMeter:
    """Memory of the kind that `hold_to_budget` limits, beyond what was there at `begin`.

    On CUDA that is what torch's allocator reserved. On a CPU it is the data segment, whose highest size the system does
    not keep: it is asked for after each chunk, and every `PERIOD_S` while `watching`.
    """

    PERIOD_S = 0.001

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_cuda = device.startswith("cuda")
        self._base = self._peak = 0.0
        self._asking, running = threading.Event(), threading.Event()
        if not self.on_cuda:
            # From the start, or the stack of the thread would count into the budget.
            threading.Thread(target=self._ask, args=(running,), daemon=True).start()
            running.wait()

    def _ask(self, running: threading.Event) -> None:
        running.set()
        while self._asking.wait():
            self.now()
            time.sleep(self.PERIOD_S)

    def begin(self) -> None:
        """Count from here."""
        self._base, self._peak = self._bytes(), 0.0

    def _bytes(self) -> float:
        if self.on_cuda:
            import torch

            return float(torch.cuda.memory_reserved(self.device))
        size = status_bytes("VmData")
        return float("nan") if size is None else float(size)

    def now(self) -> float:
        """Bytes at present."""
        size = self._bytes() - self._base
        self._peak = max(self._peak, size)
        return size

    def peak(self) -> float:
        """The highest number of bytes so far."""
        if not self.on_cuda:
            return self._peak
        import torch

        return float(torch.cuda.max_memory_reserved(self.device)) - self._base

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ask all the while. It takes some time from the process, so nothing is timed then."""
        self._asking.set()
        try:
            yield
        finally:
            self._asking.clear()


def _require_here(model: VideoModel) -> None:
    if model.process_state() is not None:
        model.unload()
        raise NotAvailable(
            "the model has a process of its own, which no memory budget holds",
            "leave it out of the section; the probe streaming measures its memory at a stated batch",
        )


def _require_free(budget: int, free: int, where: str) -> None:
    if free < budget:
        raise NotAvailable(
            f"the budget of {budget} bytes is not free on {where}: {free} bytes are",
            "choose a smaller budget or stop what else runs there",
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or a cause of it, says that memory ran out."""
    # A library may wrap the failed allocation in an error of its own.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if any(words in str(cause).lower() for words in OUT_OF_MEMORY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def run(job: Job) -> Row:
    """Load the model under the budget and have it make two clips of `job.frames` frames (rule T16), or check it."""
    at = "load"
    try:
        if job.learn:
            return _learn(job)
        model, meter = _prepare(job)
        budget = BudgetMeter(job.device)
        budget.begin()
        covers = "" if job.agreement else hold_to_budget(job.device, job.budget_bytes)
        # The driver's own count is kept beside: a model may take memory past torch's allocator (rule T16).
        before = _driver_bytes(job.device)
        model.load(job.device)
        _require_here(model)
        weights = budget.now()
        at = "generate"
        if job.agreement:
            return _check_agreement(job, model)
        meter.reset()
        clips, rejected = _timed_clips(job, model, budget)
        row = _row_of(job, model, clips[0], meter, weights, covers)
        row = replace(row, peak_bytes=budget.peak())
        after = _driver_bytes(job.device)
        grown = None if after is None or before is None else after - before
        failures = devices.allocation_failures(job.device)
        gaps = _steady_gaps(clips, model) if job.least_gaps else []
        return replace(row, driver_bytes=after, grown_bytes=grown, failures=failures, rejected=rejected, gaps=gaps)
    except Exception as error:  # noqa: BLE001 (a plug-in may raise anything)
        if out_of_memory(error):
            failures = devices.allocation_failures(job.device)
            return Row(job.batch, "out_of_memory", at, str(error).split("\n")[0][:300], failures=failures)
        return Row(job.batch, "failed", at, str(error)[:2000], kind=type(error).__name__)


def _prepare(job: Job) -> tuple[VideoModel, MemoryMeter]:
    """Load everything that the budget does not cover: the model's own modules, libraries and their threads."""
    for path in job.plugins:
        registry.load_plugin(Path(path))
    model = registry.models.create(job.name, job.options)
    for name in job.preload:
        importlib.import_module(name)
    for name in job.imports:
        # Found by another process, where each was there in its own turn; some cannot be imported by name.
        with suppress(Exception):
            importlib.import_module(name)
    if "torch" in sys.modules:
        import torch

        # Starts torch's threads, whose stacks would count into the budget.
        torch.ones(1 << 16).add_(1).sum()
        if job.device.startswith("cuda"):
            torch.ones(1, device=job.device)
    return model, MemoryMeter(job.device)


def _learn(job: Job) -> Row:
    """What loading the model and one clip of it import, in that order: it is loaded before a budget counts."""
    before = set(sys.modules)
    model, _ = _prepare(job)
    model.load(job.device)
    generate(Clock(job.device), model, _workload(job).request(0), model.describe())
    names = [
        name
        for name, module in list(sys.modules.items())
        if name not in before and getattr(module, "__spec__", None) and not name.startswith(registry.PLUGIN_MODULE)
    ]
    return Row(job.batch, "ok", imports=names)


def _driver_bytes(device: str) -> float | None:
    """Bytes in use on the whole device, whoever uses them; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return float(total - free)


def _workload(job: Job) -> Workload:
    return Workload(job.prompts, job.seeds, job.frames, job.batch)


def _check_agreement(job: Job, model: VideoModel) -> Row:
    result = agreement.take(model, _workload(job), model.describe())
    if isinstance(result, str):
        return Row(job.batch, "ok")
    return Row(job.batch, "ok", agreement=asdict(result) | {"details": {**result.details, "batch": job.batch}})


def _timed_clips(job: Job, model: VideoModel, budget: BudgetMeter) -> tuple[list[Generation], int]:
    """The second clip and those that the job's gaps need besides, all at a full clock (rule T11); clips thrown away.

    The first clip warms up. Its time does not count, so it is the one whose clips are compared with each other, and
    whose memory is watched. Raises `OptionError` where a clip has no gap of a full window.
    """
    clock, card, numbers = Clock(job.device), model.describe(), itertools.count(1)
    full = FullClock(Telemetry(job.device).clock_ratio, job.min_clock_ratio)
    with budget.watching():
        generate(clock, model, _workload(job).request(0), card, distinct=True, after_chunk=budget.now)
    clips = [full.take(lambda: generate(clock, model, _workload(job).request(next(numbers)), card))]
    if job.least_gaps and not _steady_gaps(clips, model):
        raise OptionError(f"{job.frames} frames have no two chunks of a full window", "ask for longer clips")
    while len(_steady_gaps(clips, model)) < job.least_gaps:
        clips.append(full.take(lambda: generate(clock, model, _workload(job).request(next(numbers)), card)))
    return clips, full.rejected


def _steady_gaps(clips: Sequence[Generation], model: VideoModel) -> list[float]:
    """Seconds between chunks whose window was full (rule T7), of all clips."""
    chunks, _ = steady_chunks(clips[0].frames, model.describe())
    return [clip.gaps[chunk] for clip in clips for chunk in chunks if chunk > 0]


def _row_of(job: Job, model: VideoModel, second: Generation, meter: MemoryMeter, weights: float, covers: str) -> Row:
    steady, rule = steady_chunks(second.frames, model.describe())
    return Row(
        job.batch,
        "ok",
        weight_bytes=weights,
        held_bytes=meter.peak()["peak_bytes"],
        clip_s=second.seconds,
        first_chunk_s=second.arrivals[0],
        fps=second.rate(sum(second.gaps[i] for i in steady), steady),
        notes={"covers": covers, "steady_rule": rule},
    )


def main() -> None:
    """Read a job, run it, write its row."""
    devices.end_with_parent()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        # A model that prints would otherwise write into the answer.
        os.dup2(2, 1)
        fields: dict[str, Any] = json.load(sys.stdin)
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        job = Job(**fields)
        answer.write(json.dumps(asdict(run(job))) + "\n")


if __name__ == "__main__":
    main()

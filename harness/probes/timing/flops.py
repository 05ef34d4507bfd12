"""Count a chunk's network calls, FLOPs and weight bytes on the live modules, in an untimed pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.contracts import COUNTING, ModelCard, Request, VideoModel
from harness.contracts import FlopCounter as Counting
from harness.probes.timing.generation import steady_chunks

PEAK_FLOPS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""Dense bf16 FLOP/s by a word of the device's name, from NVIDIA's data sheets (without sparsity)."""
PEAK_BYTES = {
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "B200": 8.0e12,
    "A100": 2.039e12,
    "L40S": 0.864e12,
}
"""Memory bytes/s by a word of the device's name, from the same sheets (A100: the 80 GB SXM part)."""


@dataclass(frozen=True, slots=True)
class Census:
    """Counts for one chunk of the steady state; NaN where nothing could be counted.

    Attributes:
        forwards: evaluations of the network for one clip, clean pass and guidance included.
        flops: multiply and add counted apart, the whole chunk with its decoding. A kernel counts by the model's own
            statement (`counted_as`). A kernel without one counts nothing, so the number is a lower bound.
        weight_bytes: of the network's parameters; each call must read them at least once.
    """

    forwards: float
    flops: float
    weight_bytes: float


class _Calls:
    """Counts calls of modules that no other module called; a call on twice the clips, as for guidance, counts two."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.depth = 0
        self.counts: dict[int, float] = {}
        self.modules: dict[int, Any] = {}

    def before(self, module: Any, arguments: Any) -> None:
        if self.depth == 0:
            clips: tuple[int, ...] = tuple(getattr(arguments[0], "shape", ())) if arguments else ()
            times = clips[0] / self.batch if len(clips) and clips[0] % self.batch == 0 else 1
            self.counts[id(module)] = self.counts.get(id(module), 0) + times
            self.modules[id(module)] = module
        self.depth += 1

    def after(self, module: Any, arguments: Any, result: Any) -> None:
        self.depth -= 1


def take(model: VideoModel, request: Request, card: ModelCard) -> Census:
    """Count one untimed generation of `model`. Imports torch.

    The network is the outermost module whose parameters, times its calls, are the most: text encoders are called once,
    decoders are small. Where a model calls its blocks itself, each block is called as often as the network would be.
    """
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    calls, frames = _Calls(request.batch), []
    by_chunk: list[tuple[dict[int, float], float]] = []
    hooks = [
        register_module_forward_pre_hook(calls.before),
        register_module_forward_hook(calls.after, always_call=True),
    ]
    counter = FlopCounter()
    try:
        stream = model.stream(request)
        ended = False
        while not ended:
            # Entered anew for every chunk, so that nothing between two of them counts.
            with counter:
                chunk = next(stream, None)
            ended = chunk is None
            if chunk is not None:
                frames.append(int(chunk.shape[1]))
                by_chunk.append((calls.counts, float(counter.total())))
                calls.counts = {}
    finally:
        for hook in hooks:
            hook.remove()
    return _summary(by_chunk, calls.modules, steady_chunks(frames, card)[0])


class FlopCounter:
    """FLOPs inside its context: torch's count of its operators, and a model's own statements (`counted_as`).

    torch's formulas (torch.utils.flop_counter) are joined by one for the fused attention of the CPU, which it lacks.
    Entering it again begins at zero. Imports torch.
    """

    def __init__(self) -> None:
        import torch
        from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

        def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
            return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

        cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        self._mode = FlopCounterMode(display=False, custom_mapping={cpu: attention})
        self._replaced: Counter[str] = Counter()
        self._said: Counter[str] = Counter()
        self._inside = False
        self._outer: Token[Counting | None] | None = None

    def __enter__(self) -> FlopCounter:
        self._replaced.clear()
        self._said.clear()
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self._outer = COUNTING.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._outer is not None:
            COUNTING.reset(self._outer)
        self._mode.__exit__(*exception)  # type: ignore[no-untyped-call]

    @contextmanager
    def replace(self, name: str, flops: int) -> Iterator[None]:
        """See `harness.contracts.counted_as`. Work that raises inside was not done, and counts as torch saw it."""
        if self._inside:
            yield
            return
        before, self._inside = self._seen(), True
        try:
            yield
        finally:
            self._inside = False
        self._replaced.update(self._seen() - before)
        self._said[name] += flops

    def by_operator(self) -> dict[str, int]:
        """FLOPs by the name of torch's operator, or by the name under which a model said them."""
        counts = self._seen()
        counts.subtract(self._replaced)
        counts.update(self._said)
        return {name: flops for name, flops in counts.items() if flops}

    def total(self) -> int:
        """All of them."""
        return sum(self.by_operator().values())

    def _seen(self) -> Counter[str]:
        by_operator = self._mode.get_flop_counts().get("Global", {})
        return Counter({str(operator): int(flops) for operator, flops in by_operator.items()})


def _summary(by_chunk: list[tuple[dict[int, float], float]], modules: dict[int, Any], steady: list[int]) -> Census:
    flops = median([by_chunk[i][1] for i in steady])
    # By bytes read in all: the network has most of the parameters and most of the calls.
    size = {key: sum(p.numel() * p.element_size() for p in m.parameters()) for key, m in modules.items()}
    total = {key: sum(counts.get(key, 0) for counts, _ in by_chunk) * size[key] for key in modules}
    if not total or not max(total.values()):
        return Census(float("nan"), float(flops) or float("nan"), float("nan"))
    network = max(total, key=lambda key: total[key])
    forwards = median([by_chunk[i][0].get(network, 0) for i in steady])
    return Census(float(forwards), float(flops), float(size[network]))


def peak(table: dict[str, float], name: str) -> float:
    """The peak of the device called `name`; NaN where the table does not know it."""
    return next((value for word, value in table.items() if word in name), float("nan"))

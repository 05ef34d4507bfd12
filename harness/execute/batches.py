"""Which clips are made together: those of one arm and section that agree in everything but prompt and seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from harness.contracts import VideoModel, registry
from harness.runs.plan import Arm, Unit
from harness.system import devices
from harness.system.digests import canonical

CLIPS_PER_PROCESS = 8
"""Clips that are worth the start of a process."""
PROCESS_BYTES = 2**29
"""Memory of a process beside its weights."""


def grouped(todo: Sequence[Unit], arm: Arm, processes: int = 1) -> Iterator[list[Unit]]:
    """The generate units `todo` of one arm in batches of the size that each asks for, the last of a kind smaller.

    Where `processes` share the work and no pixel depends on the batch, batches are made smaller, until each process has
    as many, which differ by one clip at most. Order is that of the last unit of each batch.
    """
    model = registry.models.create(arm.name, arm.options)
    kinds = {unit.key: _kind(unit, model) for unit in todo if "batch" in unit.context}
    counts = Counter(kinds.values())
    waiting: dict[str, list[Unit]] = {}
    sizes: dict[str, Iterator[int]] = {}
    room: dict[str, int] = {}
    for unit in todo:
        kind = kinds.get(unit.key)
        if kind is None:
            yield [unit]
            continue
        if kind not in sizes:
            sizes[kind] = _sizes(unit, counts[kind], processes)
        if kind not in waiting:
            waiting[kind], room[kind] = [], next(sizes[kind])
        waiting[kind].append(unit)
        if len(waiting[kind]) == room[kind]:
            yield waiting.pop(kind)
    yield from waiting.values()


def _sizes(unit: Unit, count: int, processes: int) -> Iterator[int]:
    """Clips of each batch, where there are `count` of the kind of `unit`."""
    size = int(unit.context["batch"])
    if unit.preimage["batch"] != 1 or processes == 1:
        return repeat(size)
    number = processes * -(-count // (size * processes))
    return (count // number + (place < count % number) for place in range(number))


def _kind(unit: Unit, model: VideoModel) -> str:
    """What clips of one request agree in: section, lengths, frames of switches, and what the model asks for."""
    preimage: Any = unit.preimage
    prefix: Any = unit.context.get("prefix", {})
    switches = [frame for frame, _ in preimage["switches"]]
    lengths = [preimage["frames"], preimage["batch"], prefix.get("used", 0), *switches]
    return canonical([unit.context["section"], lengths, model.batch_group(preimage["prompt"], preimage["seed"])])


def processes(todo: Sequence[tuple[Arm, Unit]], device: str, most: int | None) -> int:
    """How many processes make the clips `todo`: one a core, at most `most`, as far as clips and memory suffice.

    One on a GPU, and where no section asks for batches.
    """
    arms = {arm.label: arm for arm, unit in todo if "batch" in unit.context}
    if device != "cpu" or not arms:
        return 1
    largest = max(4 * (arm.card.parameters or 0) for arm in arms.values())
    by_memory = devices.memory_bytes() // 2 // (largest + PROCESS_BYTES)
    return max(1, min(most or devices.cores(), len(todo) // CLIPS_PER_PROCESS, by_memory))

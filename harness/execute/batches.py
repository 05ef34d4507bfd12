"""Which clips are made together: those of one arm and section that agree in everything but prompt and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.contracts import registry
from harness.runs.plan import Arm, Unit
from harness.system.digests import canonical


def grouped(todo: Sequence[Unit], arm: Arm, done: Callable[[Unit], bool]) -> Iterator[list[Unit]]:
    """The generate units `todo` of one arm in batches of the size that each asks for, the last of a kind smaller.

    A unit that is done comes by itself. Order is that of the last unit of each batch.
    """
    waiting: dict[str, list[Unit]] = {}
    for unit in todo:
        size = int(unit.context.get("batch", 1))
        if size == 1 or done(unit):
            yield [unit]
            continue
        batch = waiting.setdefault(_kind(unit, arm), [])
        batch.append(unit)
        if len(batch) == size:
            yield waiting.pop(_kind(unit, arm))
    yield from waiting.values()


def _kind(unit: Unit, arm: Arm) -> str:
    """What clips of one request agree in: section, lengths, frames of switches, and what the model asks for."""
    preimage: Any = unit.preimage
    model = registry.models.create(arm.name, arm.options)
    prefix: Any = unit.context.get("prefix", {})
    switches = [frame for frame, _ in preimage["switches"]]
    lengths = [preimage["frames"], preimage["batch"], prefix.get("used", 0), *switches]
    return canonical([unit.context["section"], lengths, model.batch_group(preimage["prompt"], preimage["seed"])])

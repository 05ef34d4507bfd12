"""Who does what next: units that wait, by what they need loaded, and how long such units took.

Nothing is dealt out ahead. A worker that is free takes about a second of work, and less when little is left, so that
all end together whatever their speed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from harness.runs.plan import Unit

SHARE_S = 1.0
"""Seconds of work that a worker takes at a time: far more than handing it out costs, and little to do again."""
EARLIER = 0.5
"""Weight of what was measured before against what was measured now."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """Work that is not divided.

    Attributes:
        units: whose records it gives. weight: what its time grows with, as frames.
        alone: whether it is handed out by itself, as it may have ended a worker.
    """

    units: tuple[Unit, ...]
    weight: int
    task: T
    alone: bool = False


class Shares(Generic[T]):
    """Waiting items by pool: what a worker has to load for them, as the label of an arm.

    Args:
        part: the task with some of its units alone.
    """

    def __init__(self, part: Callable[[T, tuple[Unit, ...]], T]) -> None:
        self._part = part
        self._waiting: dict[str, deque[Item[T]]] = {}
        self._weight: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._loading: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def pools(self) -> list[str]:
        """The pools in which something waits."""
        return list(self._waiting)

    def add(self, pool: str, items: Iterable[Item[T]]) -> None:
        """Let `items` wait behind the others."""
        for item in items:
            self._waiting.setdefault(pool, deque()).append(item)
            self._weight[pool] += item.weight

    def add_alone(self, pool: str, item: Item[T]) -> None:
        """Let each unit of `item` wait by itself."""
        self.add(pool, [replace(self._of(item, (unit,)), alone=True) for unit in item.units])

    def _of(self, item: Item[T], units: tuple[Unit, ...]) -> Item[T]:
        weight = max(1, item.weight * len(units) // len(item.units))
        return Item(units, weight, self._part(item.task, units), item.alone)

    def measured(self, pool: str, weight: int, seconds: float, loading: float) -> None:
        """Learn from what a worker took for items of `weight` in all, and `loading` seconds of it to load."""
        if loading > self._loading.get(pool, 0.0):
            self._loading[pool] = loading
        each = max(seconds - loading, 1e-6) / max(weight, 1)
        before = self._seconds.get(pool, each)
        self._seconds[pool] = EARLIER * before + (1 - EARLIER) * each

    def take(self, pools: Sequence[str], loaded: str | None, busy: Counter[str], most: int | None) -> list[Item[T]]:
        """What a free worker does next, all of one pool; empty where it had better wait.

        Args:
            pools: that it may take from. loaded: the one that it has loaded. busy: workers by the pool they work for.
            most: units that may be begun.
        """
        pool = self._pool(pools, loaded, busy)
        if pool is None or (most is not None and most < 1):
            return []
        waiting = self._waiting[pool]
        each = self._seconds.get(pool)
        # Half of an even share of what is left: the others, and this one, come again for the rest.
        left = self._weight[pool] / (2 * (busy[pool] + 1)) if each is not None else 0.0
        weight, units, share = 0, 0, list[Item[T]]()
        while waiting:
            item = waiting[0]
            if not share and most is not None and len(item.units) > most:
                share = [self._of(item, item.units[:most])]
                waiting[0] = self._of(item, item.units[most:])
                weight += item.weight - waiting[0].weight
                break
            units += len(item.units)
            if share and (item.alone or weight + item.weight > left or (weight + item.weight) * (each or 0) > SHARE_S):
                break
            if share and most is not None and units > most:
                break
            share.append(waiting.popleft())
            weight += item.weight
            if item.alone:
                break
        self._weight[pool] -= weight
        if not waiting:
            del self._waiting[pool]
        return share

    def _pool(self, pools: Sequence[str], loaded: str | None, busy: Counter[str]) -> str | None:
        """The pool that is loaded, or else the one with the most left for each of its workers.

        One whose workers will be through before another has loaded is left to them.
        """
        open_pools = [pool for pool in pools if pool in self._waiting]
        if loaded in open_pools:
            return loaded
        known = list(self._seconds.values())
        usual = sum(known) / len(known) if known else 1.0

        def left(pool: str) -> float:
            return self._weight[pool] * self._seconds.get(pool, usual)

        worth = [pool for pool in open_pools if not busy[pool] or left(pool) / busy[pool] > self._loading.get(pool, 0)]
        return max(worth, key=lambda pool: left(pool) / (busy[pool] + 1), default=None)

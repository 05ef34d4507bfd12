"""Who takes what next: arms stay together, nobody waits for long, and nobody takes more than a share."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any

import pytest

from harness.execute.handing_out import SHARE_S, Item, Shares
from harness.runs.plan import Unit


def items(pool: str, count: int, weight: int = 1, width: int = 1) -> list[Item[str]]:
    return [
        Item(tuple(Unit(f"{pool}{n}.{w}", "generate", {}, {}) for w in range(width)), weight * width, pool)
        for n in range(count)
    ]


def shares_of(**pools: list[Item[str]]) -> Shares[str]:
    shares: Shares[str] = Shares(lambda task, units: f"{task}:{len(units)}")
    for pool, waiting in pools.items():
        shares.add(pool, waiting)
    return shares


def take(shares: Shares[str], loaded: str | None = None, busy: Any = (), most: int | None = None) -> list[Item[str]]:
    return shares.take(shares.pools(), loaded, Counter(busy), most)


def test_a_worker_stays_with_what_it_has_loaded_and_new_ones_go_where_most_is_left() -> None:
    shares = shares_of(a=items("a", 30), b=items("b", 10))
    assert [item.task for item in take(shares)] == ["a"]
    assert [item.task for item in take(shares, busy=["a"])] == ["a"], "29 for two are more than ten for one"
    assert [item.task for item in take(shares, busy=["a", "a", "a"])] == ["b"]
    assert [item.task for item in take(shares, loaded="b")] == ["b"]


def test_a_pool_whose_workers_are_through_before_another_has_loaded_is_left_to_them() -> None:
    shares = shares_of(a=items("a", 10))
    shares.measured("a", 1, seconds=6.0, loading=5.0)
    assert take(shares, busy=["a"]), "10 s are left, and loading takes 5"
    shares = shares_of(a=items("a", 4))
    shares.measured("a", 1, seconds=6.0, loading=5.0)
    assert not take(shares, busy=["a"])
    assert take(shares, loaded="a", busy=["a"])
    assert take(shares), "nobody else does it"


def test_a_share_is_one_item_until_its_time_is_known_and_then_about_a_second() -> None:
    shares = shares_of(a=items("a", 1000))
    assert len(take(shares)) == 1
    shares.measured("a", 10, seconds=1.0, loading=0.0)
    assert len(take(shares, loaded="a")) == pytest.approx(SHARE_S / 0.1, abs=1)
    shares.measured("a", 1, seconds=100.0, loading=0.0)
    assert len(take(shares, loaded="a")) == 1, "what takes long is not held back by more of it"


def test_shares_shrink_towards_the_end() -> None:
    shares = shares_of(a=items("a", 40))
    shares.measured("a", 100, seconds=1.0, loading=0.0)
    sizes = []
    while shares:
        sizes.append(len(take(shares, loaded="a", busy=["a"] * 3)))
    assert sum(sizes) == 40
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]


def test_what_may_have_ended_a_worker_goes_out_by_itself() -> None:
    shares = shares_of(a=items("a", 8, width=2))
    shares.measured("a", 1000, seconds=1.0, loading=0.0)
    (suspect, *_) = take(shares, loaded="a")
    shares = shares_of(a=items("a", 3))
    shares.measured("a", 1000, seconds=1.0, loading=0.0)
    shares.add_alone("a", suspect)
    taken = []
    while shares:
        taken.append([unit.key for item in take(shares, loaded="a") for unit in item.units])
    assert taken[-2:] == [["a0.0"], ["a0.1"]]
    assert sum(map(len, taken)) == 5


@pytest.mark.parametrize("most", [1, 3, 5])
def test_no_more_units_are_begun_than_may_be(most: int) -> None:
    shares = shares_of(a=items("a", 2, width=4))
    shares.measured("a", 1000, seconds=1.0, loading=0.0)
    share = take(shares, most=most)
    assert sum(len(item.units) for item in share) == min(most, 4)
    assert share[0].task == ("a" if most > 4 else f"a:{most}")
    assert not take(shares, most=0)
    rest = [unit.key for _ in range(9) for item in take(shares, loaded="a") for unit in item.units]
    assert len({*rest, *(unit.key for item in share for unit in item.units)}) == 8


@pytest.mark.parametrize("seed", range(5))
def test_workers_of_different_speed_end_together_and_load_little(seed: int) -> None:
    """A simulated run: no worker waits longer at its end than a share takes, and an arm has few workers."""
    dice = random.Random(seed)
    speeds = [dice.choice([0.5, 1.0, 2.0]) for _ in range(8)]
    costs = {f"arm{n}": dice.uniform(0.05, 0.4) for n in range(3)}
    load_s = 3.0
    shares = shares_of(**{arm: items(arm, 400) for arm in costs})
    clock = [(0.0, worker) for worker in range(8)]
    loaded: dict[int, str] = {}
    working: dict[int, str] = {}
    ends, loads, done = dict.fromkeys(range(8), 0.0), 0, 0
    while clock:
        now, worker = heapq.heappop(clock)
        working.pop(worker, None)
        share = take(shares, loaded.get(worker), working.values())
        if not share:
            continue
        arm = share[0].task
        loading = load_s * (loaded.get(worker) != arm)
        loads += bool(loading)
        seconds = loading + sum(item.weight for item in share) * costs[arm] / speeds[worker]
        shares.measured(arm, sum(item.weight for item in share), seconds, loading)
        done += len(share)
        loaded[worker] = working[worker] = arm
        ends[worker] = now + seconds
        heapq.heappush(clock, (now + seconds, worker))
    assert done == 1200
    assert loads <= 8 + 3 * 4
    assert max(ends.values()) - min(ends.values()) < 2 * SHARE_S + load_s + max(costs.values()) / 0.5

"""Window bookkeeping against a list that really shifts, as the public codebases keep their caches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import OptionError
from videomla_models.spec.window import Ring, WindowPolicy


def shifted(capacity: int, sink: int, frames: int, chunk: int) -> list[int]:
    """Frames in a cache that drops its oldest frame after the sink by moving all later ones."""
    held: list[int] = []
    for first in range(0, frames, chunk):
        held += range(first, first + chunk)
        held = held[:sink] + held[sink:][-(capacity - sink) :]
    return held


@given(sink=st.integers(0, 4), spare=st.integers(0, 9), chunk=st.integers(1, 5), chunks=st.integers(1, 12))
def test_ring_holds_what_a_shifting_cache_holds(sink: int, spare: int, chunk: int, chunks: int) -> None:
    capacity = sink + chunk + spare
    ring = Ring(capacity, sink)
    for index in range(chunks):
        placement = ring.place(index * chunk, chunk)
        covered = [run.start + i for run in placement.runs for i in range(run.length)]
        assert covered == list(range(chunk))
    assert sorted(ring.slots) == shifted(capacity, sink, chunks * chunk, chunk)
    assert sorted(ring.positions("relative")) == list(range(len(ring.slots)))


def test_later_passes_of_a_chunk_keep_its_slots() -> None:
    ring = Ring(6, 1)
    for first in (0, 3, 6):
        placed = ring.place(first, 3)
    assert ring.place(6, 3).runs == placed.runs
    assert ring.place(6, 3).evicted == ()


def test_positions_by_hand() -> None:
    # Window 6 = 1 sink + 2 past + 3 current: at the third chunk frames 0, 4, 5 stay with 6, 7, 8.
    ring = Ring(6, 1)
    for first in (0, 3, 6):
        ring.place(first, 3)
    assert sorted(ring.slots) == [0, 4, 5, 6, 7, 8]
    at = dict(zip(ring.slots, ring.positions("relative"), strict=True))
    assert at == {0: 0, 4: 1, 5: 2, 6: 3, 7: 4, 8: 5}
    assert ring.positions("absolute") == ring.slots


def test_flush_keeps_sink_and_latest() -> None:
    ring = Ring(9, 1)
    for first in range(0, 12, 3):
        ring.place(first, 3)
    ring.keep(2)
    assert ring.slots == [0, 10, 11]


@pytest.mark.parametrize(
    ("policy", "capacity"),
    [
        (WindowPolicy(6, 1), 6),
        (WindowPolicy(6, 1, counts_sink=False), 7),
        (WindowPolicy(6, 1, counts_sink=False, counts_current=False), 10),
    ],
)
def test_what_the_window_counts(policy: WindowPolicy, capacity: int) -> None:
    assert policy.capacity(3) == capacity


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (WindowPolicy(3, 1), "window.frames to at least 4"),
        (WindowPolicy(6, 1, rotation="sideways"), "window.rotation"),  # type: ignore[arg-type]
        (WindowPolicy(6, 1, positions="relative"), "window.rotation to read"),
        (WindowPolicy(9, 2, sink_kind="average", rotation="read"), "window.sink to 3"),
        (WindowPolicy(8, 3, sink_kind="average", rotation="read"), "window.frames to 6"),
        (WindowPolicy(6, 0, switch="flush"), "window.sink to 1"),
        (WindowPolicy(0), "out of range"),
    ],
)
def test_bad_policies_name_the_option_and_the_mend(policy: WindowPolicy, words: str) -> None:
    with pytest.raises(OptionError) as fault:
        policy.capacity(3)
    assert words in str(fault.value)


def test_a_chunk_larger_than_the_window_is_refused() -> None:
    with pytest.raises(OptionError, match="do not fit"):
        Ring(4, 1).place(0, 6)

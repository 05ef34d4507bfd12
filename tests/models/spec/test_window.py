"""Window bookkeeping against a list that really shifts, as the public codebases keep their caches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import OptionError
from videomla_models.spec.ring import Ring
from videomla_models.spec.window import WindowPolicy, changed, walked

AT_READ = {"rotation": "read", "positions": "relative"}


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


@given(sink=st.integers(0, 2), seen=st.integers(0, 4), unseen=st.integers(0, 6), chunks=st.integers(1, 12))
def test_a_span_gives_frames_their_places_in_a_larger_window(sink: int, seen: int, unseen: int, chunks: int) -> None:
    ring, span = Ring(sink + 3 + seen, sink), sink + 3 + seen + unseen
    for index in range(chunks):
        ring.place(index * 3, 3)
    larger = shifted(span, sink, chunks * 3, 3)
    assert ring.positions("relative", span) == [larger.index(frame) for frame in ring.slots]


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


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            WindowPolicy(7, 3, average_rates=(0.01, 0.1), rotation="read", positions="relative"),
            "2 averages.*at least 8",
        ),
        (
            WindowPolicy(12, 3, average_rates=(0.01, 1.5), rotation="read", positions="relative"),
            "average_rates.*up to 1",
        ),
        (WindowPolicy(12, 3, average_rates=(0.0,), **AT_READ), "average_rates.*above 0"),
        (WindowPolicy(12, 3, average_rates=(0.1,), rotation="read"), "positions to relative"),
        (WindowPolicy(12, 3, average_rates=(0.1,)), "rotation to read"),
        (WindowPolicy(9, 1, sink_kind="ping_pong", rotation="read"), "window.sink to 0"),
        (WindowPolicy(9, sink_kind="rolling"), "rotation to read"),
        (WindowPolicy(5, sink_kind="rolling", rotation="read"), "at least 6"),
        (WindowPolicy(9, sink_kind="rolling", rotation="read", switch="rebuild"), "switch to keep"),
        (WindowPolicy(9, sink_kind="rolling", rotation="read", schedule="rolling"), "schedule to chunk"),
        (WindowPolicy(9, sink_kind="walking"), "window.sink_kind"),  # type: ignore[arg-type]
        (WindowPolicy(9, average_over="heads"), "window.average_over"),  # type: ignore[arg-type]
    ],
)
def test_bad_memories_name_the_option_and_the_mend(policy: WindowPolicy, words: str) -> None:
    with pytest.raises(OptionError, match=rf"(?s){words}") as fault:
        policy.capacity(3)
    assert "\n" not in fault.value.message


def test_a_walk_goes_forwards_and_back_or_forwards_again() -> None:
    assert [walked(place, 3, "ping_pong") for place in range(9)] == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert [walked(place, 3, "rolling") for place in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_card_says_later_fields_only_where_they_are_changed() -> None:
    plain = WindowPolicy(6, 1).said()
    assert list(plain)[-1] == "schedule"
    assert WindowPolicy(6, 1, average_rates=(0.1,)).said() == plain | {"average_rates": (0.1,)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sinks": 1}, "did you mean.*sink"),
        ({"frames": "many"}, "policy.frames is 'many'"),
        ({"average_rates": ["fast"]}, "policy.average_rates.0 is 'fast'"),
        ({"sink_kind": "walking"}, "policy.sink_kind is 'walking'"),
        ({"bank": True}, "policy.bank is True"),
        ({"head_recent": [3, False]}, "policy.head_recent is .*False"),
    ],
)
def test_fields_that_a_suite_changes_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        changed(WindowPolicy(6, 1), options)
    assert changed(WindowPolicy(6, 1), {"frames": 9, "average_rates": [0.1]}) == WindowPolicy(
        9, 1, average_rates=(0.1,)
    )

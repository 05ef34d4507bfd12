"""The buffered player against a stream whose delays are known: every number follows by hand."""

import math

import numpy as np
import pytest

from harness.report.serving.player import play

# Chunks of 4 frames at 8 frames/s are half a second of video each.
RATE, FRAMES = 8.0, 4


def stream(*seconds: float):
    return list(seconds), [FRAMES] * len(seconds)


def test_a_stream_that_keeps_up_starts_with_its_first_chunk_and_never_stalls() -> None:
    played = play(*stream(0.7, 0.5, 0.5, 0.4), RATE)
    assert played.startup_s == 0.7
    assert played.stalls_s.size == 0
    assert played.late == 0
    assert played.shown == pytest.approx(0.7 + np.arange(16) / 8)
    assert played.played_s == 2.0


def test_a_slow_stream_stalls_before_every_chunk() -> None:
    played = play(*stream(1.0, 0.8, 0.8), RATE)
    # Half a second is shown in 0.8 s: each chunk comes 0.3 s late.
    assert played.stalls_s == pytest.approx([0.3, 0.3])
    assert played.shown[[0, 4, 8]] == pytest.approx([1.0, 1.8, 2.6])
    # By a clock that never waits, chunk 2 is due at 1.5, chunk 3 at 2.0, and they are there at 1.8 and 2.6. Of chunk 2
    # the frames due at 1.5, 1.625 and 1.75 are late, of chunk 3 all four.
    assert played.late == pytest.approx(7 / 12)


def test_a_buffer_costs_start_up_and_saves_stalls() -> None:
    chunks = stream(1.0, 0.5, 0.9, 0.5, 0.1)
    assert play(*chunks, RATE).stalls_s == pytest.approx([0.4])
    buffered = play(*chunks, RATE, buffer_s=1.0)
    # A second of video is there with the second chunk, at 1.5 s.
    assert buffered.startup_s == 1.5
    assert buffered.stalls_s.size == 0
    assert play(*chunks, RATE, buffer_s=0.75).startup_s == 1.5
    # A buffer longer than the clip waits for all of it.
    assert play(*chunks, RATE, buffer_s=99).startup_s == pytest.approx(3.0)


def test_the_generator_waits_while_enough_is_ahead() -> None:
    played = play(*stream(0.2, 0.1, 0.1, 0.1), RATE, ahead_s=0.5)
    # Nothing is ahead but four frames, the limit, so that the second chunk begins at once; then eight have come and
    # four must have appeared, the last of them at 0.2 + 3 / 8; then eight of twelve.
    assert played.started == pytest.approx([0.0, 0.2, 0.2 + 3 / 8, 0.2 + 7 / 8])
    assert played.stalls_s.size == 0
    free = play(*stream(0.2, 0.1, 0.1, 0.1), RATE)
    assert free.started == pytest.approx([0.0, 0.2, 0.3, 0.4])


def test_a_switch_shows_with_the_first_chunk_that_is_begun_after_it() -> None:
    played = play(*stream(0.2, 0.1, 0.1, 0.1), RATE, ahead_s=0.5)
    waits = played.switch_s()
    # Asked as frame 0 appears, at 0.2 when the second chunk is just begun: its first frame appears half a second later.
    assert waits[0] == pytest.approx(0.5)
    # As frame 1 appears the third chunk is the next; its first frame, number 8, appears seven frames later.
    assert waits[1] == pytest.approx(7 / 8)
    # The last chunk begins as frame 7 appears, and holds for it; nothing is begun after that.
    assert len(waits) == 8
    assert waits[7] == pytest.approx(5 / 8)


def test_what_a_switch_costs_delays_its_first_frame_where_nothing_covers_it() -> None:
    slow = play(*stream(1.0, 0.8, 0.8), RATE)
    plain, dear = slow.switch_s(), slow.switch_s(extra_s=0.2)
    assert dear == pytest.approx(plain + 0.2)
    # Ahead by half a second, a longer chunk is there in time.
    quick = play(*stream(0.2, 0.1, 0.1, 0.1), RATE, ahead_s=0.5)
    assert quick.switch_s(extra_s=0.2) == pytest.approx(quick.switch_s())


def test_known_delays_come_out_within_one_percent_at_any_frame_rate() -> None:
    rng = np.random.default_rng(0)
    for rate in (7.5, 16.0, 24.0):
        seconds, frames = rng.uniform(0.1, 0.9, 40).tolist(), rng.integers(1, 9, 40).tolist()
        played = play(seconds, frames, rate)
        # A slow reference: walk through the frames, one tick of a thousandth of a frame after the other.
        tick, now, shown, there = 1 / rate / 1000, 0.0, [], np.repeat(np.cumsum(seconds), frames)
        for when in there:
            earliest = shown[-1] + 1 / rate if shown else 0.0
            now = max(now, earliest)
            while now < when:
                now += tick
            shown.append(now)
        assert played.shown == pytest.approx(shown, rel=0.01)
        reference = np.diff(shown) - 1 / rate
        assert played.stalls_s.sum() == pytest.approx(reference[reference > 2 * tick].sum(), rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "frames", "rate"), [([], [], 8), ([1.0], [1, 2], 8), ([1.0], [0], 8), ([1.0], [1], 0), ([1.0], [1], -1)]
)
def test_what_is_no_stream_is_refused(seconds, frames, rate) -> None:
    with pytest.raises(ValueError, match="chunk"):
        play(seconds, frames, rate)


def test_one_frame_is_a_stream() -> None:
    played = play([0.3], [1], 8.0, ahead_s=0.0)
    assert (played.startup_s, played.late, played.stalls_s.size) == (0.3, 0.0, 0)
    assert played.switch_s().size == 0
    assert not math.isnan(played.played_s)

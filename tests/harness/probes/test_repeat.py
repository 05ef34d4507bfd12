import numpy as np
import pytest

from harness.errors import NotAvailable
from harness.probes.timing.clock import Clock
from harness.probes.timing.repeat import CompileCounter, FullClock, Stop, repeat, warm_up


def timed(fake, durations, stop, **more):
    series = iter(durations)

    def sample(_):
        seconds = next(series)
        fake.TIME.advance(seconds)
        return seconds

    return repeat(Clock("cpu", now=fake.TIME.now), sample, float, stop, **more)


def test_it_stops_when_the_median_stands_still(fake):
    found = timed(fake, [1.0] * 100, Stop(least=10, seconds=5, half_width=0.02, ceiling_s=1000))
    assert (found.converged, len(found.samples), found.half_width) == (True, 10, 0.0)


def test_it_goes_on_until_enough_seconds_were_timed(fake):
    found = timed(fake, [1.0] * 100, Stop(least=10, seconds=30, half_width=0.02, ceiling_s=1000))
    assert len(found.samples) == 30


def test_the_ceiling_says_what_was_missing(fake):
    noisy = np.random.default_rng(0).uniform(0.5, 1.5, 200)
    found = timed(fake, noisy, Stop(least=10, seconds=5, half_width=0.001, ceiling_s=20))
    assert not found.converged
    assert found.half_width > 0.001
    assert "ceiling of 20 s reached: half-width" in found.reason
    found = timed(fake, [3.0] * 9, Stop(least=5, seconds=0, ceiling_s=5))
    assert found.reason == "ceiling of 5 s reached: 2 of 5 samples"


def test_under_six_samples_nothing_converges(fake):
    found = timed(fake, [1.0] * 9, Stop(least=3, seconds=0, ceiling_s=4))
    assert (found.converged, len(found.samples)) == (False, 4)
    assert found.reason.endswith("fewer than 6 samples")


def test_slow_clocks_are_thrown_away_counted_and_waited_for(fake):
    ratios = iter([1.0, 0.5, 0.6, 0.9, *[1.0] * 20])
    pauses = []
    found = timed(
        fake,
        [1.0, 9.0, 9.0, *[1.0] * 20],
        Stop(least=6, seconds=0, ceiling_s=1000),
        clock_ratio=lambda: next(ratios),
        sleep=pauses.append,
    )
    assert found.rejected == 2
    assert found.samples == [1.0] * 6
    assert pauses == [1.0, 2.0]
    assert found.clock_ratios == [1.0, 0.9, 1.0, 1.0, 1.0, 1.0]
    assert found.rejected_ratios == [0.5, 0.6]


def test_a_device_that_never_reaches_its_clock_is_refused(fake):
    with pytest.raises(NotAvailable, match="below 75%"):
        timed(fake, [1.0] * 9, Stop(ceiling_s=3), clock_ratio=lambda: 0.2, sleep=lambda s: None)


def test_a_series_at_a_low_clock_is_taken_anew_after_growing_pauses():
    ratios, pauses, series = iter([0.5, 0.74, 0.75, None, 0.1]), [], iter("abcde")
    full = FullClock(lambda: next(ratios), 0.75, pauses.append)
    assert full.take(lambda: next(series)) == "c"
    assert (full.rejected, pauses) == (2, [1.0, 2.0])
    # A device that does not tell its clock keeps every series.
    assert full.take(lambda: next(series)) == "d"
    assert (full.rejected, pauses) == (2, [1.0, 2.0])


def test_a_series_that_never_sees_a_full_clock_is_refused():
    pauses = []
    full = FullClock(lambda: 0.3, 0.75, pauses.append)
    with pytest.raises(NotAvailable, match=r"all 5 samples were taken below 75% of the device's default clock"):
        full.take(lambda: 1)
    assert (full.rejected, pauses) == (5, [1.0, 2.0, 5.0, 10.0])


def test_warming_up_ends_after_two_quiet_runs(fake):
    def run(number):
        fake.TIME.advance(2.0 if number == 0 else 1.0)

    found = warm_up(Clock("cpu", now=fake.TIME.now), run, quiet=2, most=8)
    assert (found.runs, found.seconds, found.first_s, found.compilations) == (2, 3.0, 2.0, 0)
    assert found.quiet


def test_warming_up_waits_for_every_compilation():
    import torch

    compiled = torch.compile(lambda x: x * 2 + 1, backend="eager", dynamic=False)
    shapes = [3, 4, 4, 5, 5, 5, 5]
    found = warm_up(Clock(), lambda number: compiled(torch.ones(shapes[number])), quiet=2, most=7)
    # Runs 0, 1 and 3 meet a new shape; 4 and 5 are quiet.
    assert (found.runs, found.compilations, found.quiet) == (6, 3, True)


def test_warming_up_gives_up_and_says_so():
    import torch

    compiled = torch.compile(lambda x: x * 3, backend="eager", dynamic=False)
    found = warm_up(Clock(), lambda number: compiled(torch.ones(number + 2)), quiet=2, most=3)
    assert (found.runs, found.quiet) == (3, False)


def test_triton_compilations_are_counted_through_its_hook():
    knobs = pytest.importorskip("triton.knobs")
    before = knobs.runtime.jit_post_compile_hook
    with CompileCounter() as counter:
        assert counter.count() == 0
        knobs.runtime.jit_post_compile_hook(key="k", repr="f")
        assert counter.count() == 1
    assert knobs.runtime.jit_post_compile_hook is before

import gc
import time

import pytest

from harness.errors import ModelFault
from harness.probes.clock import Clock, ClockFault, Recorder, Span, no_garbage_collection, stage_seconds, time_calls


def test_spans_are_timed_exactly_by_a_known_clock(fake):
    clock = Clock("cpu", now=fake.TIME.now)
    spans = Recorder(clock)
    with spans("text"):
        fake.TIME.advance(0.25)
    fake.TIME.advance(1.0)
    with spans("chunk[3].denoise"):
        fake.TIME.advance(0.5)
    assert spans.finish() == [Span("text", 0.25, 0), Span("chunk[3].denoise", 0.5, 0)]
    assert spans.finish() == []


def test_only_outer_spans_add_up(fake):
    spans = Recorder(Clock("cpu", now=fake.TIME.now))
    spans.next_chunk()
    with spans("switch"), spans("chunk[4].clean_pass"):
        fake.TIME.advance(0.3)
    done = spans.finish()
    assert [span.depth for span in done] == [1, 0]
    assert [span.chunk for span in done] == [1, 1]
    assert stage_seconds(done) == {"switch": pytest.approx(0.3)}


@pytest.mark.parametrize(
    ("name", "stage", "index"),
    [
        ("chunk[12].clean_pass", "chunk.clean_pass", 12),
        ("decode[0]", "decode", 0),
        ("to_host", "to_host", None),
        ("odd name!", "odd name!", None),
    ],
)
def test_a_span_knows_its_stage_and_chunk(name, stage, index):
    span = Span(name, 0.0)
    assert (span.stage, span.index) == (stage, index)


def test_a_clock_that_goes_backwards_is_refused():
    readings = iter([5, 9, 7])
    clock = Clock("cpu", now=lambda: next(readings))
    clock.now()
    clock.now()
    with pytest.raises(ClockFault, match="backwards by 2 ns"):
        clock.now()


def test_a_span_left_open_at_a_yield_is_a_fault(fake):
    spans = Recorder(Clock("cpu", now=fake.TIME.now))
    with spans("decode[0]"), pytest.raises(ModelFault, match="still open"):
        spans.next_chunk()
    spans.next_chunk()


def test_a_span_ends_when_its_stage_raises(fake):
    spans = Recorder(Clock("cpu", now=fake.TIME.now))

    def stage():
        with spans("text"):
            fake.TIME.advance(0.1)
            raise KeyError

    with pytest.raises(KeyError):
        stage()
    assert spans.depth == 0
    assert spans.finish()[0].seconds == pytest.approx(0.1)


def test_calls_are_timed_one_by_one_and_bounded_by_the_budget(fake):
    calls = []

    def call():
        calls.append(1)
        fake.TIME.advance(0.002)

    samples = time_calls(Clock("cpu", now=fake.TIME.now), call, warmup_s=0.02, measure_s=0.1)
    assert samples == [pytest.approx(0.002)] * 50
    assert len(calls) == 1 + 5 + 10 + 50


def test_few_slow_calls_still_give_the_least_number(fake):
    samples = time_calls(
        Clock("cpu", now=fake.TIME.now), lambda: fake.TIME.advance(3.0), warmup_s=0.0, measure_s=0.1, least=4
    )
    assert samples == [3.0] * 4


def test_real_time_is_read_from_the_host():
    clock = Clock()
    start = clock.point()
    time.sleep(0.02)
    elapsed = clock.seconds(start, clock.point())
    assert 0.02 <= elapsed < 0.5


def test_garbage_collection_waits_for_the_sample():
    assert gc.isenabled()
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()

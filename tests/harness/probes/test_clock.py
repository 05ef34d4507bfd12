import gc
import sys
import time
import types

import pytest

from harness.errors import ModelFault
from harness.probes.timing.clock import (
    Clock,
    ClockFault,
    Recorder,
    Span,
    no_garbage_collection,
    stage_seconds,
    time_calls,
)


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
    outside = time.perf_counter()
    start = clock.point()
    time.sleep(0.02)
    elapsed = clock.seconds(start, clock.point())
    # Two readings of another clock stand around both of this one, however late the sleep ends.
    assert 0.02 <= elapsed <= time.perf_counter() - outside


def test_garbage_collection_waits_for_the_sample():
    assert gc.isenabled()
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


class FakeCuda:
    """A stream that works by itself: events take its time, not the host's, and can be read after a synchronise."""

    def __init__(self):
        self.ms, self.waits, self.recorded, self.known = 0.0, 0, 0, 0

    def Event(self, *, enable_timing):  # noqa: N802
        assert enable_timing
        return FakeEvent(self)

    def current_stream(self, device):
        return device

    def synchronize(self, device):
        self.waits += 1
        self.known = self.recorded


class FakeEvent:
    def __init__(self, cuda):
        self.cuda, self.number, self.at = cuda, None, None

    def record(self, stream):
        assert stream == "cuda:1"
        self.cuda.recorded += 1
        self.number, self.at = self.cuda.recorded, self.cuda.ms

    def elapsed_time(self, end):
        assert end.number <= self.cuda.known, "read before the device was waited for"
        return end.at - self.at


@pytest.fixture
def cuda(monkeypatch):
    torch = types.SimpleNamespace(cuda=FakeCuda())
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch.cuda


def test_stages_on_a_device_are_timed_by_events_and_one_wait_at_the_end(fake, cuda):
    clock = Clock("cuda:1", now=fake.TIME.now)
    spans = Recorder(clock)
    start = clock.point()
    assert cuda.waits == 1
    for chunk in range(3):
        with spans(f"chunk[{chunk}].denoise"):
            cuda.ms += 40.0 + chunk
            fake.TIME.advance(0.001)  # the host only enqueues
        with spans(f"decode[{chunk}]"):
            cuda.ms += 20.0
        spans.next_chunk()
    assert cuda.waits == 1, "no stage waits for the device"
    done = spans.finish()
    assert cuda.waits == 2
    assert [(s.name, s.chunk) for s in done][:3] == [("chunk[0].denoise", 0), ("decode[0]", 0), ("chunk[1].denoise", 1)]
    assert [s.seconds for s in done] == pytest.approx([0.040, 0.020, 0.041, 0.020, 0.042, 0.020])
    assert clock.point() - start == 3_000_000
    assert cuda.waits == 3


def test_calls_on_a_device_are_timed_one_by_one_with_one_wait_at_the_end(fake, cuda):
    lengths = iter(range(1000))

    def call():
        cuda.ms += next(lengths)
        fake.TIME.advance(0.01)

    clock = Clock("cuda:1", now=fake.TIME.now)
    samples = time_calls(clock, call, warmup_s=0.0, measure_s=0.1, cold=False)
    assert samples == pytest.approx([n / 1e3 for n in range(6, 16)])
    assert cuda.waits == 3

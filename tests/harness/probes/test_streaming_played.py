"""From a model of known delays through the streaming probe and its record to what a viewer sees, within 1 %."""

from pathlib import Path

import pytest

from harness.contracts import ProbeContext, Switch, Workload
from harness.probes.streaming import Streaming, StreamingOptions
from harness.probes.timing.clock import Clock
from harness.report.serving.player import play
from harness.report.serving.tables import stream_of
from harness.runs.line import Record
from harness.runs.measured import record_notes, record_samples, record_values

CHUNK = 0.075  # seconds that the fake model takes for a chunk of three frames
HERE = ProbeContext("cpu", Path("unused"))


def record_of(fake, subject, switches=()) -> Record:
    options = StreamingOptions(warmups=1, min_repeats=6, min_seconds=0, audit_repeats=0, count=False)
    probe = Streaming(options, Clock("cpu", now=fake.TIME.now), lambda seconds: None)
    measurement = probe.measure(subject, Workload(("a", "b", "c"), (0, 1), 30, 1, switches), HERE)
    return Record(
        "0" * 64,
        "measure",
        "ok",
        {},
        values=record_values("p", Streaming.values, measurement),
        samples=record_samples("p", Streaming, measurement),
        notes=record_notes("p", Streaming, measurement),
    )


def test_a_stall_of_the_model_is_the_stall_of_the_viewer(fake, subject) -> None:
    stream = stream_of(record_of(fake, subject(text_s=0.4, stall_chunk=5, stall_s=0.6)))
    assert stream is not None
    assert stream.frames == [3] * 10
    assert stream.switch_extra_s is None
    for clip in stream.clips:
        played = play(clip, stream.frames, 16.0, ahead_s=0.25)
        assert played.startup_s == pytest.approx(0.4 + CHUNK, rel=0.01)
        # The slow chunk is begun as a frame appears after which four are there, a quarter of a second. That frame and
        # those four cover the first 5 / 16 s of it.
        (stall,) = played.stalls_s
        assert stall == pytest.approx(0.6 + CHUNK - 5 / 16, rel=0.01)


def test_the_cost_of_a_switch_is_that_of_the_model(fake, subject) -> None:
    stream = stream_of(record_of(fake, subject(switch_s=0.3), (Switch(15, ("a red square",)),)))
    assert stream is not None
    assert stream.switch_extra_s == pytest.approx(0.3, rel=0.01)
    for clip in stream.clips:
        assert clip == pytest.approx([CHUNK] * 10, rel=0.01)
        # Ahead by a second and more, a switch is covered; in real time it adds to every wait.
        slow = play([0.1875] * 10, stream.frames, 16.0)
        assert slow.switch_s(0.3) == pytest.approx(slow.switch_s() + 0.3)

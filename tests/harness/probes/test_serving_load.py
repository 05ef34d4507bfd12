"""The load probe on a virtual clock: queues, latencies and goodput by hand and by Lindley's recursion."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import ProbeContext, Switch, Workload
from harness.errors import ModelFault, OptionError
from harness.probes.serving_load import ServingLoad, ServingLoadOptions, Visit, arrivals, serve, summary
from harness.probes.timing.clock import Clock

HERE = ProbeContext("cpu", Path("unused"))
PROMPTS = ("a red circle", "a blue square", "a green star")
CHUNK = 0.075  # seconds that the fake model takes for a chunk of three frames


class Service:
    """A model on a clock of its own that takes `seconds` for every chunk of four frames."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds, self.time = seconds, 0.0
        self.opened: list[list[int]] = []

    def open(self, visits: Sequence[Visit]) -> Iterator[np.ndarray]:
        self.opened.append([visit.number for visit in visits])
        for _ in range(-(-max(visit.frames for visit in visits) // 4)):
            self.time += self.seconds
            yield np.zeros((len(visits), 4, 2, 2, 3), np.uint8)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def serve(self, visits, streams=1, width=1, ceiling_s=1e9):
        return serve(
            visits, self.open, lambda: self.time, self.sleep, streams=streams, width=width, ceiling_s=ceiling_s
        )


def come(*visits: tuple[float, int]) -> list[Visit]:
    return [Visit(number, frames, at) for number, (at, frames) in enumerate(visits)]


def times(visit: Visit) -> list[float]:
    return [at for at, _ in visit.chunks]


def test_one_slot_serves_one_request_after_the_other() -> None:
    visits, service = come((0.0, 8), (0.1, 8), (5.0, 4)), Service()
    busy, finished = service.serve(visits)
    assert [times(visit) for visit in visits] == [[0.5, 1.0], [1.5, 2.0], [5.5]]
    assert [visit.started for visit in visits] == [0.0, 1.0, 5.0]
    assert visits[1].first_chunk_s == 1.4
    assert (busy, finished) == (pytest.approx(2.5), True)


def test_slots_take_turns_chunk_by_chunk() -> None:
    visits = come((0.0, 12), (0.1, 8), (0.2, 4))
    Service().serve(visits, streams=2)
    # The second starts when the first chunk of the first is there; the third when the second is done.
    assert [visit.started for visit in visits] == [0.0, 0.5, 2.0]
    assert [times(visit) for visit in visits] == [[0.5, 1.0, 2.0], [1.5, 2.5], [3.0]]


def test_batches_start_together_and_last_as_long_as_their_longest() -> None:
    visits, service = come((0.0, 8), (0.1, 12), (0.2, 4), (0.3, 4)), Service()
    service.serve(visits, width=2)
    assert service.opened == [[0], [1, 2], [3]]
    assert [times(visit) for visit in visits] == [[0.5, 1.0], [1.5, 2.0, 2.5], [1.5], [3.0]]


def test_a_last_chunk_counts_the_frames_that_were_asked_for() -> None:
    visits = come((0.0, 6))
    Service().serve(visits)
    assert [count for _, count in visits[0].chunks] == [4, 2]


def test_the_service_stops_at_its_ceiling() -> None:
    visits = come((0.0, 8), (0.1, 8), (9.0, 4))
    _, finished = Service().serve(visits, ceiling_s=1.2)
    assert not finished
    assert [visit.done for visit in visits] == [True, False, False]
    idle = come((0.0, 4), (50.0, 4))
    service = Service()
    assert service.serve(idle, ceiling_s=10.0)[1] is False
    assert service.time == 10.0


def test_the_queue_is_that_of_lindleys_recursion() -> None:
    options = ServingLoadOptions(rate=1.6, requests=2000, seed=3)
    visits = arrivals(options, 4)
    Service(0.5).serve(visits)
    gaps = np.diff([visit.arrived for visit in visits])
    waits = [0.0]
    for gap in gaps:
        waits.append(max(0.0, waits[-1] + 0.5 - gap))
    assert [visit.started - visit.arrived for visit in visits] == pytest.approx(waits, abs=1e-9)
    # Pollaczek and Khinchine: a queue with a load of 0.8 and a fixed service of 0.5 s waits 0.8 / 0.4 * 0.5 s.
    assert np.mean(waits) == pytest.approx(1.0, rel=0.35)


def test_arrivals_are_a_poisson_process_and_lengths_their_mix() -> None:
    options = ServingLoadOptions(rate=4.0, requests=20_000, seed=1, frames=(10, 40), weights=(3, 1))
    visits = arrivals(options, 99)
    gaps = np.diff([visit.arrived for visit in visits])
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    # Of an exponential distribution the deviation is the mean.
    assert gaps.std() == pytest.approx(0.25, rel=0.03)
    assert np.mean([visit.frames == 10 for visit in visits]) == pytest.approx(0.75, abs=0.01)
    assert visits[0].arrived == 0.0
    assert arrivals(options, 99) == visits
    assert {visit.frames for visit in arrivals(ServingLoadOptions(rate=1.0, requests=9), 99)} == {99}


def test_a_request_is_good_where_it_starts_in_time_and_never_waits() -> None:
    options = ServingLoadOptions(rate=1.0, first_chunk_limit_s=1.0)
    good = Visit(0, 8, 0.0, 0.0, [(1.0, 4), (1.5, 4)])  # at 8 frames/s the second chunk is due at 1.5
    slow = Visit(1, 8, 0.0, 0.5, [(1.1, 4), (1.6, 4)])
    stalls = Visit(2, 8, 0.0, 0.0, [(0.5, 4), (1.1, 4)])
    torn = Visit(3, 8, 0.0, 0.0, [(0.5, 4)])
    values = summary([good, slow, stalls, torn], options, 8.0, 4.0, 3.0)
    assert values["good_share"] == 0.25
    assert values["goodput"] == 0.25
    assert values["in_time_share"] == 0.75
    assert values["smooth_share"] == 0.5
    assert values["served"] == 0.75
    assert values["video_rate"] == 28 / 8 / 4
    assert values["busy_share"] == 0.75
    # Four requests support no p90 (rule T9).
    assert math.isnan(values["first_chunk_p90_s"])


# --------------------------------------------------------------------------------------------- the probe


def run(fake, subject, workload=None, **options):
    probe = ServingLoad(ServingLoadOptions(**options), Clock("cpu", now=fake.TIME.now), fake.TIME.advance)
    return probe.measure(subject, workload or Workload(PROMPTS, (0, 1), 9), HERE)


def test_known_delays_come_out_within_one_percent(fake, subject) -> None:
    # A clip of three chunks takes 0.225 s, of which the first 0.075; five a second are a load of 1.1.
    found = run(fake, subject(), rate=5.0, requests=400, seed=2)
    options = ServingLoadOptions(rate=5.0, requests=400, seed=2)
    gaps = np.diff([visit.arrived for visit in arrivals(options, 9)])
    waits = [0.0]
    for gap in gaps:
        waits.append(max(0.0, waits[-1] + 3 * CHUNK - gap))
    assert found.samples["queue_s"] == pytest.approx(waits, abs=1e-6)
    assert found.samples["first_chunk_s"] == pytest.approx(np.array(waits) + CHUNK, abs=1e-6)
    for percent in (50, 90, 99):
        assert found.values[f"queue_p{percent}_s"] == pytest.approx(np.percentile(waits, percent), rel=0.01)
        assert found.values[f"first_chunk_p{percent}_s"] == pytest.approx(
            np.percentile(waits, percent) + CHUNK, rel=0.01
        )
    in_time = np.mean(np.array(waits) + CHUNK <= 2.0)
    assert found.values["in_time_share"] == pytest.approx(in_time)
    # Three frames in 0.075 s keep up with 16 a second, so that being in time is all that counts.
    assert found.values["good_share"] == pytest.approx(in_time)
    ends = gaps.sum() + waits[-1] + 3 * CHUNK
    assert found.values["served"] == pytest.approx(400 / ends, rel=0.01)
    assert found.values["busy_share"] == pytest.approx(400 * 3 * CHUNK / ends, rel=0.01)
    assert found.converged is True


def test_batches_are_filled_up_so_that_their_shape_is_that_of_the_warm_up(fake, subject) -> None:
    made = subject(per_request_s=0.01)
    found = run(fake, made, rate=50.0, requests=6, slots=4, schedule="batches", frames=(6, 9), seed=1)
    (model,) = subject.made
    assert {request.batch for request in model.requests[-2:]} == {4}
    assert found.values["requests"] == 6
    assert found.notes["width"] == 4


def test_a_load_that_does_not_end_is_marked(fake, subject) -> None:
    found = run(fake, subject(), rate=50.0, requests=100, ceiling_s=1.0)
    assert found.converged is False
    assert 0 < found.values["requests"] < 100


def test_streams_that_disturb_each_other_are_refused_in_turns(fake, subject, monkeypatch) -> None:
    pixels = fake.FakeTimed.pixels

    def shared(self, request, count, index):
        self.total = getattr(self, "total", 0) + 1 if index else 0
        return pixels(self, request, count, index) + np.uint8(self.total)

    monkeypatch.setattr(fake.FakeTimed, "pixels", shared)
    with pytest.raises(ModelFault, match="take turns"):
        run(fake, subject(), rate=5.0, requests=4, slots=2)
    assert run(fake, subject(), rate=5.0, requests=4, slots=2, schedule="batches").values["requests"] == 4


def test_prompt_switches_are_refused(subject) -> None:
    workload = Workload(PROMPTS, (0,), 9, 1, (Switch(3, ("a",)),))
    with pytest.raises(OptionError, match="switches"):
        ServingLoad(ServingLoadOptions(rate=1.0)).check(subject().load(), workload)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"rate": float("nan")},
        {"frames": (0,)},
        {"frames": (4, 8), "weights": (1,)},
        {"frames": (4,), "weights": (0,)},
        {"frames": (4, 8), "weights": (2, -1)},
        {"frames": (4, 8), "weights": (1e308, 1e308)},
        {"slots": 0},
        {"requests": 0},
    ],
)
def test_a_load_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ServingLoadOptions(**{"rate": 1.0, **wrong})

"""Sessions in real time: bound by the time of a chunk or by memory, from gaps that are known."""

import math
from pathlib import Path

import pytest

from harness.contracts import Agreement, ProbeContext, Switch, Workload
from harness.errors import ModelFault, OptionError
from harness.probes import batch_child, sessions
from harness.probes.batch_child import Job, Row
from harness.probes.sessions import Sessions, SessionsOptions, gaps_needed
from harness.probes.timing.clock import Clock

HERE = ProbeContext("cpu", Path("unused"))
PROMPTS = ("a red circle", "a blue square")
CHUNK = 0.075  # seconds that the fake model takes for a chunk of three frames


def measure(monkeypatch, subject, row, workload=None, **options):
    """Sessions of the fake model, whose batch sizes end as `row(batch)` says."""
    tried: list[Job] = []

    def attempt(job: Job, timeout_s: float) -> Row:
        tried.append(job)
        return row(job.batch)

    monkeypatch.setattr(sessions, "attempt", attempt)
    monkeypatch.setattr(sessions, "agree", lambda job, timeout_s: Agreement("slow sums", 1e-5, 1e-3, job.batch))
    monkeypatch.setattr(sessions, "require_budget", lambda device: None)
    probe = Sessions(SessionsOptions(budget_bytes=1000, max_batch=64, **options))
    found = probe.measure(subject(), workload or Workload(PROMPTS, (0,), 12), HERE)
    return found, tried


def test_time_bounds_the_sessions_where_memory_does_not(monkeypatch, subject) -> None:
    # A chunk of three frames plays 3 / 16 = 0.1875 s; a session adds 0.03 s, so that six take 0.18 s and seven 0.21.
    found, tried = measure(monkeypatch, subject, lambda batch: Row(batch, "ok", gaps=[0.03 * batch] * 300))
    assert found.values["sessions"] == 6
    assert found.values["limit_s"] == 3 / 16
    assert found.values["gap_s"] == pytest.approx(0.18)
    assert found.values["gap_one_s"] == pytest.approx(0.03)
    assert (found.values["bound_by_time"], found.values["bound_by_memory"]) == (1, 0)
    assert [job.batch for job in tried] == [1, 2, 4, 8, 6, 7]
    assert {job.least_gaps for job in tried} == {gaps_needed(99)}
    assert found.samples["batch"] == [1, 2, 4, 6, 7, 8]
    assert found.samples["in_time"] == [1, 1, 1, 1, 0, 0]
    assert len(found.samples["gaps:7"]) == 300
    # The reference is asked about the batch that counts.
    assert found.agreement == Agreement("slow sums", 1e-5, 1e-3, 6)


def test_memory_bounds_them_where_there_is_time(monkeypatch, subject) -> None:
    def row(batch: int) -> Row:
        return Row(batch, "ok", gaps=[0.001] * 300) if batch <= 5 else Row(batch, "out_of_memory", "generate")

    found, _ = measure(monkeypatch, subject, row)
    assert found.values["sessions"] == 5
    assert (found.values["bound_by_time"], found.values["bound_by_memory"]) == (0, 1)


def test_the_percentile_counts_and_not_the_median(monkeypatch, subject) -> None:
    # Two gaps of a hundred are too long for a p99, and not for a p95.
    gaps = ([0.01] * 98 + [0.5] * 2) * 3
    strict, _ = measure(monkeypatch, subject, lambda batch: Row(batch, "ok", gaps=gaps))
    assert strict.values["sessions"] == 0
    assert math.isnan(strict.values["gap_s"])
    lenient, _ = measure(monkeypatch, subject, lambda batch: Row(batch, "ok", gaps=gaps), percent=95.0)
    assert lenient.values["sessions"] == 64
    assert "max_batch" in lenient.notes["search_ended"]


def test_a_slower_player_is_easier_to_keep_up_with(monkeypatch, subject) -> None:
    def row(batch: int) -> Row:
        return Row(batch, "ok", gaps=[0.03 * batch] * 300)

    found, _ = measure(monkeypatch, subject, row, frame_rate=8.0)
    assert found.values["limit_s"] == 3 / 8
    assert found.values["sessions"] == 12


def test_too_few_gaps_hold_no_percentile(monkeypatch, subject) -> None:
    found, _ = measure(monkeypatch, subject, lambda batch: Row(batch, "ok", gaps=[0.001] * 20))
    assert found.values["sessions"] == 0


def test_gaps_needed_are_those_of_the_binomial_bound() -> None:
    # The largest of n samples lies above the p-th percentile with a chance of 1 - p^n, which must be 0.95.
    for percent in (50.0, 90.0, 99.0):
        count = gaps_needed(percent)
        assert 1 - (percent / 100) ** count >= 0.95
        assert 1 - (percent / 100) ** (count - 1) < 0.95


def test_a_child_makes_clips_until_it_has_the_gaps(fake, monkeypatch) -> None:
    monkeypatch.setattr(batch_child, "Clock", lambda device: Clock(device, now=fake.TIME.now))
    monkeypatch.setattr(batch_child, "hold_to_budget", lambda device, budget: "nothing")

    def child(frames: int, least_gaps: int) -> Row:
        return batch_child.run(
            Job(
                "fake/timed", {"growth_s": 0.01}, (), "cpu", PROMPTS, (0,), frames, 2, 1000, (), 0.75, False, least_gaps
            )
        )

    # The window of nine frames is full from the fourth of five chunks on: two gaps a clip.
    row = child(15, 5)
    assert row.outcome == "ok", row.message
    assert row.gaps == pytest.approx([CHUNK + 0.09] * 6)
    assert child(15, 0).gaps == []
    # Nothing is full in one chunk, and its last half has no gap.
    short = child(3, 5)
    assert (short.outcome, short.kind) == ("failed", "OptionError")


def test_what_cannot_be_measured_is_refused(monkeypatch, subject) -> None:
    switched = Workload(PROMPTS, (0,), 12, 1, (Switch(3, ("a",)),))
    probe, model = Sessions(SessionsOptions(budget_bytes=1000)), subject().load()
    with pytest.raises(OptionError, match="switches"):
        probe.check(model, switched)
    with pytest.raises(OptionError, match="window"):
        probe.check(model, Workload(PROMPTS, (0,), 3))

    def broken(batch: int) -> Row:
        raise ModelFault("it broke")

    with pytest.raises(ModelFault, match="it broke"):
        measure(monkeypatch, subject, broken)

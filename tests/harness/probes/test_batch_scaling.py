import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.contracts import ProbeContext, Subject, Workload, registry
from harness.errors import ModelFault, NotAvailable, OptionError
from harness.probes import batch_child, batch_scaling
from harness.probes.batch_child import Job, Row, out_of_memory
from harness.probes.batch_scaling import BatchScaling, BatchScalingOptions, line, run_child, search
from harness.probes.timing import repeat
from harness.probes.timing.telemetry import Telemetry

MIB = 1 << 20
ARENA = MIB
"""Bytes that Python asks the system for at a time (obmalloc since 3.10): one more may fall into any batch."""
PROMPTS = ("a red circle", "a blue square")
HERE = ProbeContext("cpu", Path("unused"))
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the budget is held by RLIMIT_DATA")


def limit_at(limit):
    """An attempt that fits up to `limit` requests; `tried` keeps the order."""
    tried = []

    def attempt(batch):
        tried.append(batch)
        peak = 100.0 * MIB + 30.0 * MIB * batch
        return Row(batch, "ok", peak_bytes=peak) if batch <= limit else Row(batch, "out_of_memory", "generate")

    attempt.tried = tried
    return attempt


@pytest.mark.parametrize("limit", [*range(0, 18), 31, 32, 33, 63])
def test_the_search_finds_the_limit_exactly(limit):
    attempt = limit_at(limit)
    found = search(attempt, 64)
    assert (found.largest, found.bounded) == (limit, True)
    assert len(attempt.tried) == len(set(attempt.tried))


def test_the_search_doubles_and_then_bisects():
    attempt = limit_at(5)
    search(attempt, 64)
    assert attempt.tried == [1, 2, 4, 8, 6, 5]


@pytest.mark.parametrize(("most", "tried"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_a_search_that_meets_no_limit_says_so(most, tried):
    attempt = limit_at(100)
    found = search(attempt, most)
    assert (found.largest, found.bounded) == (most, False)
    assert attempt.tried == tried


def test_slope_and_fixed_part_come_from_the_batches_that_finished():
    slope, fixed = line(search(limit_at(5), 64).rows)
    assert slope == pytest.approx(30 * MIB)
    assert fixed == pytest.approx(100 * MIB)
    assert all(math.isnan(part) for part in line(search(limit_at(1), 64).rows))


@linux
def test_the_known_allocation_comes_out_under_a_held_budget(subject):
    # 40 MiB of weights and 24 MiB a request: 4 requests take 136 MiB, 5 would take 160.
    made = subject(time="real", weight_bytes=40 * MIB, request_bytes=24 * MIB, denoise_s=0.001)
    options = BatchScalingOptions(budget_bytes=150 * MIB, max_batch=64, preload=())
    found = BatchScaling(options).measure(made, Workload(PROMPTS, (0, 1), 12), HERE)
    assert found.values["largest_batch"] == 4
    assert found.values["bounded"] == 1
    assert found.values["slope_bytes"] == pytest.approx(24 * MIB, abs=ARENA / 2)
    assert found.values["weight_bytes"] == pytest.approx(40 * MIB, abs=1.1 * ARENA)
    assert found.values["cache_share"] == pytest.approx(1, rel=0.02)
    # The budget limits what is shown: no batch that fits lies above it.
    sizes = [(40 + 24 * batch) * MIB for batch in (1, 2, 4)]
    assert found.samples["peak_bytes"][:3] == pytest.approx(sizes, abs=1.5 * ARENA)
    assert max(found.samples["peak_bytes"][:3]) <= options.budget_bytes
    assert found.samples["batch"] == [1, 2, 4, 5, 6, 8]
    assert found.samples["fits"] == [1, 1, 1, 0, 0, 0]
    outcomes = [row["outcome"] for row in found.notes["rows"]]
    assert outcomes == ["ok"] * 3 + ["out_of_memory"] * 3
    assert "RLIMIT_DATA" in found.notes["covers"]


HEAVY = """
import numpy as np
from harness.contracts import ModelCard, Options, VideoModel, no_spans, registry

class Heavy(VideoModel):
    schema = Options
    def describe(self): return ModelCard("heavy", 4, 4, 8.0, 4)
    def load(self, device): import heavy_table
    def stream(self, request, spans=no_spans):
        import heavy_late
        for start in range(0, request.frames, 4):
            yield np.stack([np.full((4, 4, 4, 3), len(prompt) + start, np.uint8) for prompt in request.prompts])

registry.models.register("test/heavy")(Heavy)
"""


@linux
def test_what_a_model_imports_does_not_count_unless_asked_for(tmp_path):
    for name in ("heavy_table", "heavy_late"):
        (tmp_path / f"{name}.py").write_text("import numpy as np\nTABLE = np.ones(40 << 20, np.uint8)\n")
    (tmp_path / "heavy.py").write_text(HEAVY)
    registry.load_plugin(tmp_path / "heavy.py")
    made = Subject(
        "test/heavy",
        {},
        registry.models.create("test/heavy", {}).describe(),
        "cpu",
        lambda: None,
        (tmp_path / "heavy.py",),
    )
    workload = Workload(PROMPTS, (0, 1), 12)
    found = BatchScaling(BatchScalingOptions(budget_bytes=30 * MIB, max_batch=2)).measure(made, workload, HERE)
    assert found.values["largest_batch"] == 2
    assert found.values["peak_bytes_largest"] < 20 * MIB
    with pytest.raises(OptionError, match="smaller than the weights of test/heavy"):
        BatchScaling(BatchScalingOptions(budget_bytes=30 * MIB, preload=())).measure(made, workload, HERE)


def test_what_the_driver_counts_is_held_against_the_budget(subject, monkeypatch):
    def attempt(job, timeout):
        if job.batch > 4:
            return Row(job.batch, "out_of_memory", "generate")
        grown = (10.0 + 25.0 * job.batch) * MIB
        return Row(job.batch, "ok", peak_bytes=grown, grown_bytes=grown, failures={"retries": job.batch, "ooms": 0})

    monkeypatch.setattr(batch_scaling, "run_child", attempt)
    for budget, said in ((110, None), (100, f"batch 4 took up to {10 * MIB:g} bytes"), (60, "batch 4 took up to")):
        options = BatchScalingOptions(budget_bytes=budget * MIB, max_batch=8, preload=())
        notes = BatchScaling(options).measure(subject(), Workload(PROMPTS, (0,), 12), HERE).notes
        assert said in notes["over_budget"] if said else "over_budget" not in notes
        tried = [(row["batch"], row["grown_bytes"], row["allocation_failures"]) for row in notes["rows"]]
        assert tried[2] == (4, 110.0 * MIB, {"retries": 4, "ooms": 0})
        assert tried[-1] == (8, None, {})


@linux
def test_a_budget_smaller_than_the_weights_is_refused(subject):
    made = subject(time="real", weight_bytes=64 * MIB)
    probe = BatchScaling(BatchScalingOptions(budget_bytes=32 * MIB, preload=()))
    with pytest.raises(OptionError, match="smaller than the weights of fake/timed"):
        probe.measure(made, Workload(PROMPTS, (0,), 12), HERE)


@linux
def test_not_even_one_request_is_a_row_of_nothing(subject):
    made = subject(time="real", weight_bytes=16 * MIB, request_bytes=64 * MIB)
    probe = BatchScaling(BatchScalingOptions(budget_bytes=48 * MIB, preload=()))
    found = probe.measure(made, Workload(PROMPTS, (0,), 12), HERE)
    assert found.values["largest_batch"] == 0
    assert math.isnan(found.values["slope_bytes"])
    assert math.isnan(found.values["fps_largest"])


@linux
def test_a_model_that_ignores_the_batch_is_a_fault(subject):
    made = subject(time="real", ignore_batch=True, denoise_s=0.001)
    probe = BatchScaling(BatchScalingOptions(budget_bytes=256 * MIB, preload=()))
    with pytest.raises(ModelFault, match="batch 2 failed: ModelFault: the model ignores the batch"):
        probe.measure(made, Workload(PROMPTS, (0,), 12), HERE)


@linux
def test_a_model_that_repeats_one_clip_is_a_fault(subject):
    made = subject(time="real", repeat_clip=True, denoise_s=0.001)
    probe = BatchScaling(BatchScalingOptions(budget_bytes=256 * MIB, preload=()))
    with pytest.raises(ModelFault, match="batch 2 failed: ModelFault: the model ignores the batch: clips 0 and 1"):
        probe.measure(made, Workload(PROMPTS, (0,), 12), HERE)


@linux
def test_the_largest_batch_is_held_against_the_reference_outside_the_budget(subject):
    # What the reference needs for four clips is more than the whole budget.
    sizes = {"weight_bytes": 40 * MIB, "request_bytes": 24 * MIB, "reference_bytes": 64 * MIB}
    made = subject(time="real", denoise_s=0.001, error=2e-4, **sizes)
    options = BatchScalingOptions(budget_bytes=150 * MIB, max_batch=8, preload=())
    found = BatchScaling(options).measure(made, Workload(PROMPTS, (0, 1), 12), HERE)
    assert (found.values["largest_batch"], found.agreement.error) == (4, 2e-4)
    assert found.agreement.details == {"batch": 4, "room": 256 * MIB}


@linux
def test_no_figure_of_a_model_that_does_not_agree(subject):
    made = subject(time="real", denoise_s=0.001, error=2e-3)
    probe = BatchScaling(BatchScalingOptions(budget_bytes=256 * MIB, max_batch=2, preload=()))
    with pytest.raises(ModelFault, match=r"batch 2 failed: ModelFault: relative error 2\.00e-03 against slow sums"):
        probe.measure(made, Workload(PROMPTS, (0,), 12), HERE)


def test_a_reference_that_finds_no_room_is_asked_for_half_the_batch(subject, monkeypatch):
    asked = []

    def attempt(job, timeout):
        if not job.agreement:
            return Row(job.batch, "ok" if job.batch <= 5 else "out_of_memory", "generate", peak_bytes=1.0, rejected=1)
        asked.append(job.batch)
        fits = job.batch <= room
        held = {"reference": "slow", "error": 1e-4, "limit": 1e-3, "compared": 1, "details": {"batch": job.batch}}
        return Row(job.batch, "ok" if fits else "out_of_memory", "load", agreement=held if fits else None)

    monkeypatch.setattr(batch_scaling, "run_child", attempt)
    probe = BatchScaling(BatchScalingOptions(budget_bytes=MIB, max_batch=8, preload=()))
    for room, batches in ((5, [5]), (2, [5, 2]), (0, [5, 2, 1])):
        asked.clear()
        found = probe.measure(subject(), Workload(PROMPTS, (0,), 12), HERE)
        assert asked == batches
        # Batches 1, 2, 4 and 5 finished, 6 and 8 had no clip to throw away.
        assert found.values["rejected"] == 4 + 2
        if room:
            assert (found.agreement.error, found.agreement.details) == (1e-4, {"batch": batches[-1]})
        else:
            assert found.agreement == "not taken"


def test_a_clip_at_a_low_clock_is_made_anew_and_counted(fake, monkeypatch):
    ratios = [0.5, 0.7, 0.9]
    monkeypatch.setattr(Telemetry, "clock_ratio", lambda self: ratios.pop(0))
    monkeypatch.setattr(repeat, "PAUSES_S", (0.0,) * 4)
    monkeypatch.setattr(batch_child, "hold_to_budget", lambda device, budget: "nothing")
    job = replace(JOB, options={"time": "real", "denoise_s": 0.001})
    row = batch_child.run(job)
    assert (row.outcome, row.rejected) == ("ok", 2)
    monkeypatch.setattr(Telemetry, "clock_ratio", lambda self: 0.1)
    row = batch_child.run(job)
    assert (row.outcome, row.kind) == ("failed", "NotAvailable")
    assert "all 5 samples were taken below 75%" in row.message


@linux
def test_a_budget_that_is_not_there_is_refused(subject):
    probe = BatchScaling(BatchScalingOptions(budget_bytes=1 << 60, preload=()))
    with pytest.raises(NotAvailable, match="is not free on this machine"):
        probe.measure(subject(time="real"), Workload(PROMPTS, (0,), 12), HERE)


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_must_be_positive(budget):
    with pytest.raises(ValueError, match="greater than 0"):
        BatchScalingOptions(budget_bytes=budget)


def test_a_clip_must_fill_the_window(subject):
    probe = BatchScaling(BatchScalingOptions(budget_bytes=MIB))
    with pytest.raises(OptionError, match=r"window of 9 is never full\n  set frames to at least 9"):
        probe.check(subject().load(), Workload(PROMPTS, (0,), 6))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (ValueError("no such prompt"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert out_of_memory(error) is expected
    wrapped = RuntimeError("the chunk failed")
    wrapped.__cause__ = error
    assert out_of_memory(wrapped) is expected


def test_an_allocation_that_torch_refuses_is_recognised():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert out_of_memory(caught.value)


JOB = Job("fake/timed", {}, (), "cpu", PROMPTS, (0,), 12, 1, MIB, preload=())


def test_a_child_that_dies_without_words_has_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run_child(JOB, 10).message == "exit status 1: no message"


def test_a_child_that_is_killed_for_its_memory_is_a_row(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n", encoding="ascii")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    row = run_child(JOB, 10)
    assert (row.outcome, row.message) == ("out_of_memory", "ended by signal 9")


def test_freed_memory_goes_back_at_once_on_a_cpu_alone(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\necho "at $MALLOC_MMAP_THRESHOLD_ and $MALLOC_ARENA_MAX" >&2\nexit 1\n', encoding="ascii"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert run_child(JOB, 10).message == "exit status 1: at 131072 and 1"
    assert run_child(replace(JOB, device="cuda"), 10).message == "exit status 1: at  and"


def test_a_child_that_hangs_has_failed(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 20\n", encoding="ascii")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert "no answer within 0.2 s" in run_child(JOB, 0.2).message


def test_an_unknown_model_in_the_child_is_told(fake):
    row = batch_child.run(replace(JOB, name="fake/tmied"))
    assert (row.outcome, row.kind) == ("failed", "RegistryError")
    assert json.dumps(row.message)

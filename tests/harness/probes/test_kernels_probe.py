"""Kernels are checked before they are timed; what fails has no time, and without a device there is no figure."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from road import write

from harness.contracts import Availability, ProbeContext, Workload
from harness.contracts.kernels import Bench, Case, Crossing, Error, Shape
from harness.contracts.registry import kernel_family
from harness.errors import NotAvailable, OptionError, RegistryError
from harness.execute.run import run_plan
from harness.probes.kernels.probe import Ceilings, Kernels, Row
from harness.probes.kernels.summary import crossings_of, summary
from harness.probes.timing import repeat
from harness.probes.timing.clock import Clock, ClockFault
from harness.probes.timing.telemetry import Telemetry
from harness.report.tables import build
from harness.runs.plan import make
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite

SUITE = Path(__file__).parents[3] / "suites" / "kernels.yaml"
NOTHING = Workload((), (), 1)


class Ticking:
    """Virtual time: it goes on where a form says so, and a microsecond with every reading."""

    ns = 0

    def advance(self, seconds):
        self.ns += round(seconds * 1e9)

    def now(self):
        self.ns += 1000
        return self.ns


TIME = Ticking()


def measure(options, bench):
    """On virtual time, so that no load of the machine can move a figure."""
    return Kernels(options, bench, Clock("cpu", now=TIME.now)).measure(
        None, NOTHING, ProbeContext("cpu", Path("unused"))
    )


class Sleeps(Bench):
    """Forms that take a known time and lie a known distance from the truth."""

    def __init__(self, dtype, sizes, device):
        self.sizes = sizes

    def identity(self):
        return {"sleeps": True}

    def available(self):
        return Availability(True)

    def cases(self, shape, seed):
        def takes(seconds):
            return lambda: TIME.advance(seconds)

        def off(relative, row=0.0):
            return lambda: Error(relative, row)

        def absent():
            raise NotAvailable("no such backend")

        slow, fast = 0.003, 0.001
        absorbed = fast if shape.queries < 100 else slow
        expanded = slow if shape.queries < 100 else fast
        yield Case("absorbed", 1.0, 1.0, takes(absorbed), off(1e-3), 4e-3, 1e-2)
        yield Case("expanded", 1.0, 1.0, takes(expanded), off(2e-3), 4e-3, 1e-2, {"backend": "a"})
        yield Case("absorbed:k", 1.0, 1.0, takes(fast), off(1e-3), 4e-3, 1e-2)
        yield Case("dense:a", 1.0, 1.0, takes(expanded), off(1e-3), 4e-3, 1e-2)
        yield Case("dense:b", 1.0, 1.0, takes(fast), absent, 4e-3, 1e-2)
        yield Case("wrong", 1.0, 1.0, takes(fast), off(5e-3), 4e-3, 1e-2)
        yield Case("wrong in a row", 1.0, 1.0, takes(fast), off(1e-3, 2e-2), 4e-3, 1e-2)
        yield Case("not finite", 1.0, 1.0, takes(fast), off(math.inf, math.inf), 4e-3, 1e-2)
        yield Case("not a number", 1.0, 1.0, takes(fast), off(math.nan, math.nan), 4e-3, 1e-2)
        yield Case("too fast", 1e18, 1.0, takes(fast), off(1e-3), 4e-3, 1e-2)
        yield Case("too much", 1.0, 1e18, takes(fast), off(1e-3), 4e-3, 1e-2)

    def chunks(self, seed, compile="none"):
        for form, relative in (("dense", 1e-2), ("expanded", 9e-2), ("absorbed", 1e-2)):
            case = Case(
                f"chunk:{form}", 1e6, 1.0, lambda: TIME.advance(0.002), lambda e=relative: Error(e, e), 5e-2, 0.2
            )
            yield Shape(1, 9, 21), case

    def chosen(self, shape, crossings=()):
        return "absorbed" if not crossings or shape.queries <= crossings[0].queries else "expanded"

    def keep(self, crossings, flops, moved):
        raise AssertionError("rows failed, so nothing is to be kept")


SMALL = {"batches": (1,), "keys": (7,), "warmup_s": 1e-3, "measure_s": 1e-2, "matmul": 64, "copy_bytes": 1 << 16}


@pytest.fixture(scope="module")
def found():
    options = Kernels.schema(queries=(50, 200), keep=True, **SMALL)
    return measure(options, Sleeps)


def rows(found, form):
    return [row for row in found.notes["rows"] if row["form"] == form]


def test_what_passes_is_timed_cold_and_warm_with_its_spread(found):
    first, second = rows(found, "absorbed")
    assert (first["queries"], second["queries"]) == (50, 200)
    assert first["cold"]["median_s"] == pytest.approx(0.001, abs=5e-6)
    assert second["cold"]["median_s"] == pytest.approx(0.003, abs=5e-6)
    assert first["warm"]["samples"] >= 10
    assert first["warm"]["iqr_s"] >= 0
    assert len(found.samples["B 1, Lq 50, Lk 7, absorbed: cold_s"]) == first["cold"]["samples"]


@pytest.mark.parametrize(
    ("form", "words"),
    [("wrong", "relative error 5.00e-03 above 4e-03"), ("wrong in a row", "of a row above"), ("not finite", "inf"),
     ("not a number", "nan"), ("too fast", "matmul ceiling"), ("too much", "copy ceiling")],
)  # fmt: skip
def test_no_speed_where_a_check_failed(found, form, words):
    for row in rows(found, form):
        assert words in row["fault"]
        assert (row["cold"], row["warm"], row["graph"]) == (None, None, None)
    assert not [name for name in found.samples if f", {form}:" in name]
    cells = [numbers for label, numbers in found.table.rows if label.endswith(f", {form}")]
    assert all(math.isnan(number) for numbers in cells for number in numbers[1:])
    assert any(form in remark and words in remark for remark in found.table.remarks)


def test_whole_chunks_are_checked_and_timed_on_request():
    options = Kernels.schema(queries=(50,), chunk=True, **{**SMALL, "keep": False})
    found = measure(options, Sleeps)
    ceiling = found.values["matmul_flops"]
    assert found.values["chunk_dense_share"] == pytest.approx(1e6 / 0.002 / ceiling, rel=1e-2)
    assert math.isnan(found.values["chunk_expanded_share"])
    assert "relative error 9.00e-02 above 5e-02" in rows(found, "chunk:expanded")[0]["fault"]
    assert found.values["rows"] == 11 + 3
    assert found.values["failed_rows"] == 6 + 1
    assert "B 1, Lq 9, Lk 21, chunk:absorbed" in [label for label, _ in found.table.rows]
    # Crossings are of attention alone.
    assert [keys for keys, *_ in found.notes["crossings"]] == [7]


class Sound(Sleeps):
    """Without the forms that fail."""

    kept: list[tuple[list[Crossing], float, float]] = []  # noqa: RUF012 - one measurement alone writes to it

    def cases(self, shape, seed):
        return (case for case in super().cases(shape, seed) if case.form in ("absorbed", "expanded"))

    def keep(self, crossings, flops, moved):
        self.kept.append((list(crossings), flops, moved))
        return "kept"


class Chunks(Sound):
    """One chunk whose host returns long before it is done, with a step inside another, and one that goes on compiling.

    The seconds of the steps are those of the sleeps in them.
    """

    asked: list[str] = []  # noqa: RUF012 - one measurement alone writes to it

    def chunks(self, seed, compile="none"):
        self.asked.append(compile)

        def staged(spans):
            with spans("outer"):
                TIME.advance(0.002)
                with spans("inner"):
                    TIME.advance(0.004)
            with spans("inner"):
                TIME.advance(0.004)

        graphs = iter(range(1000))
        sound = (lambda: TIME.advance(0.002), lambda: Error(1e-2, 1e-2), 5e-2, 0.2)
        yield Shape(1, 9, 21), Case("chunk:dense", 1e6, 1.0, *sound, staged=staged, compiled=lambda: 7)
        yield Shape(1, 9, 21), Case("chunk:expanded", 1e6, 1.0, *sound, compiled=lambda: next(graphs))


def test_a_chunk_says_where_its_time_goes_and_no_time_holds_a_compilation():
    options = Kernels.schema(queries=(50,), chunk=True, compile="blocks", **SMALL)
    found = measure(options, Chunks)
    assert Chunks.asked == ["blocks"]
    (dense,), (expanded,) = rows(found, "chunk:dense"), rows(found, "chunk:expanded")
    account = dense["account"]
    assert account["host_s"] == pytest.approx(0.002, abs=5e-6)
    assert account["whole_s"] == pytest.approx(0.002, abs=5e-6)
    assert account["scalar_reads"] == 0
    assert account["stages_s"] == pytest.approx({"outer": 0.002, "inner": 0.008, "rest": 0.0}, abs=1e-5)
    assert expanded["fault"] == "1 graphs were compiled while it was timed"
    assert "account" not in expanded
    assert (expanded["cold"], expanded["warm"]) == (None, None)
    assert not [row for row in rows(found, "absorbed") if "account" in row]


def slow_clock(monkeypatch, ratios):
    """Clock ratios of the device in the order in which they are asked for, the last one for ever; without pauses."""
    left = list(ratios)
    monkeypatch.setattr(Telemetry, "clock_ratio", lambda self: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(repeat, "PAUSES_S", (0.0,) * 4)


def test_timings_at_a_low_clock_are_taken_anew_and_counted(monkeypatch):
    # The product's ceiling, the copy's twice, the first row's cold cache three times.
    slow_clock(monkeypatch, [1.0, 0.7, 0.8, 0.1, 0.2, 1.0])
    found = measure(Kernels.schema(queries=(50,), **SMALL), Sound)
    assert found.values["rejected"] == 3
    assert found.values["missing_rows"] == 0
    assert len(rows(found, "absorbed")) == 1


def test_a_row_whose_timings_were_all_thrown_away_has_none(monkeypatch):
    slow_clock(monkeypatch, [1.0, 1.0, 0.1])
    found = measure(Kernels.schema(queries=(50,), **SMALL), Sound)
    for form in ("absorbed", "expanded"):
        (row,) = rows(found, form)
        assert (row["cold"], row["warm"]) == (None, None)
        assert row["missing"] == "all 5 samples were taken below 75% of the device's default clock"
    assert (found.values["rejected"], found.values["missing_rows"], found.values["failed_rows"]) == (10, 2, 0)
    assert any("absorbed: not measured here, all 5 samples" in said for said in found.table.remarks)


def test_only_chunks_are_compiled():
    with pytest.raises(ValueError, match="compile: graph says how whole chunks run; set chunk: true"):
        Kernels.schema(compile="graph")


def test_graphs_without_a_device_are_missing_by_name(monkeypatch):
    """The family's own refusal, as the probe shows it."""
    options = Kernels.schema(queries=(50,), chunk=True, compile="graph", **{**SMALL, "timed": False})
    real = kernel_family("latent-attention")("float32", {"heads": 2}, "cpu")

    class Small(Sound):
        def chunks(self, seed, compile="none"):
            return real.chunks(seed, compile)

    found = measure(options, Small)
    for form in ("chunk:dense", "chunk:expanded", "chunk:absorbed"):
        assert [row["missing"] for row in rows(found, form)] == ["CUDA graphs need a CUDA device, not cpu"]
    assert found.values["failed_rows"] == 0


def test_without_the_request_there_are_no_chunks(found):
    assert not rows(found, "chunk:dense")
    assert math.isnan(found.values["chunk_dense_share"])


def test_what_does_not_run_here_is_no_failure(found):
    assert all(row["missing"] == "no such backend" and row["cold"] is None for row in rows(found, "dense:b"))
    assert found.values["missing_rows"] == 2
    assert found.values["failed_rows"] == 2 * 6
    assert found.values["rows"] == 2 * 11
    assert found.values["worst_error"] == 2e-3


class Errors(Sleeps):
    """Errors of every kind that compilers and devices raise, in a check, in a timed call and among the inputs."""

    def cases(self, shape, seed):
        def fails(error, after=0):
            calls = iter(range(after))

            def call():
                if next(calls, None) is None:
                    raise error
                return Error(1e-3, 1e-3)

            return call

        class CompilerError(Exception):
            pass

        good = fails(AssertionError(), after=10**6)
        yield Case("check", 1.0, 1.0, good, fails(RuntimeError("CUDA out of memory.\nTried to allocate")), 4e-3, 1e-2)
        yield Case("compiler", 1.0, 1.0, good, fails(CompilerError("out of resource: shared memory")), 4e-3, 1e-2)
        yield Case("option", 1.0, 1.0, good, fails(OptionError("cos does not start on a boundary")), 4e-3, 1e-2)
        yield Case("timed", 1.0, 1.0, fails(RuntimeError("launch failed"), after=30), good, 4e-3, 1e-2)
        yield Case("timed, missing", 1.0, 1.0, fails(NotAvailable("not here"), after=30), good, 4e-3, 1e-2)
        yield Case("sound", 1.0, 1.0, good, good, 4e-3, 1e-2)
        if shape.queries == 50:
            raise RuntimeError("no memory for the next inputs")

    def chosen(self, shape, crossings=()):
        return "absorbed"


def test_an_error_costs_its_row_and_no_other():
    found = measure(Kernels.schema(queries=(50, 200), **SMALL), Errors)
    words = {
        "check": "RuntimeError: CUDA out of memory.",
        "compiler": "CompilerError: out of resource: shared memory",
        "option": "OptionError: cos does not start on a boundary",
        "timed": "RuntimeError: launch failed",
    }
    for form, fault in words.items():
        assert [row["fault"] for row in rows(found, form)] == [fault] * 2
    for form in (*words, "timed, missing"):
        assert all((row["cold"], row["warm"], row["graph"]) == (None, None, None) for row in rows(found, form))
    assert [row["missing"] for row in rows(found, "timed, missing")] == ["not here"] * 2
    assert all(row["cold"]["samples"] for row in rows(found, "sound"))
    assert [row["fault"] for row in rows(found, "inputs")] == ["RuntimeError: no memory for the next inputs"]
    assert found.values["rows"] == 2 * 6 + 1
    assert found.values["failed_rows"] == 2 * 4 + 1


def test_a_clock_that_runs_backwards_ends_the_measurement():
    class Backwards(Sleeps):
        def cases(self, shape, seed):
            def call():
                raise ClockFault("the host clock went backwards", "use another")

            yield Case("absorbed", 1.0, 1.0, call, lambda: Error(0.0, 0.0), 4e-3, 1e-2)

    with pytest.raises(ClockFault):
        measure(Kernels.schema(queries=(50,), **SMALL), Backwards)


def test_ratios_and_the_loss_of_dispatch(found):
    assert 0.6 < found.values["expanded_over_dense"] < 1.6
    assert found.values["absorbed_over_expanded"] < 0.7
    # Before, it absorbs everything; with the crossing found between them it takes the better form at both.
    assert found.values["dispatch_loss"] > 0.5
    assert found.values["dispatch_loss_measured"] == 0
    assert list(found.notes["dispatch_measured"].values()) == ["absorbed", "expanded"]
    assert math.isnan(found.values["absorbed_long_share"])
    assert found.values["absorbed_short_share"] > 0
    assert found.values["matmul_flops"] > 1e6
    assert found.values["copy_bytes"] > 1e6


def test_what_failed_keeps_dispatch_as_it_was(found):
    assert found.notes["crossings"][0][0] == 7
    assert 50 <= found.notes["crossings"][0][1] < 200
    assert "kept" not in found.notes


def test_what_passed_is_handed_to_dispatch_when_nothing_else_ran(monkeypatch):
    monkeypatch.setattr("harness.probes.timing.contention.CONTENDED_CORES", 1e9)
    options = {"queries": (50, 200), **SMALL}
    found = measure(Kernels.schema(keep=True, **options), Sound)
    ((crossings, flops, moved),) = Sound.kept
    assert found.notes["kept"] == "kept"
    assert [[c.keys, c.queries, c.variant] for c in crossings] == found.notes["crossings"]
    assert (flops, moved) == (found.values["matmul_flops"], found.values["copy_bytes"])
    assert "kept" not in measure(Kernels.schema(**options), Sound).notes


def row(queries, form, seconds, keys=7, batch=1, **detail):
    return Row(Shape(batch, queries, keys), form, 1.0, 1.0, detail, cold=[seconds])


def test_crossings_between_measured_numbers_of_queries():
    """Ratios 1/2 and 2: halfway between the logarithms of 64 and 256 stands 128."""
    made = [row(64, "absorbed", 1.0), row(64, "expanded", 2.0), row(256, "absorbed", 4.0), row(256, "expanded", 2.0)]
    assert crossings_of(made) == [Crossing(7, 128)]
    assert crossings_of([*made, row(64, "absorbed", 9.0, batch=4), row(64, "expanded", 1.0, batch=4)])[0].queries == 128
    assert crossings_of(made[:2]) == [Crossing(7, 64)]
    assert crossings_of(made[2:]) == [Crossing(7, 0)]
    assert crossings_of(made[:3]) == []
    kernels = [
        row(64, "absorbed:x", 3.0),
        row(64, "absorbed:y", 2.0),
        row(256, "absorbed:x", 1.0),
        row(256, "absorbed:y", 1.5),
    ]
    assert crossings_of([*made, *kernels]) == [Crossing(7, 128, "y")]


def test_the_default_kernel_is_judged_beside_the_best_one():
    """One FLOP in 2 s and in 4 s on a device that does one in 1 s."""
    made = [row(q, f"absorbed:{name}", s * q / 64, default=name == "y") for q in (64, 2048) for name, s in
            (("x", 2.0), ("y", 4.0))]  # fmt: skip
    found = summary(made, Ceilings(1.0, 1.0), {})
    assert (found["absorbed_short_share"], found["default_short_share"]) == (0.5, 0.25)
    assert (found["absorbed_long_share"], found["default_long_share"]) == (0.5 / 32, 0.25 / 32)


def test_a_target_without_all_its_rows_is_not_met():
    shape = Shape(1, 64, 7)
    whole = summary([row(64, "absorbed", 1.0), row(64, "expanded", 2.0)], Ceilings(10.0, 10.0), {shape: "expanded"})
    assert (whole["absorbed_over_expanded"], whole["dispatch_loss"]) == (0.5, 1.0)
    assert math.isnan(whole["expanded_over_dense"])
    half = summary([row(64, "absorbed", 1.0)], Ceilings(10.0, 10.0), {shape: "absorbed"})
    assert math.isnan(half["dispatch_loss"])


def test_without_a_device_nothing_is_measured(tmp_path):
    plan = make(load_suite(SUITE), "cpu")
    assert len(plan.units) == 4
    run_plan(plan, tmp_path / "run")
    record = next(iter(RecordFile(tmp_path / "run" / "records.jsonl").records()))
    assert (record.status, dict(record.values)) == ("skipped", {})
    for table in build([load_run(tmp_path / "run")]):
        assert {cell.text.split(" (")[0] for row in table.rows for cell in row.cells} == {
            "not available: probe kernels is not available: kernels are timed on a CUDA device only"
        }
        assert all(cell.value is None for row in table.rows for cell in row.cells)


def test_checks_need_the_interpreter_where_there_is_no_device(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    probe = Kernels(Kernels.schema(timed=False))
    assert "TRITON_INTERPRET=1" in probe.available("cpu").fix


def test_the_interpreter_checks_no_bfloat16(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    by_dtype = {
        dtype: Kernels(Kernels.schema(timed=False, dtype=dtype)).available("cpu")
        for dtype in ("bfloat16", "float16", "float32")
    }
    assert [dtype for dtype, state in by_dtype.items() if state.ready] == ["float16", "float32"]
    assert by_dtype["bfloat16"].reason.startswith("Triton's interpreter multiplies the bit patterns of bfloat16")
    assert Kernels(Kernels.schema(timed=False)).available("cpu") == by_dtype["bfloat16"]


def test_bad_options(tmp_path):
    with pytest.raises(RegistryError, match="unknown family of kernels 'latent'"):
        kernel_family("latent")
    section = {"name": "k", "probe": "kernels", "options": {"sizes": {"d_x": 3}}}
    with pytest.raises(OptionError, match="no size 'd_x'"):
        make(load_suite(write(tmp_path, {"suite": "s", "measure": [section]})), "cpu")

"""Check attention kernels against float64, then time them against the device's own ceilings.

No speed without agreement (rule T14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Self

from pydantic import Field, model_validator

from harness.contracts import Availability, Json, Measurement, Options, Probe, ProbeContext, Subject, Value, Workload
from harness.contracts.kernels import Bench, Case, Compile, Dtype, Shape
from harness.contracts.registry import kernel_family
from harness.errors import NotAvailable
from harness.probes.kernels.account import account
from harness.probes.kernels.rows import Ceilings, Row, samples, table
from harness.probes.kernels.summary import LONG, NAN, SHORT, chunk_shares, counts, crossings_of, dispatch_loss, summary
from harness.probes.timing.clock import GRAPH_BELOW_S, Clock, ClockFault, time_calls, time_graph
from harness.probes.timing.contention import watch
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.repeat import FullClock
from harness.probes.timing.telemetry import Telemetry


class KernelsOptions(Options):
    """Which shapes, and how long each is timed; the defaults are those of the 1.3B model's windows.

    Attributes:
        kernels: the family, by its registered name. dtype: of the inputs. sizes: widths, by the family's own names.
        batches, queries, keys: every combination is measured.
        seed: of the random inputs; each shape draws its own.
        timed: check alone, without it; then the kernels may also run in Triton's interpreter.
        warmup_s, measure_s: spent on each timing.
        min_clock_ratio: a timing below this share of the device's default clock is thrown away and taken anew.
        matmul: rows and columns of the square product that gives the ceiling. copy_bytes: size of the copy.
        chunk: also measure whole chunks of the network that the family serves, in every form.
        compile: how those chunks run, the same for every form: `none`, `blocks` (each by `torch.compile`, all but cache
            and self-attention) or `graph` (a CUDA graph of the whole chunk for each of its places in the ring).
        keep: hand the measured crossings to dispatch, which keeps them for this device.
    """

    kernels: str = "latent-attention"
    dtype: Dtype = "bfloat16"
    sizes: dict[str, int] = Field(default_factory=dict)
    batches: tuple[int, ...] = Field((1, 4, 16), min_length=1)
    queries: tuple[int, ...] = Field((64, 128, 256, 512, 1560, 4680), min_length=1)
    keys: tuple[int, ...] = Field((9360, 10920, 14040, 32760), min_length=1)
    seed: int = Field(0, ge=0)
    timed: bool = True
    warmup_s: float = Field(0.025, gt=0)
    measure_s: float = Field(0.1, gt=0)
    min_clock_ratio: float = Field(0.75, ge=0, le=1)
    matmul: int = Field(8192, ge=16)
    copy_bytes: int = Field(1 << 30, ge=1 << 10)
    chunk: bool = False
    compile: Compile = "none"
    keep: bool = False

    @model_validator(mode="after")
    def _of_chunks(self) -> Self:
        if self.compile != "none" and not self.chunk:
            raise ValueError(f"compile: {self.compile} says how whole chunks run; set chunk: true")
        return self

    def shapes(self) -> list[Shape]:
        """Every combination, the smallest first."""
        return [Shape(b, q, k) for b in self.batches for k in self.keys for q in self.queries]


class Kernels(Probe):
    """Times every form of attention at every shape, after its check; needs no model.

    A row whose check fails, that is faster than the device can be, or that ends in an error (out of memory, a launch
    that the device refuses) has no times and counts in `failed_rows`; the others go on.
    """

    version = "3"
    schema = KernelsOptions
    needs_model: ClassVar[bool] = False
    has_table: ClassVar[bool] = True
    values = (
        Value("matmul_flops", "FLOP/s", "none", "matmul ceiling"),
        Value("copy_bytes", "bytes/s", "none", "copy ceiling"),
        Value("rows", "", "none", "rows"),
        Value("failed_rows", "", "lower", "rows that failed"),
        Value("missing_rows", "", "none", "rows without a kernel here"),
        Value("worst_error", "", "lower", "worst relative error of those that passed"),
        Value("expanded_over_dense", "", "lower", "expanded over dense, most queries"),
        Value("absorbed_long_share", "", "higher", f"best absorbed kernel, share of the matmul from {LONG} queries on"),
        Value("absorbed_short_share", "", "higher", f"best absorbed kernel, share of the matmul up to {SHORT} queries"),
        Value("default_long_share", "", "higher", f"default kernel, share of the matmul from {LONG} queries on"),
        Value("default_short_share", "", "higher", f"default kernel, share of the matmul up to {SHORT} queries"),
        Value("absorbed_over_expanded", "", "lower", "absorbed over expanded, fewest queries"),
        Value("chunk_dense_share", "", "higher", "chunk, dense, share of the matmul"),
        Value("chunk_expanded_share", "", "higher", "chunk, expanded, share of the matmul"),
        Value("chunk_absorbed_share", "", "higher", "chunk, absorbed, share of the matmul"),
        Value("dispatch_loss", "", "lower", "dispatch as it stood before, over the better form, less one"),
        Value("dispatch_loss_measured", "", "lower", "dispatch by what was measured, over the better form, less one"),
        Value("peak_bytes", "B", "lower", "peak memory"),
        Value("rejected", "", "none", "timings thrown away"),
        Value("contended", "", "none", "contended"),
    )

    def __init__(self, options: Options, bench: type[Bench] | None = None, clock: Clock | None = None) -> None:
        super().__init__(options)
        self._clock = clock
        self._bench = bench or kernel_family(self.options.kernels)

    def identity(self) -> Mapping[str, Json]:
        """The family's version and identity."""
        return {"version": self._bench.version, **self._family("cpu").identity()}

    def available(self, device: str) -> Availability:
        """Ready on a CUDA device; without timing, wherever the kernels run."""
        if self.options.timed and not device.startswith("cuda"):
            fix = "run the suite on a machine with one; `harness kernels` compiles them anywhere"
            return Availability(False, "kernels are timed on a CUDA device only", fix)
        return self._family(device).available()

    def _family(self, device: str) -> Bench:
        return self._bench(self.options.dtype, self.options.sizes, device)

    def tiny(self) -> Mapping[str, Json]:
        """One small shape; no crossing is kept."""
        shape: dict[str, Json] = {"batches": [1], "queries": [64], "keys": [256], "matmul": 256, "copy_bytes": 1 << 20}
        return {**shape, "warmup_s": 0.001, "measure_s": 0.005, "chunk": False, "compile": "none", "keep": False}

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Measure the ceilings, then shape by shape. Neither subject nor workload is used."""
        options: KernelsOptions = self.options
        device = context.device
        bench, telemetry = self._family(device), Telemetry(device)
        full = FullClock(telemetry.clock_ratio, options.min_clock_ratio)
        timer = _Timer(self._clock or Clock(device), options, full)
        meter, rows, whole = MemoryMeter(device), list[Row](), list[Row]()
        meter.reset()
        before = telemetry.snapshot()
        with watch(telemetry) as other:
            ceilings = timer.measure_ceilings() if options.timed else Ceilings()
            for number, shape in enumerate(options.shapes()):
                context.report(str(shape))
                rows += _rows(bench, shape, options.seed + number, timer)
            for shape, case in bench.chunks(options.seed, options.compile) if options.chunk else ():
                whole.append(_row(case, shape))
                _check_and_time(whole[-1], case, timer, whole=True)
        crossings = crossings_of(rows)
        dispatch = {shape: bench.chosen(shape) for shape in options.shapes()}
        dispatch_measured = {shape: bench.chosen(shape, crossings) for shape in options.shapes()} if crossings else {}
        headlines = summary(rows, ceilings, dispatch) | chunk_shares(whole, ceilings)
        headlines["dispatch_loss_measured"] = dispatch_loss(rows, dispatch_measured)
        headlines |= counts([*rows, *whole])
        values = {
            "matmul_flops": ceilings.flops,
            "copy_bytes": ceilings.bytes,
            **headlines,
            "peak_bytes": meter.peak()["peak_bytes"],
            "rejected": float(timer.full.rejected),
        }
        notes: dict[str, Json] = {
            "rows": [row.to_json() for row in [*rows, *whole]],
            "dispatch": {str(shape): form for shape, form in dispatch.items()},
            "dispatch_measured": {str(shape): form for shape, form in dispatch_measured.items()},
            "device_before": before,
            "device_after": telemetry.snapshot(),
            "other_work": other.to_json(),
        }
        notes["crossings"] = [[c.keys, c.queries, c.variant] for c in crossings]
        if options.keep and crossings and not headlines["failed_rows"] and not other.contended:
            notes["kept"] = bench.keep(crossings, ceilings.flops, ceilings.bytes)
        return Measurement(
            values,
            samples([*rows, *whole]),
            notes,
            contended=other.contended,
            table=table([*rows, *whole], ceilings),
        )


def _row(case: Case, shape: Shape) -> Row:
    return Row(shape, case.form, case.flops, case.bytes, case.detail)


@dataclass(slots=True)
class _Timer:
    """Times calls as the options say, each series at a full clock (rules T10, T11), against the device's ceilings."""

    clock: Clock
    options: KernelsOptions
    full: FullClock
    ceilings: Ceilings = Ceilings()  # noqa: RUF009 (frozen)

    def calls(self, call: Callable[[], object], budgets: float = 1, cold: bool = True) -> list[float]:
        """Seconds of each of many calls."""
        warmup_s, measure_s = budgets * self.options.warmup_s, budgets * self.options.measure_s
        return self.full.take(lambda: time_calls(self.clock, call, warmup_s=warmup_s, measure_s=measure_s, cold=cold))

    def graph(self, call: Callable[[], object]) -> list[float]:
        """Seconds a call in a CUDA graph."""
        return self.full.take(lambda: time_graph(self.clock, call))

    def measure_ceilings(self) -> Ceilings:
        """Median rates of one large bfloat16 product and one large copy on the clock's device. Later rows use them."""
        import torch

        size, device = self.options.matmul, self.clock.device
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        product = torch.empty_like(a)
        flops = 2 * size**3 / median(self.calls(lambda: torch.mm(a, b, out=product), 4))
        source = torch.empty(self.options.copy_bytes, dtype=torch.int8, device=device)
        target = torch.empty_like(source)
        moved = 2 * self.options.copy_bytes / median(self.calls(lambda: target.copy_(source), 4))
        self.ceilings = Ceilings(flops, moved)
        return self.ceilings


def _rows(bench: Bench, shape: Shape, seed: int, timer: _Timer) -> Iterator[Row]:
    """A row for every form of a shape; where its inputs cannot be made, one row with the reason."""
    try:
        for case in bench.cases(shape, seed):
            row = _row(case, shape)
            _check_and_time(row, case, timer)
            yield row
    except ClockFault:
        raise
    except Exception as error:  # noqa: BLE001 - as in `_take`
        yield Row(shape, "inputs", NAN, NAN, {}, fault=_first_line(error))


def _check_and_time(row: Row, case: Case, timer: _Timer, whole: bool = False) -> None:
    """Check, and only then time. Of `whole` chunks also record where the time goes."""
    try:
        _check(row, case)
        if timer.options.timed and not row.fault:
            _time(row, case, timer)
            row.account = account(timer.clock, case) if whole and not row.fault else {}
    except NotAvailable as reason:
        row.withdraw()
        row.missing = reason.message
    except ClockFault:
        raise
    except Exception as error:  # noqa: BLE001 - compilers and devices fail in their own ways, and other rows go on
        row.withdraw()
        row.fault = _first_line(error)


def _check(row: Row, case: Case) -> None:
    error = case.check()
    row.error, row.worst_row = error.relative, error.worst_row
    # Written so that NaN fails.
    if not error.relative <= case.limit:
        row.fault = f"relative error {error.relative:.2e} above {case.limit:.0e}"
    elif not error.worst_row <= case.limit_row:
        row.fault = f"relative error {error.worst_row:.2e} of a row above {case.limit_row:.0e}"


def _time(row: Row, case: Case, timer: _Timer) -> None:
    before = case.compiled() if case.compiled else 0
    row.cold, row.warm = (timer.calls(case.call, cold=cold) for cold in (True, False))
    if min(median(row.cold), median(row.warm)) < GRAPH_BELOW_S:
        row.graph = timer.graph(case.call)
    graphs = case.compiled() - before if case.compiled else 0
    if graphs:
        row.fault = f"{graphs} graphs were compiled while it was timed"
    row.judge(timer.ceilings)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]

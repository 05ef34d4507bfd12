"""Attention kernels on a device: checked against float64 first, then timed against the device's own ceilings.

No speed without agreement (rule T14).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Self

from pydantic import Field, model_validator

from harness.contracts import Availability, Json, Measurement, Options, Probe, Subject, Value, Workload
from harness.errors import NotAvailable
from harness.probes.clock import GRAPH_BELOW_S, Clock, ClockFault, time_calls, time_graph
from harness.probes.device import MemoryMeter, Telemetry, watch
from harness.probes.kernel_account import account
from harness.probes.kernel_bench import Bench, Case, Compile, Crossing, Dtype, Shape, find
from harness.probes.kernel_rows import Ceilings, Row, samples, table
from harness.probes.repeat import FullClock

NAN = float("nan")
SHORT, LONG = 256, 1560
"""Queries up to which the absorbed kernel is meant to be used, and from which on its share of the ceiling is judged."""

KERNEL = "absorbed:"
"""Before the name of a kernel, in the form of a row that times it alone, without the maps around it."""


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
        keep: hand the crossings found to dispatch, which keeps them for this device.
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
        self._bench = bench or find(self.options.kernels)
        self._device = "cpu"

    def identity(self) -> Mapping[str, Json]:
        """The family's version and what it names."""
        return {"version": self._bench.version, **self._family("cpu").identity()}

    def available(self, device: str) -> Availability:
        """Time is measured on a CUDA device alone; checks also run where the kernels do."""
        self._device = device
        if self.options.timed and not device.startswith("cuda"):
            fix = "run the suite on a machine with one; `harness kernels` compiles them anywhere"
            return Availability(False, "kernels are timed on a CUDA device only", fix)
        return self._family(device).available()

    def _family(self, device: str) -> Bench:
        return self._bench(self.options.dtype, self.options.sizes, device)

    def measure(self, subject: Subject | None, workload: Workload) -> Measurement:
        """Ceilings, then shape by shape; neither argument is used."""
        options: KernelsOptions = self.options
        bench, telemetry = self._family(self._device), Telemetry(self._device)
        timer = _Timer(
            self._clock or Clock(self._device), options, FullClock(telemetry.clock_ratio, options.min_clock_ratio)
        )
        meter, rows, whole = MemoryMeter(self._device), list[Row](), list[Row]()
        meter.reset()
        before = telemetry.snapshot()
        with watch(telemetry) as other:
            ceilings = timer.measure_ceilings() if options.timed else Ceilings()
            for number, shape in enumerate(options.shapes()):
                rows += _rows(bench, shape, options.seed + number, timer)
            for shape, case in bench.chunks(options.seed, options.compile) if options.chunk else ():
                whole.append(_row(case, shape))
                _take(whole[-1], case, timer, whole=True)
        crossings = crossings_of(rows)
        picked = {shape: bench.chosen(shape) for shape in options.shapes()}
        measured = {shape: bench.chosen(shape, crossings) for shape in options.shapes()} if crossings else {}
        found = summary(rows, ceilings, picked) | chunk_shares(whole, ceilings)
        found["dispatch_loss_measured"] = dispatch_loss(rows, measured)
        found |= counts([*rows, *whole])
        values = {
            "matmul_flops": ceilings.flops,
            "copy_bytes": ceilings.bytes,
            **found,
            "peak_bytes": meter.peak()["peak_bytes"],
            "rejected": float(timer.full.rejected),
            "contended": float(other.contended),
        }
        notes: dict[str, Json] = {
            "rows": [row.to_json() for row in [*rows, *whole]],
            "dispatch": {str(shape): form for shape, form in picked.items()},
            "dispatch_measured": {str(shape): form for shape, form in measured.items()},
            "table": table([*rows, *whole], ceilings),
            "device_before": before,
            "device_after": telemetry.snapshot(),
            "other_work": other.to_json(),
        }
        notes["crossings"] = [[c.keys, c.queries, c.variant] for c in crossings]
        if options.keep and crossings and not found["failed_rows"] and not other.contended:
            notes["kept"] = bench.keep(crossings, ceilings.flops, ceilings.bytes)
        return Measurement(values, samples([*rows, *whole]), notes)


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
        """Median rates of one large bfloat16 product and one large copy on the clock's device, kept from now on."""
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
    """Every form of a shape; where its inputs cannot be made, a row that says so."""
    try:
        for case in bench.cases(shape, seed):
            row = _row(case, shape)
            _take(row, case, timer)
            yield row
    except ClockFault:
        raise
    except Exception as error:  # noqa: BLE001 - as in `_take`
        yield Row(shape, "inputs", NAN, NAN, {}, fault=_said(error))


def _take(row: Row, case: Case, timer: _Timer, whole: bool = False) -> None:
    """Check, and only then time; of `whole` chunks also say where the time goes."""
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
        row.fault = _said(error)


def _check(row: Row, case: Case) -> None:
    found = case.check()
    row.error, row.worst_row = found.relative, found.worst_row
    # Written so that NaN fails.
    if not found.relative <= case.limit:
        row.fault = f"relative error {found.relative:.2e} above {case.limit:.0e}"
    elif not found.worst_row <= case.limit_row:
        row.fault = f"relative error {found.worst_row:.2e} of a row above {case.limit_row:.0e}"


def _time(row: Row, case: Case, timer: _Timer) -> None:
    before = case.compiled() if case.compiled else 0
    row.cold, row.warm = (timer.calls(case.call, cold=cold) for cold in (True, False))
    if min(median(row.cold), median(row.warm)) < GRAPH_BELOW_S:
        row.graph = timer.graph(case.call)
    made = case.compiled() - before if case.compiled else 0
    if made:
        row.fault = f"{made} graphs were compiled while it was timed"
    row.judge(timer.ceilings)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


# --------------------------------------------------------------------------------------- what was found


def summary(rows: Sequence[Row], ceilings: Ceilings, picked: Mapping[Shape, str]) -> dict[str, float]:
    """The values that the targets are about, each the worst over its shapes; NaN where any of them lacks its row."""
    by_form = {(row.shape, row.form): row for row in rows}
    shapes = list(dict.fromkeys(row.shape for row in rows))
    fewest, most = min(s.queries for s in shapes), max(s.queries for s in shapes)

    def time(shape: Shape, form: str) -> float:
        row = by_form.get((shape, form))
        return row.seconds if row else NAN

    def over_dense(shape: Shape) -> float:
        expanded = by_form.get((shape, "expanded"))
        backend = expanded.detail.get("backend") if expanded else None
        return time(shape, "expanded") / time(shape, f"dense:{backend}")

    def share(shape: Shape, default: bool = False) -> float:
        reached = [
            row.rate(ceilings)[1]
            for row in rows
            if row.shape == shape and row.form.startswith(KERNEL) and (row.detail.get("default") or not default)
        ]
        return max((s for s in reached if math.isfinite(s)), default=NAN)

    long, short = [s for s in shapes if s.queries >= LONG], [s for s in shapes if s.queries <= SHORT]
    return {
        "worst_error": max((row.error for row in rows if not row.fault and not row.missing), default=NAN),
        "expanded_over_dense": _worst(max, [over_dense(s) for s in shapes if s.queries == most]),
        "absorbed_long_share": _worst(min, [share(s) for s in long]),
        "absorbed_short_share": _worst(min, [share(s) for s in short]),
        "default_long_share": _worst(min, [share(s, default=True) for s in long]),
        "default_short_share": _worst(min, [share(s, default=True) for s in short]),
        "absorbed_over_expanded": _worst(
            max, [time(s, "absorbed") / time(s, "expanded") for s in shapes if s.queries == fewest]
        ),
        "dispatch_loss": dispatch_loss(rows, picked),
    }


def dispatch_loss(rows: Sequence[Row], picked: Mapping[Shape, str]) -> float:
    """By how much the form picked for a shape is slower than the better one, less one; NaN where a time is missing."""
    seconds = {(row.shape, row.form): row.seconds for row in rows}

    def loss(shape: Shape) -> float:
        absorbed, expanded = (seconds.get((shape, form), NAN) for form in ("absorbed", "expanded"))
        # NaN spreads through a sum but not through min.
        return seconds.get((shape, picked[shape]), NAN) / (min(absorbed, expanded) + 0 * (absorbed + expanded)) - 1

    return _worst(max, [loss(shape) for shape in picked])


def counts(rows: Sequence[Row]) -> dict[str, float]:
    """How many rows there are, failed, and do not run here."""
    faults, missing = sum(bool(row.fault) for row in rows), sum(bool(row.missing) for row in rows)
    return {"rows": float(len(rows)), "failed_rows": float(faults), "missing_rows": float(missing)}


def chunk_shares(rows: Sequence[Row], ceilings: Ceilings) -> dict[str, float]:
    """Share of the large product that a whole chunk reaches, by form; NaN without its row or its times."""
    reached = {row.form: row.rate(ceilings)[1] for row in rows}
    forms = ("dense", "expanded", "absorbed")
    return {f"chunk_{form}_share": reached.get(f"chunk:{form}", NAN) for form in forms}


def crossings_of(rows: Sequence[Row]) -> list[Crossing]:
    """For each number of keys, up to how many queries absorbing was no slower, at the smallest batch measured.

    Between two measured numbers the logarithm of the ratio of times is taken to be straight in that of the queries.
    Keys where a time is missing are left out.
    """
    batch = min((row.shape.batch for row in rows), default=0)
    found = []
    for keys in sorted({row.shape.keys for row in rows}):
        here = [row for row in rows if row.shape.batch == batch and row.shape.keys == keys]
        ratio = _ratios(here)
        if ratio:
            found.append(Crossing(keys, _crossing(ratio), _fastest_kernel(here)))
    return found


def _ratios(rows: Sequence[Row]) -> dict[int, float]:
    """Logarithm of absorbed over expanded by number of queries; empty where any is missing."""
    seconds = {(row.form, row.shape.queries): row.seconds for row in rows}
    queries = sorted({row.shape.queries for row in rows})
    both = {q: (seconds.get(("absorbed", q), NAN), seconds.get(("expanded", q), NAN)) for q in queries}
    if not all(math.isfinite(t) and t > 0 for pair in both.values() for t in pair):
        return {}
    return {q: math.log(absorbed / expanded) for q, (absorbed, expanded) in both.items()}


def _crossing(ratio: Mapping[int, float]) -> int:
    slower = [q for q, r in ratio.items() if r > 0]
    if not slower:
        return max(ratio)
    above = min(slower)
    below = max((q for q in ratio if q < above), default=None)
    if below is None:
        return 0
    part = ratio[below] / (ratio[below] - ratio[above])
    return int(below * (above / below) ** part)


def _fastest_kernel(rows: Sequence[Row]) -> str:
    """The kernel with the least time in all over the shapes with few queries; empty where none has all of them."""
    wanted = {row.shape for row in rows if row.shape.queries <= SHORT}
    total: dict[str, float] = {}
    for row in rows:
        if row.form.startswith(KERNEL) and row.shape in wanted:
            total[row.form] = total.get(row.form, 0.0) + row.seconds
    whole = {form: t for form, t in total.items() if math.isfinite(t) and wanted}
    return min(whole, key=whole.__getitem__).removeprefix(KERNEL) if len(whole) > 1 else ""


def _worst(pick: Callable[[Sequence[float]], float], numbers: Sequence[float]) -> float:
    """The largest or smallest; NaN where there is none or any is NaN."""
    return pick(numbers) if numbers and all(map(math.isfinite, numbers)) else NAN

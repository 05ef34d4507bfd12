"""The choice of form: costs by hand, measured thresholds, fallbacks, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.contracts.kernels import Crossing, Shape
from harness.errors import NotAvailable, OptionError
from harness.probes.kernels.summary import SHORT
from videomla_models.ops import choice
from videomla_models.ops.choice import CACHE_VARIABLE, Call, Ceilings, Threshold, choose
from videomla_models.probes.kernel_family import LatentAttentionBench
from videomla_models.spec.config import LatentSizes

SIZES = LatentSizes()
H200 = Ceilings(790e12, 4.3e12)


@pytest.fixture(autouse=True)
def tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kernels.json"
    monkeypatch.setenv(CACHE_VARIABLE, str(path))
    return path


def call(lq: int, lk: int, batch: int = 1) -> Call:
    return Call.of(batch, lq, lk, 12, SIZES, 128, "bfloat16")


def test_costs_by_hand() -> None:
    """832 FLOP for a query, key and head absorbed, 512 dense; 1.03 MFLOP to expand a key or to project a query."""
    work = call(4680, 32760)
    pairs = 4680 * 32760 * 12
    assert work.absorbed()[0] == 832 * pairs
    assert work.dense()[0] == 512 * pairs
    assert work.expansion()[0] == 32760 * 2 * 12 * 192 * 224
    assert work.projections()[0] == 4680 * 2 * 12 * 192 * 224
    assert work.expansion()[1] == 32760 * (448 + 2 * 12 * 256)
    assert work.dense()[1] == 2 * 12 * 256 * (32760 + 4680)


@pytest.mark.parametrize(
    ("lq", "lk", "absorbed", "expanded"),
    [(64, 9360, 7.8, 27.8), (64, 32760, 26.7, 97.1), (512, 32760, 213.8, 180.7), (1560, 9360, 189.8, 127.9),
     (4680, 32760, 1953.5, 1242.6)],
)  # fmt: skip
def test_roofline_in_microseconds(lq: int, lk: int, absorbed: float, expanded: float) -> None:
    """Worked out by hand at 790 TFLOP/s and 4.3 TB/s. The hand count leaves the projections' bytes out."""
    cost = call(lq, lk).seconds(H200)
    assert cost["expanded"] * 1e6 == pytest.approx(expanded, rel=0.01)
    assert cost["absorbed"] * 1e6 == pytest.approx(absorbed, rel=0.03)


def crossover(work: Call, at: Ceilings) -> int:
    """The largest number of queries for which absorbing is modelled as no slower than expanding; 0 when never."""
    costs = (replace(work, queries=queries).seconds(at) for queries in range(1, 1 << 11))
    return next(number for number, cost in enumerate(costs) if cost["absorbed"] > cost["expanded"])


@pytest.mark.parametrize(("lk", "low", "high"), [(9360, 280, 300), (32760, 295, 315)])
def test_crossover_at_the_roofline(lk: int, low: int, high: int) -> None:
    """294 and 309 by hand."""
    assert low <= crossover(call(1, lk), H200) <= high


def test_crossover_falls_with_realistic_shares_and_is_the_same_for_every_batch() -> None:
    """185 and 191 by hand."""
    shares = choice.ceilings("NVIDIA H200")
    assert 170 <= crossover(call(1, 9360), shares) <= 195
    assert abs(crossover(call(1, 32760), shares) - crossover(call(1, 32760, batch=16), shares)) <= 3


def test_without_projections_nothing_beats_a_small_window() -> None:
    wide = Call(1, 1, 4, 1, d_c=256, d_nope=16, d_rope=16, d_v=16)
    assert crossover(wide, Ceilings(1.0, float("inf"))) in range(0, 5)


@pytest.mark.parametrize(
    ("lq", "expected"), [(64, "absorbed"), (128, "absorbed"), (512, "expanded"), (4680, "expanded")]
)
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_auto(device: str, lq: int, expected: str) -> None:
    chosen = choose("auto", device, "bfloat16", 1, lq, 32760, 12, SIZES)
    assert (chosen.name, chosen.basis) == (expected, "model")


def test_a_measured_threshold_decides(tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "device_name", lambda device: "NVIDIA H200")
    key = (192, 96, 32, 128)
    choice.write_thresholds("NVIDIA H200", [
        Threshold(9360, 40, 12, key, "bfloat16", "sm90-128x64-specialised"),
        Threshold(32760, 700, 12, key, "bfloat16"),
        Threshold(32760, 9999, 16, key, "bfloat16"),
        Threshold(32760, 9999, 12, key, "float16"),
    ])  # fmt: skip
    near = choose("auto", "cuda", "bfloat16", 1, 64, 10920, 12, SIZES)
    assert (near.name, near.basis, near.variant) == ("expanded", "measured", "")
    far = choose("auto", "cuda", "bfloat16", 1, 512, 32760, 12, SIZES)
    assert (far.name, far.basis, far.variant) == ("absorbed", "measured", "sm90-128x128")
    assert choose("auto", "cuda", "float32", 1, 512, 32760, 12, SIZES).basis == "model"
    assert choose("expanded", "cuda", "bfloat16", 1, 512, 32760, 12, SIZES).basis == "asked"


@pytest.mark.parametrize(
    ("tuned", "queries", "runs"),
    [("sm90-128x64-specialised", 256, "sm90-128x64-specialised"), ("sm90-128x64-specialised", 257, "sm90-128x128"),
     ("sm90-128x64-specialised", 4680, "sm90-128x128"), ("", 5, "sm90-64x64"), ("sm80-128x32", 64, "sm90-128x128"),
     ("sm90-float32-32x16", 64, "sm90-128x128"), ("renamed", 64, "sm90-128x128")],
)  # fmt: skip
def test_the_tuned_kernel_runs_only_where_it_was_measured(
    tuned: str, queries: int, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "device_name", lambda device: "NVIDIA H200")
    known = [Threshold(9360, 400, 12, (192, 96, 32, 128), "bfloat16", tuned)]
    chosen = choose("absorbed", "cuda", "bfloat16", 1, queries, 9360, 12, SIZES, thresholds=known)
    assert chosen.variant == chosen.identity()["variant"] == runs
    expanded = choose("expanded", "cuda", "bfloat16", 1, queries, 9360, 12, SIZES, thresholds=known)
    assert expanded.identity()["variant"] == ""


def test_so_many_queries_as_the_probe_picks_the_kernel_over() -> None:
    assert choice.TUNED_QUERIES == SHORT


@pytest.mark.parametrize(
    ("name", "dtype", "lq", "runs"),
    [("NVIDIA H100 80GB HBM3", "bfloat16", 64, "sm90-128x128"), ("NVIDIA A100 80GB", "float16", 4680, "sm80-128x32"),
     ("NVIDIA B200", "bfloat16", 4, "sm100-64x64"), ("NVIDIA B200", "float32", 4, "sm100-float32-32x16"),
     ("NVIDIA L40S", "bfloat16", 64, ""), ("cuda", "bfloat16", 64, "")],
)  # fmt: skip
def test_the_default_kernel_is_named_where_the_device_is_known(
    name: str, dtype: str, lq: int, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "device_name", lambda device: name)
    assert choose("absorbed", "cuda", dtype, 1, lq, 9360, 12, SIZES).variant == runs


def test_the_tuning_file_keeps_other_devices(tuning: Path) -> None:
    one, two = (Threshold(9360, n, 12, (192, 96, 32, 128), "bfloat16") for n in (100, 200))
    choice.write_thresholds("A", [one])
    choice.write_thresholds("B", [two])
    choice.write_thresholds("A", [two])
    assert choice.read_thresholds("A") == [two]
    assert choice.read_thresholds("B") == [two]
    assert choice.read_thresholds("C") == []
    assert list(tuning.parent.iterdir()) == [tuning]


def test_measured_rates_take_the_place_of_estimates(tuning: Path) -> None:
    before = choice.ceilings("NVIDIA H200")
    choice.write_thresholds("NVIDIA H200", [], rates=(5e14, 3e12))
    choice.write_thresholds("NVIDIA H200", [Threshold(1, 2, 3, (16, 16, 16, 16), "float16")])
    after = choice.ceilings("NVIDIA H200")
    assert (after.flops, after.bandwidth) == (5e14, 3e12)
    assert (after.absorbed, after.dense, after.memory) == (before.absorbed, before.dense, before.memory)
    assert choice.ceilings("NVIDIA B200") == choice.CEILINGS["B200"]
    assert choice.ceilings("cpu") == choice.CPU
    tuning.write_text('{"version": 1, "devices": {}, "rates": {"NVIDIA H200": [0, 1]}}')
    with pytest.raises(OptionError, match="is not a tuning file"):
        choice.ceilings("NVIDIA H200")


def test_nothing_is_kept_of_a_device_without_a_name(tuning: Path) -> None:
    """The next one without a name may be another product."""
    kept = [Threshold(9360, 9999, 12, (192, 96, 32, 128), "bfloat16")]
    assert choice.write_thresholds("cuda", kept, rates=(5e14, 3e12)) is None
    assert not tuning.exists()
    choice.write_thresholds("NVIDIA H200", kept, rates=(5e14, 3e12))
    tuning.write_text(tuning.read_text().replace("NVIDIA H200", "cuda"))
    assert (choice.read_thresholds("cuda"), choice.read_rates("cuda")) == ([], None)


def test_the_probe_keeps_crossings_beside_those_of_other_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "device_name", lambda device: "NVIDIA H200")
    other = Threshold(9360, 5, 16, (192, 96, 32, 128), "bfloat16")
    old = Threshold(9360, 5, 12, (192, 96, 32, 128), "bfloat16")
    choice.write_thresholds("NVIDIA H200", [old, other])
    bench = LatentAttentionBench("bfloat16", {}, "cuda")
    assert bench.keep([Crossing(9360, 150, "sm90-64x64")], 5e14, 3e12) == "1 crossings for NVIDIA H200"
    new = Threshold(9360, 150, 12, (192, 96, 32, 128), "bfloat16", "sm90-64x64")
    assert choice.read_thresholds("NVIDIA H200") == [other, new]
    assert bench.chosen(Shape(1, 150, 9360)) == "absorbed"
    assert bench.chosen(Shape(1, 151, 9360)) == "expanded"


def test_the_probe_says_that_it_keeps_nothing_for_a_device_without_a_name(
    monkeypatch: pytest.MonkeyPatch, tuning: Path
) -> None:
    monkeypatch.setattr(choice, "device_name", lambda device: "cuda")
    bench = LatentAttentionBench("bfloat16", {}, "cuda")
    assert bench.keep([Crossing(9360, 150, "sm90-64x64")], 5e14, 3e12).startswith("nothing")
    assert not tuning.exists()


BROKEN = ["", "[]", "{", '{"version": 1}', '{"version": 1, "devices": []}']


@pytest.mark.parametrize("text", [*BROKEN, '{"version": 1, "devices": {"cpu": [{"keys": "x"}]}}'])
def test_a_broken_tuning_file(tuning: Path, text: str) -> None:
    tuning.write_text(text)
    with pytest.raises(OptionError, match="is not a tuning file"):
        choose("auto", "cpu", "float32", 1, 64, 100, 12, SIZES)


def test_a_tuning_file_of_another_version_is_not_read(tuning: Path) -> None:
    tuning.write_text(json.dumps({"version": 99, "devices": {"cpu": 3}}))
    assert choice.read_thresholds("cpu") == []


def test_form_on_a_cuda_device() -> None:
    expanded = choose("expanded", "cuda", "bfloat16", 1, 4680, 9360, 12, SIZES)
    assert expanded.identity() == {"form": "expanded", "engine": "triton", "backend": "cudnn", "variant": ""}
    absorbed = choose("absorbed", "cuda:1", "float32", 1, 4680, 9360, 12, SIZES)
    assert absorbed.identity() == {"form": "absorbed", "engine": "triton", "backend": "", "variant": ""}
    assert choose("reference", "cuda", "float32", 1, 1, 1, 12, SIZES).identity()["engine"] == "torch"


@pytest.mark.parametrize(
    ("device", "dtype", "sizes", "reason"),
    [
        ("cpu", "bfloat16", SIZES, "cpu is no CUDA device"),
        ("cuda", "float64", SIZES, "dtype float64 has no kernel"),
        ("cuda", "bfloat16", LatentSizes(d_c=100), "d_c=100 is not a multiple of 16"),
        ("cuda", "bfloat16", LatentSizes(d_rope=24), "d_rope=24 is not a multiple of 16"),
        ("cuda", "bfloat16", LatentSizes(d_nope=90), "d_nope=90 is not a multiple of 16"),
    ],
)
def test_fallbacks_say_why(device: str, dtype: str, sizes: LatentSizes, reason: str) -> None:
    chosen = choose("absorbed", device, dtype, 1, 64, 9360, 12, sizes, d_v=128)
    assert chosen.engine == "torch"
    assert reason in chosen.fallback
    if device == "cuda":
        with pytest.raises(NotAvailable, match="has no kernel here"):
            choose("absorbed", device, dtype, 1, 64, 9360, 12, sizes, d_v=128, strict=True)


def test_an_unknown_form() -> None:
    with pytest.raises(OptionError, match="'folded' is not a form"):
        choose("folded", "cpu", "float32", 1, 1, 1, 1, SIZES)


def test_an_older_triton_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "no_triton", lambda: "triton 3.3.1 is older than 3.7")
    chosen = choose("absorbed", "cuda", "bfloat16", 1, 64, 9360, 12, SIZES)
    assert (chosen.engine, chosen.fallback, chosen.variant) == ("torch", "triton 3.3.1 is older than 3.7", "")


def test_choosing_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys\nfrom videomla_models.spec.config import LatentSizes\n"
        "from videomla_models.ops.choice import choose\n"
        "choose('auto', 'cuda', 'bfloat16', 1, 64, 9360, 12, LatentSizes())\n"
        "sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_read_codes_in_half_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomla_models.ops.choice.device_name", lambda device: "NVIDIA H200")
    chosen = choose("absorbed", "cuda", "bfloat16", 1, 4680, 9360, 12, SIZES, codes=True)
    assert (chosen.codes, chosen.variant) == (True, "sm90-coded-128x64")
    assert chosen.identity()["codes"] is True
    assert choose("expanded", "cuda", "float16", 1, 4680, 9360, 12, SIZES, codes=True).codes
    for device, dtype, codes in (("cuda", "float32", True), ("cpu", "bfloat16", True), ("cuda", "bfloat16", False)):
        other = choose("absorbed", device, dtype, 1, 4680, 9360, 12, SIZES, codes=codes)
        assert "codes" not in other.identity()

"""`harness kernels`: the listing, as text and as JSON, and its exit codes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
from harness.cli import main
from videomla_models.ops import variants

LISTING = Path(__file__).parents[2] / "results" / "kernels" / "compile.json"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(["kernels", *arguments])
    return int(ended.value.code or 0)


def test_a_sound_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--target", "80", "--variant", "rotate", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["faulty"], body["tensor_memory_limit"]) == (0, 512)
    assert body["shared_limits"] == {"sm_80": 101376, "sm_90": 232448, "sm_100": 232448}
    assert {(row["target"], row["variant"], row["spills"]) for row in body["rows"]} == {("sm_80", "rotate", 0)}
    assert {row["dtype"] for row in body["rows"]} == {"bfloat16", "float16", "float32"}
    assert {row["tile"] for row in body["rows"]} == {"64x32", "64x12"}


def test_a_spill_exits_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wide = dataclasses.replace(variants.named("sm90-64x64"), name="wide", dtypes=("bfloat16",), block_m=128)
    monkeypatch.setattr(variants, "TABLE", (wide,))
    assert run("--target", "sm_90", "--variant", "wide") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["target", "variant", "dtype"]
    assert any("spilled loads and stores" in line for line in lines)
    assert lines[-1] == "2 kernels compiled, 2 with a fault"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--target", "sm_75"], "sm_75 is no target"), (["--target", "hopper"], "'hopper' is no target"),
     (["--variant", "sm90-64"], "did you mean sm90-64x64")],
)  # fmt: skip
def test_bad_input_exits_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert words in "".join(capsys.readouterr())


def test_nothing_is_compiled_under_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    import triton

    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        assert run() == 1
    assert "TRITON_INTERPRET is set" in "".join(capsys.readouterr())


def test_the_committed_listing_is_of_the_kernels_that_are_launched() -> None:
    from videomla_models.ops import compile_gate

    body = json.loads(LISTING.read_text(encoding="utf-8"))
    listed = {tuple(row[name] for name in ("target", "variant", "dtype", "split", "tile")) for row in body["rows"]}
    assert listed == {(f"sm_{j.arch}", j.variant, j.dtype, j.split, j.tile) for j in compile_gate.jobs()}
    assert (body["faulty"], [row for row in body["rows"] if row["faults"]]) == (0, [])
    assert body["digest"] == compile_gate.digest(), (
        "kernels changed: harness kernels --json > results/kernels/compile.json"
    )
    pinned = (LISTING.parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"triton=={body['triton']} ; sys_platform == 'linux'" in pinned


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [("expand", "ROTATE_ROWS", 32), ("expand", "ROTATE_OPTIONS", {"num_warps": 8, "num_stages": 1}),
     ("latent_attention", "_store", "_finish"), ("variants", "TABLE", variants.TABLE[1:])],
)  # fmt: skip
def test_the_digest_sees_sources_constants_and_options(
    module: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videomla_models.ops import compile_gate, triton_absorbed, triton_expand

    before = compile_gate.digest()
    assert before == compile_gate.digest()
    place = {"expand": triton_expand, "latent_attention": triton_absorbed, "variants": variants}[module]
    monkeypatch.setattr(place, name, getattr(place, value) if isinstance(value, str) else value)
    assert compile_gate.digest() != before


def test_the_digest_is_of_texts_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from videomla_models.ops import compile_gate, triton_absorbed

    before, moved = compile_gate.digest(), tmp_path / "elsewhere.py"
    text = Path(triton_absorbed.__file__).read_text(encoding="utf-8")
    moved.write_text(text.replace("import torch\n", "import torch\n\n\n", 1), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("elsewhere", moved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(compile_gate, "triton_absorbed", module)
    assert {job.kernel.__module__ for job in compile_gate.jobs() if job.variant == "combine"} == {"elsewhere"}
    assert compile_gate.digest() == before

"""Reference rollouts, replayed; and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError, WeightsError
from videomla_models.ops.choice import FORMS, Name
from videomla_models.rollout import replay
from videomla_models.rollout.replay import TOLERANCE, read, roll, save_latents, verify

TRACES = Path(__file__).parents[2] / "data" / "traces"
DENSE = sorted(path for path in TRACES.glob("*.safetensors") if "videomla" not in path.stem)
LATENT = sorted(TRACES.glob("videomla*.safetensors"))


@pytest.mark.parametrize("path", DENSE, ids=lambda path: path.stem)
def test_dense_rollouts_replay(path: Path) -> None:
    result = verify(path)
    assert result.difference is not None
    assert result.difference <= TOLERANCE


@pytest.mark.parametrize("path", LATENT, ids=lambda path: path.stem)
def test_latent_rollouts_replay_on_their_own_past_in_the_order_of_the_recording(path: Path, tmp_path: Path) -> None:
    result = verify(path)
    assert result.passes
    assert result.in_order_difference is not None
    assert result.in_order_difference <= TOLERANCE
    assert result.on_recorded_past is not None
    assert result.on_recorded_past <= TOLERANCE
    save_latents(result, tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")["latents"]
    assert (written - load_file(path)["latents"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("form", ["absorbed", "reference"])
@pytest.mark.parametrize("path", LATENT, ids=lambda path: path.stem)
def test_every_form_replays_latent_rollouts_chunk_by_chunk(path: Path, form: Name) -> None:
    spec, tensors = read(path)
    chunkwise = roll(path, spec, tensors, form, history=tensors["latents"])
    assert (chunkwise - tensors["latents"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("path", LATENT, ids=lambda path: path.stem)
def test_latent_rollouts_multiply_rounding(path: Path) -> None:
    """Why the order of operations decides where they end: in float64, a change of 1e-9 grows tenfold and more."""
    spec, tensors = read(path)
    exact = roll(path, spec, tensors, dtype=torch.float64)
    noise = tensors["noise"].double()
    nudge = 1e-9 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = (roll(path, spec, tensors | {"noise": noise + nudge}, dtype=torch.float64) - exact).square()
    first, last = moved[:, :3].mean().sqrt(), moved[:, -3:].mean().sqrt()
    assert last > 20 * first
    assert (exact - tensors["latents"]).abs().max() > TOLERANCE


def test_all_forms_agree_in_float64() -> None:
    path = TRACES / "videomla_la6_sink1.safetensors"
    spec, tensors = read(path)
    reference, *others = (roll(path, spec, tensors, form, torch.float64) for form in FORMS)
    for other in others:
        assert (other - reference).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("stem", "change"),
    [
        ("self_forcing_la6_sink1", {"sink": 0}),
        ("self_forcing_la6_sink1", {"local": 7}),
        ("self_forcing_la6_sink1", {"local": 12}),
        ("videomla_la7_sink1", {"local": 6}),
    ],
)
def test_a_wrong_window_does_not_pass(tmp_path: Path, stem: str, change: dict[str, int]) -> None:
    assert not verify(rewritten(tmp_path, stem, change)).passes


def test_latents_are_written(tmp_path: Path) -> None:
    path = TRACES / "infinity_rope_la6_sink1.safetensors"
    result = verify(path)
    save_latents(result, tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")["latents"]
    assert (written - load_file(path)["latents"]).abs().max() <= TOLERANCE


def test_a_trace_without_latents_replays_and_passes_nothing(tmp_path: Path) -> None:
    path = rewritten(tmp_path, "self_forcing_full", {}, drop="latents")
    result = verify(path)
    assert result.latents.shape == (1, 21, 16, 4, 6)
    assert result.difference is None
    assert not result.passes


def test_a_latent_rollout_without_latents_is_handed_on_as_it_was_recorded(tmp_path: Path) -> None:
    result = verify(rewritten(tmp_path, "videomla_la7_sink1", {}, drop="latents"))
    assert (result.difference, result.passes, result.best[0]) == (None, False, "own, recorded order")
    recorded = load_file(TRACES / "videomla_la7_sink1.safetensors")["latents"]
    assert (result.best[1] - recorded).abs().max() <= TOLERANCE


def test_absolute_positions_stay_absolute_without_limit_of_the_window(tmp_path: Path) -> None:
    # Odd sizes, a window that the chunk does not divide, a batch of one: it runs and stays finite.
    path = rewritten(tmp_path, "self_forcing_la6_sink1", {"local": 8})
    assert torch.isfinite(verify(path).latents).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "self_forcin"}, "self_forcing"),
        ({"block": 5}, "whole chunks of 5"),
        ({"local": 3}, "window.frames to at least 4"),
        ({"dim": 128}, "misshapen"),
        ({"layers": 3}, "missing"),
        ({"hw": [8, 6]}, "noise"),
        ({"hw": 3}, "not a trace file"),
        ({"layers": 10**6}, "1000000 layers, and"),
        ({"dim": 10**12}, "dim is 1000000000000"),
        ({"dim": 1 << 19}, "misshapen"),
        ({"heads": 0}, "heads is 0"),
        ({"frames": True}, "frames is True"),
        ({"block": "x"}, "block is 'x'"),
        ({"block": -1}, "block is -1"),
        ({"sink": None}, "sink is None"),
        ({"steps": "x"}, "cannot be replayed"),
        ({"steps": []}, ""),
        ({"switch": [1, 2, 3]}, "cannot be replayed"),
        ({"mla": {"d_c": "x"}}, "cannot be replayed"),
        ({"head_classes": [1]}, "head_classes are not 2 texts of 2 letters"),
        ({"head_classes": ["sl"] * 3}, "head_classes are not 2 texts of 2 letters"),
        ({"head_classes": ["sl", "slc"]}, "head_classes are not 2 texts of 2 letters"),
        ({"head_classes": 7}, "head_classes are not 2 texts of 2 letters"),
        ({"cache_frames": 10**12}, "cache_frames is 1000000000000"),
        ({"cache_frames": "24"}, "cache_frames is '24'"),
        ({"cache_frames": None}, "cache_frames is None"),
        ({"head_classes": None}, ""),
        ({"family": ["x"]}, "unknown trace family"),
    ],
)
def test_specs_that_do_not_fit(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises((HarnessError, RuntimeError)) as fault:
        verify(rewritten(tmp_path, "self_forcing_la6_sink1", change))
    assert isinstance(fault.value, HarnessError)
    assert words in str(fault.value)


@pytest.mark.parametrize("frames", [0, -3, 24.5, True, 10**6, 10**12])
def test_a_rolling_cache_of_a_number_of_frames_that_is_none(tmp_path: Path, frames: object) -> None:
    with pytest.raises(HarnessError, match=r"cache_frames is|window\.frames is 1000000"):
        verify(rewritten(tmp_path, "rolling_forcing", {"cache_frames": frames}))


def test_a_replay_that_memory_does_not_hold_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def roll(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(replay, "roll", roll)
    with pytest.raises(WeightsError, match="cannot be replayed: MemoryError"):
        verify(DENSE[0])


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    whole = (TRACES / "self_forcing_full.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "plain.safetensors", "cut.safetensors", "absent"):
        with pytest.raises(WeightsError):
            verify(tmp_path / name)


def rewritten(folder: Path, stem: str, change: dict[str, object], drop: str = "") -> Path:
    """A copy of a trace with another spec, or without one of its tensors."""
    path = TRACES / f"{stem}.safetensors"
    with safe_open(path, framework="pt") as file:
        spec = json.loads(file.metadata()["spec"]) | change
    tensors = {name: t for name, t in load_file(path).items() if name != drop}
    save_file(tensors, folder / "changed.safetensors", {"spec": json.dumps(spec)})
    assert replay.TOLERANCE == 5e-5
    return folder / "changed.safetensors"

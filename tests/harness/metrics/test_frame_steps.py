"""Steps between frames, against arithmetic by hand and motion that is known."""

from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Clip, registry
from harness.metrics import frame_steps


def clip_of(frames: np.ndarray, switches: tuple[int, ...] = (), rate: float = 8.0) -> Clip:
    count, height, width = frames.shape[:3]
    turns = tuple((frame, "another") for frame in switches)
    return Clip(Path("none.mp4"), "p", 0, 0, count, height, width, rate, "", lambda: frames, turns)


def score(name: str, clip: Clip):
    metric = registry.metrics.create(name, {})
    return metric.score(clip), metric.samples()


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random grey, which flow can follow."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (height // 4, width // 4))
    rows, columns = np.arange(height) / 4, np.arange(width) / 4
    wide = np.array([np.interp(columns, np.arange(width // 4), line) for line in coarse])
    tall = np.array([np.interp(rows, np.arange(height // 4), line) for line in wide.T]).T
    return np.repeat(tall[:, :, None], 3, axis=2).round().astype(np.uint8)


def test_a_step_is_the_mean_difference_of_all_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 10, 3), dtype=np.uint8)
    values, samples = score("frames/difference", clip_of(frames))
    by_hand = [np.abs(frames[n + 1].astype(float) - frames[n].astype(float)).mean() for n in range(4)]
    assert samples["step_by_frame"] == pytest.approx(by_hand)
    assert values["step"] == pytest.approx(np.mean(by_hand))
    assert np.isnan(values["switch_s"])
    assert np.isnan(values["switches_seen"])


def test_likeness_is_the_correlation_of_pairs_at_each_distance() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    _, samples = score("frames/difference", clip_of(frames))
    flat = frames.reshape(12, -1).astype(float)
    by_hand = [np.mean([np.corrcoef(flat[i], flat[i + d])[0, 1] for i in range(12 - d)]) for d in (2, 5, 10)]
    assert samples["distances"] == [2, 5, 10]
    assert samples["alike_by_distance"] == pytest.approx(by_hand, abs=1e-6)


def test_a_still_clip_is_alike_even_where_it_has_no_contrast() -> None:
    for frames in (np.full((6, 8, 8, 3), 7, np.uint8), np.repeat(texture(8, 8)[None], 6, axis=0)):
        values, samples = score("frames/difference", clip_of(frames))
        assert values["step"] == 0
        assert samples["alike_by_distance"] == pytest.approx([1.0, 1.0])


def test_large_frames_are_compared_as_means_of_blocks() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (2, 70, 130, 3), dtype=np.uint8)
    pictures = frame_steps.small(frames)
    # 130 columns need blocks of three pixels; 43 blocks hold 129 columns, and 23 blocks 69 rows.
    assert pictures.shape == (2, 23, 43, 3)
    assert pictures[1, 22, 42] == pytest.approx(frames[1, 66:69, 126:129].mean(axis=(0, 1)))


def test_a_switch_shows_at_the_first_frame_that_changes_more_than_motion_did() -> None:
    # One grey level a frame; eight frames after the switch the picture jumps.
    frames = np.zeros((60, 8, 8, 3), np.uint8)
    frames += np.arange(60, dtype=np.uint8)[:, None, None, None]
    frames[38:] += 60
    values, samples = score("frames/difference", clip_of(frames, (30,)))
    assert samples["switch_frames"] == [30]
    assert samples["changed_frames"] == [38]
    assert (values["switch_s"], values["switches_seen"]) == (1.0, 1.0)


def test_a_switch_that_never_shows_has_no_seconds() -> None:
    frames = np.zeros((60, 8, 8, 3), np.uint8)
    frames[40:] = 99
    values, samples = score("frames/difference", clip_of(frames, (20, 40)))
    # The first is cut off by the second, which shows at once.
    assert samples["switch_frames"] == [20, 40]
    assert np.isnan(samples["changed_frames"][0])
    assert samples["changed_frames"][1] == 40
    assert (values["switch_s"], values["switches_seen"]) == (0.0, 0.5)


def test_flow_is_the_length_of_the_motion() -> None:
    wide = texture(64, 128)
    frames = np.stack([wide[:, 8 + 2 * n : 8 + 2 * n + 64] for n in range(4)])
    values, samples = score("frames/flow", clip_of(frames))
    assert len(samples["flow_by_frame"]) == 3
    assert values["flow"] == pytest.approx(2.0, rel=0.15)
    # A turn of direction cancels in a mean of signed components, and not in that of lengths.
    back, _ = score("frames/flow", clip_of(frames[[0, 1, 0, 1]]))
    assert back["flow"] == pytest.approx(2.0, rel=0.15)
    still, _ = score("frames/flow", clip_of(frames[[0, 0, 0]]))
    assert still["flow"] == pytest.approx(0.0, abs=0.01)


def test_flow_says_what_brings_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_steps.importlib.util, "find_spec", lambda name: None)
    state = registry.metrics.create("frames/flow", {}).available()
    assert not state.ready
    assert "[flow]" in state.fix
    assert registry.metrics.create("frames/flow", {}).notes()["packages"]["opencv"] != "none"


@pytest.mark.parametrize("name", ["frames/difference", "frames/flow"])
def test_a_clip_of_one_frame_has_no_steps(name: str) -> None:
    values, samples = score(name, clip_of(np.zeros((1, 8, 8, 3), np.uint8), (0, 1)))
    assert all(np.isnan(value) for value in values.values())
    assert not any(samples.values())

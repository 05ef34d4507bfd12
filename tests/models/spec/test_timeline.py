"""Pixel frames of chunks, against arithmetic by hand and a walk over every frame."""

from __future__ import annotations

import pytest

from videomla_models.spec.timeline import Timeline


@pytest.mark.parametrize(
    ("timeline", "asked", "happens"),
    [
        # Wan's VAE, chunks of 3: they start at 0, then at 1 + 4 * 2 = 9, 21, 33, ..., 57, 69, ..., 153, 165.
        (Timeline(3, 4), (1, 9, 10, 60, 156, 160), (9, 9, 21, 69, 165, 165)),
        # One latent frame a chunk: 0, 1, 5, 9, 13.
        (Timeline(1, 4), (1, 2, 10), (1, 5, 13)),
        # Without a VAE a latent frame is a pixel frame.
        (Timeline(3, 1), (1, 3, 10, 156, 160), (3, 3, 12, 156, 162)),
        # After an image every latent frame that is made stands for four pixel frames: 0, 12, 24.
        (Timeline(3, 4, prefix=1), (1, 9, 12, 13), (12, 12, 12, 24)),
        # CausVid: 72 frames of each window, the first 9 of them made before: 69, then 81, 93, ..., 141, then 153.
        (Timeline(3, 4, window=21), (60, 69, 70, 81, 142, 144), (69, 69, 81, 81, 153, 153)),
    ],
)
def test_a_switch_happens_at_the_first_chunk_at_or_after_it(
    timeline: Timeline, asked: tuple[int, ...], happens: tuple[int, ...]
) -> None:
    assert tuple(timeline.switched(asked, 240)) == happens


def walk(timeline: Timeline, frames: int) -> list[int]:
    """The first pixel frame of each chunk, by decoding every latent frame in turn and dropping the prefix."""
    pixels: list[int] = []  # which chunk each one is of; -1 for the prefix
    latent = 0
    while len([chunk for chunk in pixels if chunk >= 0]) < frames:
        chunk = (latent - timeline.prefix) // timeline.chunk if latent >= timeline.prefix else -1
        pixels += [chunk] * (1 if latent == 0 else timeline.ratio)
        latent += 1
    kept = [chunk for chunk in pixels if chunk >= 0][:frames]
    return [kept.index(chunk) for chunk in sorted(set(kept))]


@pytest.mark.parametrize("frames", [1, 2, 9, 10, 57, 81, 100])
@pytest.mark.parametrize("prefix", [0, 1, 3, 4])
@pytest.mark.parametrize(("chunk", "ratio"), [(3, 4), (1, 4), (3, 1), (2, 4), (1, 1)])
def test_chunks_stand_where_a_walk_finds_them(chunk: int, ratio: int, prefix: int, frames: int) -> None:
    timeline = Timeline(chunk, ratio, prefix)
    (leg,) = timeline.legs(frames)
    found = walk(timeline, frames)
    assert timeline.starts(leg) == found
    assert leg.chunks == len(found)
    expected = [min([start for start in found if start >= frame], default=frames) for frame in range(1, frames)]
    assert timeline.switched(range(1, frames), frames) == expected


@pytest.mark.parametrize("frames", [81, 82, 144, 145, 216, 240])
def test_a_restart_gives_every_frame_once(frames: int) -> None:
    legs = Timeline(3, 4, window=21).legs(frames)
    assert [leg.at for leg in legs] == ([0] if frames == 81 else list(range(0, frames, 72)))
    assert sum(leg.frames for leg in legs) == frames
    for leg in legs:
        assert leg.prefix + 3 * leg.chunks <= 21
        # A decoder makes 1 + 4 (n - 1) frames of n latent ones: enough, and a chunk less would not be.
        made = 1 + 4 * (leg.prefix + 3 * leg.chunks - 1)
        assert leg.frames <= made
        assert leg.chunks == 1 or made - 12 < leg.frames


def test_a_rolling_window_is_filled_once() -> None:
    (leg,) = Timeline(3, 4, least=5).legs(9)
    assert (leg.chunks, leg.frames) == (5, 9)

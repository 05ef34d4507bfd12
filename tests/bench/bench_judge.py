"""How often the small world's judge passes true renders, and clips that are none, part by part.

python tests/bench/bench_judge.py

Every clip is written as H.264 as a suite writes it, and read again, before it is judged; the judge sees nothing else.
Chance is the share of all captions that agree in that part with one drawn at random.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.system import video
from videomla_models.small_world import world
from videomla_models.small_world.judge import hold, read
from videomla_models.small_world.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZE, SPEEDS, Caption

CLIPS = 256
FRAMES = 21
LONG_CLIPS, LONG_FRAMES = 32, 120
CRF, PRESET = 8, "veryfast"
NOISE = 8.0
"""Standard deviation of noise on a pixel, of 255."""
PARTS = ("correct", "colour", "shape", "direction", "speed", "background")

Clip = NDArray[np.uint8]
Maker = Callable[[Caption, int, np.random.Generator], Clip]


def true(caption: Caption, seed: int, _: np.random.Generator, frames: int = FRAMES) -> Clip:
    """What the caption says."""
    return world.render(caption, seed, frames)


def noisy(caption: Caption, seed: int, rng: np.random.Generator) -> Clip:
    """A true render under noise."""
    clip = world.render(caption, seed, FRAMES)
    pixels = clip + rng.normal(0, NOISE, clip.shape)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def shuffled(caption: Caption, seed: int, rng: np.random.Generator) -> Clip:
    """The frames of a true render in random order."""
    return world.render(caption, seed, FRAMES)[rng.permutation(FRAMES)]


def held(caption: Caption, seed: int, _: np.random.Generator, hold_for: int = 4) -> Clip:
    """Every frame but the first of each `hold_for` replaced by that one."""
    return world.render(caption, seed, FRAMES)[np.arange(FRAMES) // hold_for * hold_for]


def reversed_(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """A true render played backwards."""
    return world.render(caption, seed, FRAMES)[::-1]


def frozen(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """The first frame throughout."""
    return np.repeat(world.render(caption, seed, 1), FRAMES, axis=0)


def other(caption: Caption, seed: int, rng: np.random.Generator) -> Clip:
    """The clip of another caption, drawn at random."""
    captions = [one for one in world.all_captions() if one != caption]
    return world.render(captions[rng.integers(len(captions))], seed, FRAMES)


def both_speeds(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """Steps of one and of two pixels in turn."""
    slow = world.render(replace(caption, speed="slowly"), seed, 2 * FRAMES)
    clip: Clip = slow[np.cumsum([0] + [1, 2] * FRAMES)[:FRAMES]]
    return clip


def repeated(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """One frame in the middle is shown twice."""
    return world.render(caption, seed, FRAMES)[[*range(11), *range(10, FRAMES - 1)]]


def left_out(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """One frame in the middle is missing."""
    return world.render(caption, seed, FRAMES + 1)[[*range(10), *range(11, FRAMES + 1)]]


def exchanged(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """Two neighbouring frames have changed places."""
    return world.render(caption, seed, FRAMES)[[*range(10), 11, 10, *range(12, FRAMES)]]


def altered(caption: Caption, seed: int, _: np.random.Generator, part: str, frames: int) -> Clip:
    """In so many frames another colour, shape or background."""
    words: Sequence[str] = tuple({"colour": COLOURS, "shape": SHAPES, "background": BACKGROUNDS}[part])
    stated = words.index(getattr(caption, part))
    clip = world.render(caption, seed, FRAMES)
    wrong = world.render(replace(caption, **{part: words[stated - 1]}), seed, FRAMES)
    clip[5 : 5 + frames] = wrong[5 : 5 + frames]
    return clip


def blank(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """One frame without the shape."""
    clip = world.render(caption, seed, FRAMES)
    clip[10] = BACKGROUNDS[caption.background]
    return clip


def two_coloured(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """The upper half of the shape in another colour."""
    return _halved(caption, seed, "colour")


def two_grounds(caption: Caption, seed: int, _: np.random.Generator) -> Clip:
    """Above the middle of the shape another background."""
    return _halved(caption, seed, "background")


def _halved(caption: Caption, seed: int, part: str) -> Clip:
    words: Sequence[str] = tuple(COLOURS if part == "colour" else BACKGROUNDS)
    wrong = replace(caption, **{part: words[words.index(getattr(caption, part)) - 1]})
    clip, second = world.render(caption, seed, FRAMES), world.render(wrong, seed, FRAMES)
    _, y = world.start_position(seed)
    for frame in range(FRAMES):
        middle = (y + frame * caption.step[1]) % SIZE
        rows = (middle - SIZE // 2 + np.arange(SIZE // 2)) % SIZE
        clip[frame, rows] = second[frame, rows]
    return clip


def figure(caption: Caption, seed: int, _: np.random.Generator, inside: Callable[..., NDArray[np.bool_]]) -> Clip:
    """A figure that is none of the world's, moving as the caption says."""
    offsets = np.arange(SIZE) - SIZE // 2
    still = np.where(
        inside(offsets[None, :], offsets[:, None])[:, :, None],
        np.array(COLOURS[caption.colour], np.uint8),
        np.array(BACKGROUNDS[caption.background], np.uint8),
    )
    x, y = world.start_position(seed)
    dx, dy = caption.step
    places = [(y + t * dy - SIZE // 2, x + t * dx - SIZE // 2) for t in range(FRAMES)]
    clip: Clip = np.stack([np.roll(still, place, axis=(0, 1)) for place in places])
    return clip


MADE: dict[str, Maker] = {
    "true render": true,
    f"true render, noise of {NOISE:.0f}/255": noisy,
    f"true render, {LONG_FRAMES} frames": partial(true, frames=LONG_FRAMES),
    "shuffled": shuffled,
    "held for 4, jumped": held,
    "held for 2, jumped": partial(held, hold_for=2),
    "reversed": reversed_,
    "frozen": frozen,
    "another caption's clip": other,
    "both speeds in turn": both_speeds,
    "one frame twice": repeated,
    "one frame left out": left_out,
    "two frames exchanged": exchanged,
    "one frame blank": blank,
    "another shape, 1 frame": partial(altered, part="shape", frames=1),
    "another shape, 4 frames": partial(altered, part="shape", frames=4),
    "another colour, 1 frame": partial(altered, part="colour", frames=1),
    "another background, 1 frame": partial(altered, part="background", frames=1),
    "shape of two colours": two_coloured,
    "two backgrounds": two_grounds,
    "diamond": partial(figure, inside=lambda x, y: abs(x) + abs(y) <= 10),
    "ring": partial(figure, inside=lambda x, y: (x * x + y * y <= 64) & (x * x + y * y >= 16)),
    "oblong": partial(figure, inside=lambda x, y: (abs(x) <= 9) & (abs(y) <= 5)),
}


def written(clip: Clip, folder: Path) -> Clip:
    """The clip as a metric gets it."""
    video.write(folder / "clip.mp4", [clip], world.FRAME_RATE, crf=CRF, preset=PRESET)
    return video.read(folder / "clip.mp4")


def main() -> None:
    """Print the pass rates, how near true renders come to the tolerances, and the judge's speed."""
    captions = world.all_captions()
    words = [captions, COLOURS, SHAPES, DIRECTIONS, SPEEDS, BACKGROUNDS]
    print(f"share of clips that pass; {CLIPS} clips of {FRAMES} frames a row, {LONG_CLIPS} of {LONG_FRAMES}; crf {CRF}")
    print(f"{'':<30}" + "".join(f"{part:>12}" for part in PARTS))
    print(f"{'chance':<30}" + "".join(f"{1 / len(known):>12.4f}" for known in words))
    seconds, frames = 0.0, 0
    misses, overlaps = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, maker in MADE.items():
            passed = []
            for number in range(LONG_CLIPS if "120" in name else CLIPS):
                # 211 has no divisor in common with the number of captions: every word comes equally often.
                caption = captions[(number * 211 + 5) % len(captions)]
                clip = written(maker(caption, number, np.random.default_rng(number)), Path(scratch))
                begun = time.process_time()
                reading = read(clip)
                verdict = hold(reading, caption)
                seconds += time.process_time() - begun
                frames += len(clip)
                passed.append([getattr(verdict, part) for part in PARTS])
                if name.startswith("true"):
                    steps = (np.diff(reading.place, axis=0) + SIZE / 2) % SIZE - SIZE / 2
                    misses.append(abs(steps - caption.step).max())
                    overlaps.append(reading.overlap[:, SHAPES.index(caption.shape)].min())
            print(f"{name:<30}" + "".join(f"{share:>12.3f}" for share in np.mean(passed, axis=0)), flush=True)
    print(f"true renders: steps miss by up to {max(misses):.3f} px, overlaps are {min(overlaps):.3f} or more")
    print(f"{seconds / frames * 1e6:.0f} µs of processor time a frame")


if __name__ == "__main__":
    main()

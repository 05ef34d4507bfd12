"""The marked world: exact pictures, captions as text, the held-out split, and what a seed draws."""

import hashlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomla_models.small_world import marked
from videomla_models.small_world.marked import KINDS, Caption
from videomla_models.small_world.words import PAD, TEXT_LENGTH, UNKNOWN


def spread(kind: marked.Kind, count: int) -> list[Caption]:
    captions = marked.all_captions(kind)
    return [captions[(i * 211 + 5) % len(captions)] for i in range(count)]


def slow_render(caption: Caption, seed: int, frame: int) -> np.ndarray:
    """One frame, pixel by pixel, from the description alone."""
    (x0, y0), (dx, dy) = marked.start_position(caption, seed), marked.DIRECTIONS[caption.direction]
    speed = {"slowly": 1, "quickly": 2}[caption.speed]
    cx, cy = x0 + frame * dx * speed, y0 + frame * dy * speed
    drift = {"left": 1, "right": -1}[caption.extra.split()[-1]] * frame if "drifts" in caption.extra else 0
    lid = "covered" in caption.extra and ((cx if dx else cy) % 32) >= 16
    out = np.zeros((32, 32, 3), np.uint8)
    for y, x in product(range(32), range(32)):
        shade = marked.pattern(seed)[y // 8 * 4 + (x - drift) % 32 // 8]
        colour = np.array(marked.BACKGROUNDS[caption.background][shade])
        right, down = (x - cx + 16) % 32 - 16, (y - cy + 16) % 32 - 16

        def over(ink, alpha, colour=colour):
            return (np.array(ink) * alpha + colour * (256 - alpha) + 128) // 256

        colour = over(marked.COLOURS[caption.colour], int(marked.coverage(caption.shape)[down + 16, right + 16]))
        if -4 <= right < 4 and -4 <= down < 4:
            colour = np.array([(0, 0, 0), (245, 245, 245)][marked.mark(seed)[(down >= 0) * 2 + (right >= 0)]])
        if " dot " in caption.extra:
            name, where = caption.extra[4:].split(" dot ")
            ax, ay = {"above": (0, -13), "below": (0, 13), "to its left": (-13, 0), "to its right": (13, 0)}[where]
            alpha = int(marked.coverage("dot")[(down - ay + 16) % 32, (right - ax + 16) % 32])
            colour = over(marked.COLOURS[name], alpha, colour)
        if lid and abs(right) <= 10 and abs(down) <= 10:
            colour = np.array((225, 60, 225))
        out[y, x] = colour
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(4))
def test_a_frame_is_what_the_description_says(kind: marked.Kind, index: int):
    caption, seed, frame = spread(kind, 4)[index], 10 + index, 9 * index
    assert np.array_equal(marked.render(caption, seed, frame + 1)[frame], slow_render(caption, seed, frame))


def test_renders_are_these_bytes_for_ever():
    # A change here changes what every checkpoint was trained on.
    digest = hashlib.sha256()
    for kind in KINDS:
        for seed, caption in enumerate(spread(kind, 12)):
            digest.update(str(caption).encode() + marked.render(caption, seed, 21).tobytes())
    assert digest.hexdigest() == "def926cbba480c42b53770610178020f31adcc40218512033487c721344cc2fe"


def test_a_batch_is_its_clips_at_the_times_asked_for():
    captions = [caption for kind in KINDS for caption in spread(kind, 2)]
    times = np.array([[0, 1, 40 + i] for i in range(len(captions))])
    clips, figure = marked.render_batch(captions, list(range(8)), times)
    assert clips.shape == (8, 3, 32, 32, 3)
    assert figure.shape == (8, 3, 32, 32)
    for clip, caption, seed, when in zip(clips, captions, range(8), times, strict=True):
        assert np.array_equal(clip, marked.render(caption, seed, 48)[when])
    with pytest.raises(ValueError, match="1 captions, 2 seeds"):
        marked.render_batch(captions[:1], [1, 2], times[:1])


def test_what_is_not_background_is_the_figure():
    for kind in KINDS:
        for seed, caption in enumerate(spread(kind, 3)):
            clips, figure = marked.render_batch([caption], [seed], np.arange(40)[None])
            shades = np.array(marked.BACKGROUNDS[caption.background])
            plain = (clips[..., None, :] == shades).all(-1).any(-1)
            assert (plain | figure).all()
            assert 0.1 < figure.mean() < 0.6


def test_marks_and_patterns_are_drawn_evenly_and_not_from_the_caption():
    marks, patterns = (np.array([draw(seed) for seed in range(4000)]) for draw in (marked.mark, marked.pattern))
    assert len({tuple(bits) for bits in marks}) == 16
    for bits in (marks, patterns):
        assert abs(bits.mean(axis=0) - 0.5).max() < 0.03
        assert abs(np.corrcoef(bits.T) - np.eye(bits.shape[1])).max() < 0.07
    assert np.abs(np.corrcoef(marks[:, 0], patterns[:, 0])[0, 1]) < 0.07


def test_starts_lie_on_a_grid_and_everywhere_on_it():
    for caption in (marked.all_captions(kind)[7] for kind in ("plain", "pair", "drift")):
        starts = {marked.start_position(caption, seed) for seed in range(2000)}
        assert starts == set(product(range(0, 32, 4), repeat=2))


def test_a_lid_comes_after_the_first_chunk_and_stays_for_longer_than_the_window():
    for seed, caption in enumerate(spread("covered", 48)):
        place = np.array(marked.start_position(caption, seed)) + np.arange(64)[:, None] * np.array(caption.step)
        hidden = marked.under_lid(place[:, caption.axis])
        assert not hidden[:3].any()
        first = int(hidden.argmax())
        assert hidden[first : first + 8].all()
        assert hidden.sum() == 32


def test_every_caption_survives_its_text_and_has_its_own_tokens():
    captions = [caption for kind in KINDS for caption in marked.all_captions(kind)]
    assert [len(marked.all_captions(kind)) for kind in KINDS] == [384, 384, 384 * 12, 384 * 2]
    assert all(Caption.parse(str(caption)) == caption for caption in captions)
    assert Caption.parse(f" {marked.EXAMPLE.upper()}\n") == Caption.parse(marked.EXAMPLE)
    rows = np.stack([marked.WORDS.tokens(str(caption)) for caption in captions])
    assert rows.shape == (len(captions), TEXT_LENGTH)
    assert len(np.unique(rows, axis=0)) == len(captions)
    assert not (rows == UNKNOWN).any()
    assert (rows != PAD).sum(axis=1).max() == 7


def test_token_ids_never_move():
    assert " ".join(marked.WORDS.names) == (
        "<pad> <unknown> red green blue yellow circle bar pillar cross slowly quickly left right up down navy brown "
        "gray covered above below drifts"
    )


def test_the_split_is_fixed_and_leaves_every_word_in_training():
    for kind in KINDS:
        kept, seen = marked.held_out(kind), marked.training_captions(kind)
        assert 0.06 < len(kept) / len(marked.all_captions(kind)) < 0.14
        assert {*kept, *seen} == set(marked.all_captions(kind))
        assert set(kept).isdisjoint(seen)
        for part in ("colour", "shape", "speed", "direction", "background", "extra"):
            words = {getattr(caption, part) for caption in marked.all_captions(kind)}
            assert {getattr(caption, part) for caption in seen} == words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        marked.EXAMPLE + " .",
        marked.EXAMPLE.replace("green", "red"),
        marked.EXAMPLE.replace("above", "inside"),
        "a red circle moves slowly left on a navy background, covered halfway, covered halfway",
        "a" * 300,
        "<b>'\"\n😀",
    ],
)
def test_other_text_is_refused_in_one_line(text: str):
    with pytest.raises(ValueError, match=r"is no caption of the marked world|give it another colour") as caught:
        Caption.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@given(st.text(max_size=300))
def test_any_text_has_tokens(text: str):
    ids = marked.WORDS.tokens(text)
    assert ids.shape == (TEXT_LENGTH,)
    assert 0 <= ids.min() <= ids.max() < len(marked.WORDS.names)

"""The small world: exact pictures, captions as text, the held-out split."""

import hashlib
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomla_models.small_world import words, world
from videomla_models.small_world.world import Caption


def spread(count: int) -> list[Caption]:
    captions = world.all_captions()
    return [captions[(i * 211 + 5) % len(captions)] for i in range(count)]


def slow_render(caption: Caption, seed: int, frame: int) -> np.ndarray:
    """One frame, pixel by pixel, from the description alone."""
    x0, y0 = world.start_position(seed)
    dx, dy = world.DIRECTIONS[caption.direction]
    speed = {"slowly": 1, "quickly": 2}[caption.speed]
    cx, cy = x0 + frame * dx * speed, y0 + frame * dy * speed
    ink, paper = world.COLOURS[caption.colour], world.BACKGROUNDS[caption.background]
    cover = world.coverage(caption.shape)
    out = np.zeros((32, 32, 3), np.uint8)
    for y, x, c in product(range(32), range(32), range(3)):
        a = int(cover[(y - cy + 16) % 32, (x - cx + 16) % 32])
        out[y, x, c] = (ink[c] * a + paper[c] * (256 - a) + 128) // 256
    return out


def test_renders_are_these_bytes_for_ever():
    # A change here changes what every checkpoint was trained on.
    digest = hashlib.sha256()
    for seed, caption in enumerate(spread(48)):
        digest.update(str(caption).encode() + world.render(caption, seed, 21).tobytes())
    assert digest.hexdigest() == "35ef687f60da463ecd4c64d9076d3fe8871321e247afc0431274c556a8f0ceaa"


@pytest.mark.parametrize("index", range(6))
def test_a_frame_is_what_the_description_says(index: int):
    caption, seed, frame = spread(6)[index], 10 + index, 7 * index
    assert np.array_equal(world.render(caption, seed, frame + 1)[frame], slow_render(caption, seed, frame))


def test_areas_are_those_of_the_figures():
    areas = {shape: world.coverage(shape).sum() / 256 for shape in world.SHAPES}
    assert areas["circle"] == pytest.approx(np.pi * 7.75**2, rel=0.002)
    assert areas["square"] == pytest.approx(13.5**2, rel=0.002)
    assert areas["triangle"] == pytest.approx(15.5**2 * 5 / 8, rel=0.002)
    assert areas["cross"] == pytest.approx(2 * 17.5 * 5.5 - 5.5**2, rel=0.002)


def test_no_pixel_is_nearly_half_covered():
    for shape in world.SHAPES:
        cover = world.coverage(shape)
        assert cover.min() == 0
        assert cover.max() == 256
        assert not ((cover > 120) & (cover < 136)).any()


def test_a_batch_is_its_clips_and_a_start_is_an_offset():
    captions, seeds, starts = spread(9), list(range(9)), [0, 3, 40, 1, 0, 7, 100, 2, 5]
    batch = world.render_batch(captions, seeds, 5, starts)
    assert batch.shape == (9, 5, 32, 32, 3)
    assert batch.dtype == np.uint8
    for clip, caption, seed, start in zip(batch, captions, seeds, starts, strict=True):
        assert np.array_equal(clip, world.render(caption, seed, start + 5)[start:])


def test_the_seed_decides_only_where_the_shape_starts():
    caption = Caption.parse(world.EXAMPLE)
    first, second = world.render(caption, 3, 12), world.render(caption, 4, 12)
    (x0, y0), (x1, y1) = world.start_position(3), world.start_position(4)
    assert (x0, y0) != (x1, y1)
    assert np.array_equal(np.roll(first, (y1 - y0, x1 - x0), axis=(1, 2)), second)
    places = [world.start_position(seed) for seed in range(4000)]
    assert len({x for x, _ in places}) == len({y for _, y in places}) == world.SIZE


def test_empty_and_mismatched_batches():
    assert world.render_batch([], [], 4).shape == (0, 4, 32, 32, 3)
    assert world.render(spread(1)[0], 0, 0).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="2 captions, 1 seeds"):
        world.render_batch(spread(2), [1], 4)
    with pytest.raises(ValueError, match="frames is -1"):
        world.render(spread(1)[0], 0, -1)


def test_every_caption_survives_its_text():
    captions = world.all_captions()
    assert len(captions) == len({str(caption) for caption in captions}) == 6 * 4 * 8 * 2 * 4
    assert all(Caption.parse(str(caption)) == caption for caption in captions)
    assert str(Caption.parse(f"  {world.EXAMPLE.upper()}\n")) == world.EXAMPLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        world.EXAMPLE + " .",
        world.EXAMPLE.replace("red", "mauve"),
        "a" * 300,
        "<b>'\"\n😀",
        "../../x",
    ],
)
def test_other_text_is_refused_with_the_grammar(text: str):
    with pytest.raises(ValueError, match="a COLOUR SHAPE moves SPEED DIRECTION on a BACKGROUND background") as caught:
        Caption.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_caption_of_foreign_words_cannot_be_made():
    with pytest.raises(ValueError, match=r"speed 'fast' is not one of: slowly, quickly"):
        Caption("red", "circle", "fast", "up", "navy")


def test_the_split_is_fixed_and_leaves_every_pair_of_words_in_training():
    kept, seen = world.held_out(), world.training_captions()
    assert 0.07 < len(kept) / len(world.all_captions()) < 0.13
    assert set(kept).isdisjoint(seen)
    assert set(kept) | set(seen) == set(world.all_captions())
    digest = hashlib.sha256("\n".join(str(caption) for caption in kept).encode()).hexdigest()
    assert digest == "f169d0c5e497dda7587140a621eb1c38feda6358660364b9bfd802e5dbdcb303"
    parts = [(c.colour, c.shape, c.speed, c.direction, c.background) for c in seen]
    pairs = {pair for words in parts for pair in combinations(words, 2)}
    counts = (6, 4, 2, 8, 4)
    assert len(pairs) == sum(a * b for a, b in combinations(counts, 2))


def test_token_ids_never_move():
    assert " ".join(world.WORDS.names) == (
        "<pad> <unknown> red green blue yellow magenta white circle square triangle cross slowly quickly "
        "left right up down upper lower black navy gray brown"
    )


def test_tokens_of_captions_are_distinct_and_known():
    rows = np.stack([world.WORDS.tokens(str(caption)) for caption in world.all_captions()])
    assert rows.shape == (1536, words.TEXT_LENGTH)
    assert rows.dtype == np.int64
    assert len(np.unique(rows, axis=0)) == 1536
    assert not (rows == words.UNKNOWN).any()
    assert (rows != words.PAD).sum(axis=1).max() == 6
    names = world.WORDS.names
    said = [
        names[i] for i in world.WORDS.tokens("A white cross moves quickly to the lower left on a gray background.") if i
    ]
    assert said == ["white", "cross", "quickly", "lower", "left", "gray"]


@given(st.text(max_size=300))
def test_any_text_has_tokens(text: str):
    ids = world.WORDS.tokens(text)
    assert ids.shape == (words.TEXT_LENGTH,)
    assert ids.min() >= 0
    assert ids.max() < len(world.WORDS.names)


def test_foreign_words_are_unknown():
    assert world.WORDS.tokens("a purple dragon <pad>").tolist()[:4] == [words.UNKNOWN] * 3 + [words.PAD]
    assert not world.WORDS.tokens("").any()

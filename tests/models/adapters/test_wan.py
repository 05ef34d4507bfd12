"""The full-size presets: what they say of themselves, and that each runs at a small size."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Json, Prefix, Request, Switch, VideoModel, registry
from harness.errors import HarnessError, OptionError, WeightsError
from videomla_models.spec.published_models import PUBLISHED

TINY: dict[str, Json] = {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}


def create(name: str, **options: Json) -> VideoModel:
    return registry.models.create(name, options)


def clip(name: str, frames: int, seeds: tuple[int, ...] = (1,), switch: int = 0, **options: Json) -> np.ndarray:
    model = create(name, **TINY, **options)
    model.load("cpu")
    switches = (Switch(switch, ("another",) * len(seeds)),) if switch else ()
    chunks = list(model.stream(Request(("one",) * len(seeds), seeds, frames, switches)))
    assert all(chunk.dtype == np.uint8 for chunk in chunks)
    return np.concatenate(chunks, 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_preset_streams_what_was_asked_for(name: str) -> None:
    frames = 30
    made = clip(name, frames, (1, 2))
    assert made.shape == (2, frames, 32, 48, 3)
    assert (made[0] != made[1]).any()
    assert made.std() > 1
    assert np.array_equal(clip(name, frames, (1, 2)), made)


@pytest.mark.parametrize("asked", [10, 60])
@pytest.mark.parametrize("name", ["self-forcing", "longlive", "infinity-rope", "videomla-1.3b", "causvid"])
def test_a_switch_takes_effect_at_the_first_chunk_at_or_after_it(name: str, asked: int) -> None:
    # Chunks of three latent frames start at pixel frames 0, 9, 21, 33, 45, 57 and 69.
    happens = {10: 21, 60: 69}[asked]
    plain, switched = clip(name, 81), clip(name, 81, switch=asked)
    differ = (plain != switched).any(axis=(0, 2, 3, 4))
    assert np.flatnonzero(differ)[0] == happens
    assert list(create(name).switch_frames(request(81, switch=asked))) == [happens]


def request(frames: int, switch: int = 0, prefix: int = 0) -> Request:
    """A request of one clip, with a prefix of so many frames that nobody reads."""
    switches = (Switch(switch, ("another",)),) if switch else ()
    prefixes = (Prefix(Path("none"), "0" * 64, prefix, lambda: np.zeros(0, np.uint8)),) if prefix else ()
    return Request(("one",), (1,), frames, switches, prefixes)


LONGEST = {
    "dense-21-1.3b": 4089,
    "self-forcing": 4089,
    "self-forcing-framewise": 4093,
    "longlive": 4089,
    "rolling-forcing": 4089,
    "causal-forcing": 4089,
    "rolling-sink": 4089,
    "causal-forcing-2-step": 4093,
    "causal-forcing-1-step": 4093,
    "one-forcing": 4093,
    "causal-linear-1.3b": 4089,
    "causal-forcing-framewise": 4093,
    "causal-forcing-long": 4089,
    "memflow": 4089,
    "anchor-forcing": 4089,
    "dummy-forcing": 4089,
    "forcing-kv": 4089,
    "raven": 4089,
    "deep-forcing": 4089,
    "triattention": 4089,
}
"""Pixel frames of presets that count latent frames absolutely, as a rolling schedule does too. 1,023 latent frames are
341 chunks of 3, and 1 + 4 * 1022 pixel frames; one at a time all 1,024 can be had."""


@pytest.mark.parametrize(("name", "most"), LONGEST.items())
def test_a_clip_beyond_the_rope_table_is_refused_before_anything_is_loaded(name: str, most: int) -> None:
    model = create(name)
    model.check_request(request(most))
    with pytest.raises(
        OptionError, match=f"(?s){most + 1} frames take 102[5-7] latent frames.*at most {most} frames"
    ) as told:
        model.check_request(request(most + 1))
    assert "\n" not in told.value.message


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(LONGEST)))
def test_a_window_that_counts_for_itself_or_restarts_has_no_longest_clip(name: str) -> None:
    create(name).check_request(request(1_000_000))


def test_a_prefix_counts_in_the_rope_table() -> None:
    # 21 latent frames of a prefix leave 1,003, of which 1,002 are whole chunks, each frame of four pixel ones.
    model = create("self-forcing")
    model.check_request(request(4008, prefix=81))
    with pytest.raises(OptionError, match=r"(?s)4009 frames.*at most 4008 frames"):
        model.check_request(request(4009, prefix=81))


@pytest.mark.parametrize(
    ("name", "asked", "options", "says"),
    [
        ("rolling-forcing", request(81, switch=10), {}, "rolling schedule takes no switch"),
        ("rolling-forcing", request(81, prefix=1), {}, "rolling schedule takes no prefix"),
        ("rolling-forcing", request(81), {"sink_frames": 1}, "needs a sink of one chunk"),
        ("self-forcing", request(81, prefix=1), {"codec": "preview"}, "preview codec cannot encode a prefix"),
        ("causvid", request(81, prefix=1), {}, "1 frames is 1 latent ones.*video of 9 frames, of 21"),
        ("causvid", request(81, prefix=69), {}, "no room in its window of 21"),
        ("reward-forcing", request(81, prefix=1), {}, "averages whole chunks.*video of 9 frames"),
        ("self-forcing", request(9), {"height": 16400}, "height takes 1025 positions; its rope table has 1024"),
        ("self-forcing", request(0), {}, "ask for at least 1"),
    ],
)
def test_what_a_preset_cannot_do_is_refused(name: str, asked: Request, options: dict[str, Json], says: str) -> None:
    with pytest.raises(OptionError) as told:
        create(name, **options).check_request(asked)
    assert re.search(says, str(told.value), re.DOTALL)


@pytest.mark.parametrize(
    ("name", "scalars", "parameters", "window", "forwards"),
    [
        ("videomla-1.3b", 224, 1_303_042_240, 6, 5),
        ("dense-window-1.3b", 3072, 1_418_996_800, 6, 5),
        ("dense-21-1.3b", 3072, 1_418_996_800, 21, 5),
        ("self-forcing", 3072, 1_418_996_800, 21, 5),
        ("causvid", 3072, 1_418_996_800, 21, 4),
        ("longlive", 3072, 1_418_996_800, 12, 5),
        ("reward-forcing", 3072, 1_418_996_800, 9, 5),
        ("rolling-forcing", 3072, 1_418_996_800, 24, 2),
        ("memrope", 3072, 1_418_996_800, 12, 5),
        ("memflow", 3072, 1_418_996_800, 15, 5),
        ("anchor-forcing", 3072, 1_418_996_800, 15, 5),
        ("triattention", 3072, 1_418_996_800, 9, 5),
        ("deep-forcing", 3072, 1_418_996_800, 19, 5),
        ("causal-forcing-2-step", 3072, 1_418_996_800, 21, 3),
        ("causal-forcing-1-step", 3072, 1_418_996_800, 21, 2),
        ("one-forcing", 3072, 1_418_996_800, 21, 2),
    ],
)
def test_cards(name: str, scalars: int, parameters: int, window: int, forwards: int) -> None:
    card = create(name).describe()
    assert (card.cached_scalars, card.parameters) == (scalars, parameters)
    assert (card.window_frames, card.forwards_per_chunk, card.tokens_per_frame) == (window, forwards, 1560)
    assert card.cache_bytes == window * 1560 * 30 * scalars * 2
    assert card.weights == "none"


def test_the_papers_other_window() -> None:
    assert create("videomla-1.3b", window="la7_sink1").describe().window_frames == 7
    counted = create("videomla-1.3b", counts_sink=False, counts_current=False).describe()
    assert counted.window_frames == 10


def test_longlives_two_readings_have_one_window_and_other_positions() -> None:
    """Of branch v1.0: `longlive_inference.yaml`, and `longlive_inference_infinity.yaml` for clips of any length."""
    usual, endless = (create("longlive", window=name).describe() for name in ("la12_sink3", "la12_sink3_relative"))
    assert create("longlive").describe() == usual
    for card in (usual, endless):
        assert (card.window_frames, card.sink_frames, card.cache_bytes) == (12, 3, 12 * 1560 * 30 * 3072 * 2)
    policy = create("longlive", window="la12_sink3_relative").window_policy()
    assert (policy.rotation, policy.positions) == ("read", "relative")
    assert (policy.switch, policy.keep_sink_on_rebuild) == ("rebuild", True)
    # Positions differ from where the window has moved: latent frame 12, which pixel frame 45 begins.
    first, other = clip("longlive", 57), clip("longlive", 57, window="la12_sink3_relative")
    assert np.array_equal(first[:, :45], other[:, :45])
    assert not np.array_equal(first[:, 45:], other[:, 45:])


def test_a_preset_says_where_its_weights_lie_and_what_their_licence_is() -> None:
    card = create("videomla-1.3b").describe()
    assert str(card.details["checkpoint"]).startswith("Hidir/VideoMLA: stage3_la6_sink1/model.pt")
    assert card.licence == "none stated"
    with pytest.raises(WeightsError, match="harness fetch videomla --with stage3_la6_sink1"):
        create("videomla-1.3b").identity("cpu")
    assert create("causal-forcing").describe().licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("widths", "scalars", "pairs"),
    [
        ({"d_c": 64}, 96, (6, 5, 5)),
        ({"d_c": 512, "d_rope": 32}, 544, (6, 5, 5)),
        ({"d_nope": 112, "d_rope": 16}, 208, (4, 2, 2)),
        ({"d_nope": 64, "d_rope": 64}, 256, (12, 10, 10)),
        ({"d_nope": 32, "d_rope": 96}, 288, (16, 16, 16)),
    ],
)
def test_the_papers_ablated_widths(widths: dict[str, Json], scalars: int, pairs: tuple[int, int, int]) -> None:
    card = create("videomla-1.3b", **widths).describe()
    assert card.cached_scalars == scalars
    # Latent and rope key of 6 frames of 1560 tokens in 30 layers, two bytes each.
    assert card.cache_bytes == 6 * 1560 * 30 * scalars * 2
    latent = create("videomla-1.3b", **widths).network_config().latent
    assert (latent.pairs, latent.d_nope) == (pairs, widths.get("d_nope", 96))


def test_an_ablated_width_streams() -> None:
    usual, wide = clip("videomla-1.3b", 9), clip("videomla-1.3b", 9, d_c=8, d_nope=12, d_rope=12)
    assert usual.shape == wide.shape
    assert (usual != wide).any()


def test_describing_imports_no_torch() -> None:
    code = (
        "import sys; from harness.contracts import registry; registry.models.create('videomla-1.3b', {}).describe();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_identity_tells_forms_windows_and_weights_apart() -> None:
    options: list[dict[str, Json]] = [{"attention": "expanded"}, {"attention": "absorbed"}]
    identities = [create("videomla-1.3b", **TINY, **more).identity("cpu") for more in options]
    assert all(a != b for a, b in pairwise(identities))


def test_both_forms_give_nearly_the_same_pixels() -> None:
    expanded, absorbed = (clip("videomla-1.3b", 21, attention=form) for form in ("expanded", "absorbed"))
    assert (abs(expanded.astype(int) - absorbed) <= 1).mean() > 0.99


def test_weights_must_be_chosen() -> None:
    with pytest.raises(WeightsError, match="needs weights"):
        create("self-forcing").identity("cpu")
    with pytest.raises(WeightsError, match="random for speed"):
        create("self-forcing").load("cpu")
    with pytest.raises(HarnessError, match="absent"):
        create("self-forcing", weights="/absent/model.pt").identity("cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"height": 50}, "height"),
        ({"width": 0}, "width"),
        ({"network": "wan-14b"}, "network"),
        ({"windw": "x"}, "window"),
        ({"window": "la8_sink1"}, "la7_sink1"),
        ({"attention": "fast"}, "attention"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_bad_options_name_the_option(options: dict[str, Json], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        create("videomla-1.3b", **options)


def test_a_window_that_cannot_hold_a_chunk() -> None:
    with pytest.raises(OptionError, match="at least 4"):
        create("videomla-1.3b", window_frames=3).describe()


def test_streaming_before_loading_says_so() -> None:
    with pytest.raises(HarnessError, match="not loaded"):
        create("videomla-1.3b", **TINY).stream(Request(("a",), (0,), 9))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["videomla-1.3b", "dense-window-1.3b"])
def test_the_full_size_runs_a_chunk_in_bfloat16(name: str) -> None:
    model = create(name, weights="random", codec="preview", height=96, width=160)
    model.load("cpu")
    chunk = next(iter(model.stream(Request(("a prompt",), (0,), 9))))
    assert chunk.shape == (1, 9, 96, 160, 3)
    assert chunk.std() > 1
    model.unload()

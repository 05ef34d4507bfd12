"""The window policy as an option of a suite: what it changes, what a key and a card hold, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from harness.contracts import Json, Request, VideoModel, registry
from harness.errors import HarnessError

TINY: dict[str, Json] = {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}
MEMORY: dict[str, Json] = {"frames": 9, "sink": 1, "average_rates": [0.01, 0.1]}


def create(name: str, policy: dict[str, Json] | None = None, **options: Json) -> VideoModel:
    return registry.models.create(name, {**options, **({"policy": policy} if policy is not None else {})})


def clip(name: str, frames: int, policy: dict[str, Json] | None = None, **options: Json) -> np.ndarray:
    model = create(name, policy, **TINY, **options)
    model.load("cpu")
    return np.concatenate(list(model.stream(Request(("one",), (1,), frames, ()))), 1)


@pytest.mark.parametrize("name", ["dense-window-1.3b", "toy/videomla"])
def test_options_that_came_later_are_in_no_key_that_does_not_need_them(name: str) -> None:
    plain, changed = create(name), create(name, MEMORY)
    later = {"policy", "compile", "steps", "first_steps"}
    assert not later - {"steps"} & set(plain.options.model_dump())
    assert "average_rates" not in plain.describe().details["window"]  # type: ignore[operator]
    assert changed.options.model_dump()["policy"] == MEMORY
    assert changed.describe().details["window"]["average_rates"] == (0.01, 0.1)  # type: ignore[index,call-overload]


@pytest.mark.parametrize("name", ["dense-window-1.3b", "videomla-1.3b"])
@pytest.mark.parametrize(
    "policy",
    [MEMORY, {**MEMORY, "average_over": "frames"}, {"frames": 9, "sink": 0, "sink_kind": "ping_pong"}],
    ids=["tokens", "frames", "ping_pong"],
)
def test_a_changed_policy_changes_a_clip_once_frames_leave(name: str, policy: dict[str, Json]) -> None:
    # Nine latent frames are 33 pixel ones; the next chunk is the first that another one leaves for.
    usual = clip(name, 69, {"frames": 9, "sink": policy["sink"]}, weights="random")
    other = clip(name, 69, policy, weights="random")
    assert np.array_equal(usual[:, :33], other[:, :33])
    assert not np.array_equal(usual, other)


def test_first_frames_that_come_back_are_counted() -> None:
    # 21 frames that attention sees, and the first 18, of 1,560 tokens in 30 layers, keys and values of 1,536, bfloat16.
    card = create("rolling-sink").describe()
    assert card.cache_bytes == (21 + 18) * 1560 * 30 * 2 * 1536 * 2
    assert card.details["spare_frames"] == 18
    assert str(card.details["source"]).startswith("arXiv 2602.07775")


def test_the_first_chunk_has_its_own_steps() -> None:
    card = create("causal-forcing-2-step").describe()
    assert (card.details["denoising_steps"], card.details["first_chunk_steps"]) == ([1000, 500], [1000, 750, 500, 250])
    one, four = (
        clip("one-forcing", 9, weights="random", first_steps=steps) for steps in ([1000], [1000, 750, 500, 250])
    )
    assert not np.array_equal(one[:, :1], four[:, :1])
    assert np.array_equal(clip("one-forcing", 9, weights="random"), four)
    assert create("toy/dense", first_steps=8).describe().details["first_chunk_steps"][1] == 875  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "policy", "words"),
    [
        ("dense-window-1.3b", {"sinks": 1}, "policy has no field 'sinks'"),
        ("dense-window-1.3b", {"average_rates": [2]}, "are not all rates"),
        ("toy/dense", {"average_rates": [0.1, 0.2, 0.3]}, "cannot hold its sink of 1, 3 averages"),
        ("rolling-forcing", {"average_rates": [0.1]}, "running averages"),
        ("self-forcing", {"sink_kind": "rolling"}, "needs unrotated keys"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_one_line(name: str, policy: dict[str, Json], words: str) -> None:
    with pytest.raises(HarnessError, match=words) as fault:
        create(name, policy).check_request(Request(("one",), (1,), 81, ()))
    assert "\n" not in fault.value.message

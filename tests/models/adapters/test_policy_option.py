"""The window policy as an option of a suite: what it changes, what a key and a card hold, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.contracts import Json, Request, Switch, VideoModel, no_spans, registry
from harness.errors import HarnessError
from harness.runs.plan import make
from harness.suite.load import load_suite
from videomla_models.rollout.rollout import SeededNoise
from videomla_models.spec.published_models import PUBLISHED

TINY: dict[str, Json] = {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}
WRITTEN: dict[str, Json] = {"rotation": "write", "positions": "absolute"}
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
    later = {"policy", "at_once", "compile", "steps", "first_steps"}
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


def test_an_anchor_is_seen_once_its_chunk_has_left_the_window() -> None:
    def switched(name: str) -> np.ndarray:
        model = create(name, **TINY, weights="random")
        model.load("cpu")
        request = Request(("one",), (1,), 69, (Switch(10, ("another",)),))
        return np.concatenate(list(model.stream(request)), 1)

    usual, anchored = switched("longlive"), switched("anchor-forcing")
    # The switch happens at latent frame 6; with nine frames behind the sink they leave for frame 15, pixel frame 57.
    assert np.array_equal(usual[:, :57], anchored[:, :57])
    assert not np.array_equal(usual[:, 57:], anchored[:, 57:])


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
        ("longlive", {"switch": "anchor", "anchor": 4}, "anchor is 4"),
        ("longlive", {"switch": "anchor", "bank": 1}, "goes with a kept sink alone"),
        ("memflow", {"bank": 4, "bank_pool": 3}, "cannot be chosen from a pool of 3"),
        ("memflow", {"bank": -1}, "out of range"),
        ("memflow", {"bank_by": "latents"}, "chooses from a pool, and there is none"),
        ("memflow", {"bank_of": "all"}, "chooses from a pool, and there is none"),
        ("memflow", {"bank_at": "zero"}, "among relative positions"),
        ("longlive-rag", {"bank_recent": 120}, "reaches 120 frames back"),
        ("longlive-rag", {"bank_recent": -1}, "bank_recent -1 or span 12: out of range"),
        ("longlive-rag", {"span": 5}, "less than the 6 frames"),
        ("longlive-rag", {"span": 1025}, "more than the 1024 positions"),
        ("longlive-rag", {"switch": "flush"}, "counts relative positions behind a kept sink"),
        ("toy/videomla", {"rotation": "write", "positions": "absolute", "span": 9}, "counts relative positions"),
        ("videomla-1.3b", {"bank": 1}, "compares keys of heads"),
        ("videomla-1.3b", {**WRITTEN, "select": 1, "select_by": "head"}, "share one latent"),
        ("videomla-1.3b", {"head_current": 0.5, "head_from": 2, "frames": 7}, "share one latent"),
        ("videomla-1.3b", {"select": 1}, "compares rotated keys"),
        ("self-forcing", {"select": 3, "select_score": "change"}, "compares a frame with the next"),
        ("self-forcing", {"select": 1, "select_score": "change", "select_by": "head"}, "compares a frame with the"),
        ("self-forcing", {"select": 1, "select_by": "patch", "select_patches": 7}, "do not divide a frame of 1560"),
        ("self-forcing", {"select": 1, "select_by": "patch", "select_patches": 0}, "select_patches is 0"),
        ("forcing-kv", {"select": 0}, "choose tokens, and window.select is 0"),
        ("dummy-forcing", {"select": 1}, "leave out tokens, and window.select is 1"),
        ("toy/linear", {"rotation": "read", "positions": "relative"}, "one state over all that came before"),
        ("self-forcing", {"select": 22}, "has 21 that can leave"),
        ("self-forcing", {"select": 2, "select_by": "chunk"}, "whole chunks of 3"),
        ("dummy-forcing", {"head_classes": ["slc"], "head_current": 0}, "30 strings of 12 letters"),
        ("dummy-forcing", {"head_classes": ["x" * 12] * 30, "head_current": 0}, "letter 'x'"),
        ("dummy-forcing", {"head_current": 1.5}, "share of all heads"),
        ("dummy-forcing", {"frames": 5}, "at least 7"),
        ("dummy-forcing", {"head_from": 0}, "at least 1"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_one_line(name: str, policy: dict[str, Json], words: str) -> None:
    with pytest.raises(HarnessError, match=words) as fault:
        create(name, policy).check_request(Request(("one",), (1,), 81, ()))
    assert "\n" not in fault.value.message


@pytest.mark.parametrize("name", ["toy/linear", "causal-linear-1.3b"])
def test_a_constant_state_is_a_model_that_runs_and_remembers_its_first_chunk(name: str) -> None:
    options: dict[str, Json] = {"weights": "random"} | ({} if name.startswith("toy/") else TINY)
    model = create(name, **options)
    card = model.describe()
    assert (card.cached_scalars, card.window_frames) == (0, 3)
    short, longer = (model.describe() for _ in range(2))
    assert short.cache_bytes == longer.cache_bytes == card.cache_bytes
    model.load("cpu")
    frames = 36 if name.startswith("toy/") else 57

    def clip_of(seed: int) -> np.ndarray:
        return np.concatenate(list(model.stream(Request(("one",), (seed,), frames, ()))), 1)

    assert np.array_equal(clip_of(1), clip_of(1))
    assert not np.array_equal(clip_of(1), clip_of(2))


@pytest.mark.parametrize(
    "policy", [MEMORY, {"bank": 2}, {"select": 1}, {"head_current": 0.5, "sink": 1, "head_from": 1}]
)
def test_a_state_keeps_no_frames_that_a_policy_could_choose_among(policy: dict[str, Json]) -> None:
    with pytest.raises(HarnessError) as fault:
        create("toy/linear", {"frames": 9, "rotation": "read", "positions": "relative", **policy}).check_request(
            Request(("one",), (1,), 81, ())
        )
    assert "\n" not in fault.value.message


def test_heads_of_forcing_kv_hold_what_its_configuration_says() -> None:
    card = create("forcing-kv").describe()
    # A sink, one frame and a chunk of three for each of 360 heads, and a frame's worth of patches for 219 of them, of
    # 1,560 tokens, keys and values of 128, bfloat16.
    assert card.cache_bytes == (360 * 5 + 219) * 1560 * 2 * 128 * 2
    assert not np.array_equal(clip("forcing-kv", 57, weights="random"), clip("dense-21-1.3b", 57, weights="random"))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_requests_that_take_turns_give_the_same_clips(name: str, guidance: float) -> None:
    def clips(at_once: int) -> np.ndarray:
        stored: dict[str, Json] = {"content": "int8", "key": "int8", "group": "token"}
        model = create(name, weights="random", guidance=guidance, steps=2, cache=stored, at_once=at_once)
        model.load("cpu")
        prompts = tuple(f"a red ball moves {way}" for way in ("left", "right", "up"))
        return np.concatenate(list(model.stream(Request(prompts, (1, 2, 3), 24, (Switch(9, prompts[::-1]),)))), 1)

    together = clips(0).astype(int)
    for at_once in (1, 2, 3, 7):
        assert abs(together - clips(at_once)).max() <= 1


def test_requests_that_take_turns_work_in_one_buffer() -> None:
    model = create("toy/videomla", weights="random", cache={"content": "int8"}, at_once=1)
    model.load("cpu")
    pipeline = model.pipeline  # type: ignore[attr-defined]
    first, second = pipeline.rollouts(2, no_spans, 0)
    noise = SeededNoise((0, 1), (48, 8, 8), torch.device("cpu"), torch.float32)
    prompts = [pipeline._prompt(("a red ball",)) for _ in range(2)]
    for _ in pipeline.run([first, second], noise, prompts, 9):
        assert second.cache.decoded is first.cache.decoded
    assert (first.cache.rotated_keys is None, second.cache.rotated_keys) == (False, None)
    assert first.cache.bytes() == second.cache.bytes() > 0


def test_memory_that_requests_take_in_turns_is_no_part_of_what_a_clip_needs() -> None:
    all_at_once, in_turns = (create("toy/dense", at_once=at_once).batch_bytes() for at_once in (0, 2))
    assert all_at_once is not None
    assert in_turns is not None
    assert in_turns[1] < all_at_once[1]
    assert in_turns[0] - all_at_once[0] == 2 * (all_at_once[1] - in_turns[1])


def test_a_state_has_no_weights_to_be_found() -> None:
    with pytest.raises(HarnessError, match="no weights of its own"):
        create("toy/linear", weights="shipped").identity("cpu")


def test_the_page_of_policies_shows_a_suite_that_plans(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cache-policies.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(suite: .*?)```", page, re.DOTALL)
    (tmp_path / "kept.yaml").write_text(block, encoding="utf-8")
    plan = make(load_suite(tmp_path / "kept.yaml"), "cpu")
    assert len(plan.units) == 5


def test_the_page_of_policies_names_every_preset_with_a_source() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cache-policies.md").read_text(encoding="utf-8")
    assert not {name for name, preset in PUBLISHED.items() if preset.source and f"`{name}`" not in page}


BY_CLIP: dict[str, dict[str, Json]] = {
    "averages": MEMORY,
    "bank by prompt": {"bank": 2, "bank_every": 1},
    "pool": {"bank": 2, "bank_every": 1, "bank_by": "similarity", "bank_pool": 4},
    "tokens": {"rotation": "write", "positions": "absolute", "select": 2},
    "heads' tokens": {
        "rotation": "write",
        "positions": "absolute",
        "select": 1,
        "select_by": "head",
        "select_at": "clean",
    },
}


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("policy", BY_CLIP.values(), ids=BY_CLIP)
def test_what_is_kept_of_a_clip_does_not_depend_on_its_batch(policy: dict[str, Json], guidance: float) -> None:
    model = create("toy/dense", policy, weights="random", guidance=guidance, steps=2)
    model.load("cpu")

    def clips(*seeds: int) -> np.ndarray:
        prompts = tuple(f"a red ball moves {'left' if seed % 2 else 'right'}" for seed in seeds)
        return np.concatenate(list(model.stream(Request(prompts, seeds, 24, ()))), 1).astype(int)

    together = clips(1, 2)
    assert abs(together[:1] - clips(1)).max() <= 1
    assert abs(together[1:] - clips(2)).max() <= 1

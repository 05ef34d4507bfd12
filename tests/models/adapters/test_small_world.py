"""The small models that ship: what they say, and that they draw what the caption says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from harness.contracts import Json, Request, Switch, VideoModel, registry
from harness.errors import HarnessError, OptionError
from videomla_models.adapters.small_world import CHECKPOINTS
from videomla_models.small_world.judge import judge
from videomla_models.small_world.world import Caption, held_out

NAMES = ("toy/dense", "toy/videomla")


def create(name: str, **options: Json) -> VideoModel:
    return registry.models.create(name, options)


def test_the_latent_cache_is_at_most_fifteen_per_cent() -> None:
    dense, latent = (create(name).describe() for name in NAMES)
    assert (dense.cached_scalars, latent.cached_scalars) == (384, 56)
    assert (dense.window_frames, dense.sink_frames) == (latent.window_frames, latent.sink_frames) == (6, 1)
    assert latent.cache_bytes == 5 * 6 * 16 * 56 * 4  # 5 layers, 6 frames of 16 tokens, float32
    guided = create("toy/videomla", weights="teacher_forcing", steps=8, guidance=2.0).describe()
    assert guided.cache_bytes == 2 * latent.cache_bytes
    assert (latent.forwards_per_chunk, guided.forwards_per_chunk) == (4 + 1, 2 * (8 + 1))


@pytest.mark.parametrize("stem", ["dense", "videomla"])
def test_checkpoints_are_those_of_their_records(stem: str) -> None:
    first, forced, shipped = (
        json.loads((CHECKPOINTS / f"{stem}{kind}.json").read_text()) for kind in (".first", ".teacher_forcing", "")
    )
    for record, path in ((forced, f"{stem}.teacher_forcing.safetensors"), (shipped, f"{stem}.safetensors")):
        assert hashlib.sha256((CHECKPOINTS / path).read_bytes()).hexdigest() == record["sha256"]
        assert (CHECKPOINTS / path).stat().st_size < 8_000_000
    assert forced["steps"] == forced["recipe"]["steps"]
    assert forced["recipe"]["start"] == first["sha256"]
    assert shipped["start"] == forced["sha256"]
    assert [stage["steps"] for stage in shipped["stages"]] == [s["steps"] for s in shipped["chain"]["stages"]]


@pytest.mark.parametrize("name", NAMES)
def test_held_out_captions_are_drawn(name: str) -> None:
    model = create(name)
    model.load("cpu")
    captions = held_out()[::25]
    request = Request(tuple(map(str, captions)), tuple(range(len(captions))), 21)
    clips = np.concatenate(list(model.stream(request)), 1)
    verdicts = [judge(clip, caption) for clip, caption in zip(clips, captions, strict=True)]
    assert all(v.colour and v.background for v in verdicts)
    # The first chunk, which has no past, is often blurred or late; most of the frames after it are right in everything.
    assert np.mean([v.frames_correct for v in verdicts]) > 0.7


def test_a_clip_is_its_seeds_and_prompts() -> None:
    model = create("toy/videomla", steps=2)
    model.load("cpu")
    text = str(Caption.parse("a red circle moves slowly to the left on a navy background"))

    def made(seed: int, prompt: str) -> np.ndarray:
        return np.concatenate(list(model.stream(Request((prompt,), (seed,), 10))), 1)

    assert made(3, text).shape == (1, 10, 32, 32, 3)
    assert np.array_equal(made(3, text), made(3, text))
    assert not np.array_equal(made(3, text), made(4, text))
    assert not np.array_equal(made(3, text), made(3, "a blue cross moves quickly up on a black background"))


@pytest.mark.parametrize("options", [{}, {"steps": 2, "guidance": 2.0}], ids=["shipped", "guided"])
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_of_a_batch_equals_the_clip_by_itself(name: str, options: dict[str, Json]) -> None:
    """So their keys hold no batch on a CPU: every pixel of every clip, past the filled window and a prompt switch."""
    model = create(name, **options)
    assert not model.batch_may_change_pixels("cpu")
    model.load("cpu")
    prompts, later = (tuple(map(str, captions)) for captions in (held_out()[:8], held_out()[8:16]))
    seeds = (0, 1, 0, 2, 0, 1, 7, 2**62)

    def made(*places: int) -> np.ndarray:
        chosen = [tuple(texts[place] for place in places) for texts in (prompts, later)]
        request = Request(chosen[0], tuple(seeds[place] for place in places), 21, (Switch(9, chosen[1]),))
        return np.concatenate(list(model.stream(request)), 1)

    alone = np.concatenate([made(place) for place in range(8)])
    for batch in ((0, 1, 2, 3), (4, 5, 6), range(8)):
        assert np.array_equal(made(*batch), alone[list(batch)])


PEAK = """
import sys
from harness.contracts import Request, registry
from harness.probes.timing.memory import MemoryMeter
model = registry.models.create(sys.argv[1], {})
model.load("cpu")
prompts = ("a red circle moves slowly to the left on a navy background",) * int(sys.argv[2])
meter = MemoryMeter("cpu")
meter.reset()
for chunk in model.stream(Request(prompts, (0,) * len(prompts), 15)):
    pass
print(round(meter.peak()["peak_bytes"]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone says what was resident at most")
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_takes_no_more_memory_than_the_model_says(name: str) -> None:
    def peak(batch: int) -> int:
        command = [sys.executable, "-c", PEAK, name, str(batch)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    sizes = create(name).batch_bytes()
    assert sizes is not None
    a_clip = (peak(48) - peak(8)) / 40
    assert a_clip < sizes[1] < 3 * a_clip


def test_the_batch_may_change_pixels_elsewhere() -> None:
    for name in NAMES:
        assert create(name).batch_may_change_pixels("cuda")
        assert create(name, dtype="bfloat16").batch_may_change_pixels("cpu")


def test_random_weights_are_marked_and_missing_ones_named() -> None:
    assert create("toy/dense", weights="random").describe().weights == "random"
    with pytest.raises(HarnessError, match="absent"):
        create("toy/dense", weights="absent.safetensors").identity("cpu")
    with pytest.raises(HarnessError, match="does not fit"):
        create("toy/dense", weights=str(CHECKPOINTS / "videomla.safetensors")).load("cpu")


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("steps", 1001), ("guidance", 0.5), ("stepz", 4)])
def test_bad_options(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=r"step|guidance"):
        create("toy/dense", **{option: value})

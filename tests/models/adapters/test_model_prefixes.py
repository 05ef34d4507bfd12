"""Clips that continue an image or a video, against a slow rollout that keeps every key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from causal_codecs import BlendCodec, small_wan_codec
from slow_rollout import SlowRollout

from harness.contracts import Prefix, Request, Switch, registry
from harness.errors import OptionError
from harness.probes.timing.clock import Clock, Recorder, stage_seconds
from videomla_models.adapters.wan import wan_model
from videomla_models.small_world.world import Caption, render

SIZE = (32, 48)


def given(frames: np.ndarray) -> Prefix:
    return Prefix(Path("none"), "0" * 64, len(frames), lambda: frames)


def pictures(count: int) -> np.ndarray:
    """Smooth colours that move."""
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    return np.stack([np.stack([rows * 4 + n, columns * 3, rows * 2 + 5 * n], -1) for n in range(count)]).astype(
        np.uint8
    )


class Small(wan_model("self-forcing")):  # type: ignore[misc]
    """The preset with a network in float64 and a small codec."""

    codec = BlendCodec

    def load_network(self, device: str):  # type: ignore[no-untyped-def]
        return super().load_network(device).double()

    def load_codec(self, device: str):  # type: ignore[no-untyped-def]
        return self.codec()


class SmallWan(Small):
    codec = staticmethod(small_wan_codec)


@pytest.fixture(scope="module", params=[Small, SmallWan], ids=["blend", "wan"])
def model(request) -> Small:  # type: ignore[no-untyped-def]
    if request.param is SmallWan:
        pytest.importorskip("diffusers", exc_type=ImportError)
    options = {"network": "tiny", "height": SIZE[0], "width": SIZE[1], "dtype": "float32"}
    made = request.param(request.param.schema(**options))
    made.load("cpu")
    return made


@torch.no_grad()
def slowly(model: Small, prefix: np.ndarray, frames: int, texts: list[str]) -> np.ndarray:
    """Encode, take in, make chunk after chunk, decode all at once, and leave out what was given."""
    codec = model._loaded().codec
    rollout = SlowRollout(model, torch.Generator().manual_seed(3))
    latents = [codec.encode(torch.from_numpy(prefix)[None]).double()]
    for part in latents[0].split(3, 1):
        rollout.take(part, texts[0])
    for number in range(-(-frames // 12)):
        latents.append(rollout.make(3, texts[min(number, len(texts) - 1)]))
    pixels: np.ndarray = codec.decode(torch.cat(latents, 1))[0].numpy()
    return pixels[len(prefix) :][:frames]


@pytest.mark.parametrize("count", [1, 9, 13])
def test_a_clip_goes_on_from_the_prefix_and_holds_none_of_it(model: Small, count: int) -> None:
    prefix = pictures(count)
    request = Request(("one",), (3,), 30, prefixes=(given(prefix),))
    chunks = [chunk[0] for chunk in model.stream(request)]
    assert [len(chunk) for chunk in chunks] == [12, 12, 6]
    apart = np.abs(np.concatenate(chunks).astype(int) - slowly(model, prefix, 30, ["one"]).astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3
    other = np.concatenate([chunk[0] for chunk in model.stream(Request(("one",), (3,), 30))])
    assert (np.abs(other.astype(int) - np.concatenate(chunks)) > 1).mean() > 0.5


def test_a_switch_counts_from_the_first_frame_that_is_made(model: Small) -> None:
    prefix = pictures(1)
    request = Request(("one",), (3,), 36, (Switch(13, ("two",)),), (given(prefix),))
    assert list(model.switch_frames(request)) == [24]
    made = np.concatenate([chunk[0] for chunk in model.stream(request)])
    apart = np.abs(made.astype(int) - slowly(model, prefix, 36, ["one", "one", "two"]).astype(int))
    assert apart.max() <= 1


def test_a_batch_takes_a_prefix_each_of_one_length(model: Small) -> None:
    one, two = pictures(9), pictures(9)[::-1].copy()
    both = Request(("one", "one"), (3, 3), 12, prefixes=(given(one), given(two)))
    made = np.concatenate(list(model.stream(both)), 1)
    for clip, prefix in zip(made, (one, two), strict=True):
        alone = np.concatenate(list(model.stream(Request(("one",), (3,), 12, prefixes=(given(prefix),)))), 1)[0]
        assert np.abs(clip.astype(int) - alone.astype(int)).max() <= 1
    with pytest.raises(OptionError, match="prefixes of 1 and 9 frames in one batch"):
        model.check_request(Request(("a", "b"), (0, 0), 12, prefixes=(given(one), given(pictures(1)))))


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_the_small_world_goes_on_with_what_it_was_shown(name: str) -> None:
    """Twelve true frames, then the model's: the shape keeps its colour, and moves on from where it was."""
    caption = Caption.parse("a red circle moves slowly to the left on a navy background")
    truth = render(caption, 1, 24)
    model = registry.models.create(name, {})
    model.load("cpu")
    spans = Recorder(Clock("cpu"))
    request = Request((str(caption),), (0,), 12, prefixes=(given(truth[:12]),))
    made = np.concatenate([chunk[0] for chunk in model.stream(request, spans)])
    without = np.concatenate([chunk[0] for chunk in model.stream(Request((str(caption),), (0,), 12))])
    far, near = (np.abs(clip.astype(int) - truth[12:].astype(int)).mean() for clip in (without, made))
    assert near < far / 2
    seconds = stage_seconds(spans.finish())
    assert seconds["prefix"] > 0

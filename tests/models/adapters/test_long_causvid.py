"""CausVid beyond its window, against a slow implementation of its published procedure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from causal_codecs import BlendCodec, small_wan_codec
from slow_rollout import SlowRollout
from torch import Tensor

from harness.contracts import Json, Request, Switch, registry
from harness.errors import OptionError
from videomla_models.adapters.wan import wan_model

OPTIONS: dict[str, Json] = {"network": "tiny", "height": 32, "width": 48, "dtype": "float32"}
WINDOW, OVERLAP = 21, 3
VIDEO = 81
"""Pixel frames of a rollout of 21 latent frames: 1 + 4 * 20."""
KEPT = 72
"""Of them, those that the next rollout does not make again: the script cuts off 4 * (3 - 1) + 1."""


class Small(wan_model("causvid")):  # type: ignore[misc]
    """The preset with a network in float64, so that rounding does not decide, and a small codec."""

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
    made = request.param(request.param.schema(**OPTIONS))
    made.load("cpu")
    return made


@torch.no_grad()
def published(model: Small, texts: list[str], rollouts: int, seed: int) -> list[Tensor]:
    """The videos of `longvideo_autoregressive_inference.py`, uncut; `texts[i]` is the prompt of the i-th chunk made."""
    codec, random = model._loaded().codec, torch.Generator().manual_seed(seed)
    chunks, text = iter(texts), texts[0]
    videos: list[Tensor] = []
    start = None
    for _ in range(rollouts):
        rollout = SlowRollout(model, random)
        output: list[Tensor] = []
        for block in range(WINDOW // OVERLAP):
            if block == 0 and start is not None:
                rollout.take(start, text)
                output.append(start)
            else:
                text = next(chunks, text)
                output.append(rollout.make(OVERLAP, text))
        latents = torch.cat(output, 1)
        video = codec.decode(latents)
        image = codec.encode(video[:, -4 * (OVERLAP - 1) - 1 : -4 * (OVERLAP - 1)]).double()
        start = torch.cat([image, latents[:, -(OVERLAP - 1) :]], 1)
        videos.append(video)
    return videos


def made(model: Small, frames: int, *switches: Switch) -> list[np.ndarray]:
    return [chunk[0] for chunk in model.stream(Request(("one",), (5,), frames, switches))]


def same(ours: np.ndarray, theirs: Tensor) -> bool:
    """Equal but for single levels, where float32 in the VAE rounds another way."""
    apart = np.abs(ours.astype(int) - theirs[0].numpy().astype(int))
    return apart.shape == ours.shape and apart.max() <= 1 and (apart > 0).mean() < 1e-3


def test_one_window_is_one_rollout(model: Small) -> None:
    chunks = made(model, VIDEO)
    assert [len(chunk) for chunk in chunks] == [9, *[12] * 6]
    assert same(np.concatenate(chunks), published(model, ["one"], 1, 5)[0])


@pytest.mark.parametrize("frames", [82, 144, 160])
def test_a_longer_clip_is_the_start_of_what_the_published_script_writes(model: Small, frames: int) -> None:
    videos = published(model, ["one"], math.ceil(frames / KEPT), 5)
    script = torch.cat([video[:, :KEPT] for video in videos], 1)
    clip = np.concatenate(made(model, frames))
    assert len(clip) == frames
    assert same(clip, script[:, :frames])
    # Its first rollout alone, going on with a rolling window, would have shown these frames instead.
    assert not same(clip[KEPT:VIDEO], videos[0][:, KEPT:VIDEO])


def test_chunks_come_as_they_are_made(model: Small) -> None:
    # The frames of an overlap come with the first new chunk, of the last chunk of a window those before the overlap.
    assert [len(chunk) for chunk in made(model, 160)] == [9, *[12] * 5, 3, 21, *[12] * 4, 3, 16]


def test_a_switch_waits_for_the_first_chunk_after_the_overlap(model: Small) -> None:
    switch = Switch(70, ("two",))
    assert list(model.switch_frames(Request(("one",), (5,), 144, (switch,)))) == [KEPT + 9]
    videos = published(model, ["one"] * 7 + ["two"] * 6, 2, 5)
    clip = np.concatenate(made(model, 144, switch))
    assert same(clip, torch.cat([video[:, :KEPT] for video in videos], 1))
    plain = np.concatenate(made(model, 144))
    assert np.flatnonzero((clip != plain).any(axis=(1, 2, 3)))[0] == KEPT + 9


def test_without_an_encoder_longer_clips_are_refused() -> None:
    preview = registry.models.create("causvid", {**OPTIONS, "codec": "preview"})
    preview.check_request(Request(("one",), (5,), VIDEO))
    with pytest.raises(OptionError, match="82 frames need more than one window"):
        preview.check_request(Request(("one",), (5,), VIDEO + 1))

"""Work that no pixel depends on: what is left out where nothing but the pixels is kept, and that they stay the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from harness.contracts import Request, Spans, Switch, no_spans, pixels_alone, registry
from videomla_models.spec.published_models import PUBLISHED

TINY = {"weights": "random", "network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}
SMALL = {"weights": "random"}
CODED = {"cache": {"content": "int4", "key": "fp8_e4m3"}}


def loaded(name: str, options: dict[str, Any]) -> Any:
    model = registry.models.create(name, options)
    model.load("cpu")
    return model


def pixels(model: Any, spans: Spans, frames: int, clips: int = 2, **more: Any) -> np.ndarray:
    request = Request(("one", "two")[:clips], (1, 2)[:clips], frames, **more)
    return np.concatenate(list(model.stream(request, spans)), 1)


def assert_same(model: Any, frames: int, clips: int = 2, **more: Any) -> None:
    whole, alone = (pixels(model, spans, frames, clips, **more) for spans in (no_spans, pixels_alone))
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_model_gives_the_same_pixels(name: str) -> None:
    model = loaded(name, TINY)
    assert_same(model, 69, clips=1 if model.window_policy().head_current else 2)


@pytest.mark.parametrize("name", ["longlive", "anchor-forcing", "memflow"])
def test_so_they_do_where_prompts_change(name: str) -> None:
    assert_same(loaded(name, TINY), 69, switches=(Switch(30, ("three", "four")),))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("toy/dense", {}),
        ("toy/dense", {"guidance": 2.0}),
        ("toy/dense", CODED),
        ("toy/videomla", {}),
        ("toy/videomla", CODED),
        ("toy/linear", {}),
    ],
    ids=str,
)
def test_so_do_the_small_ones(name: str, options: dict[str, Any]) -> None:
    assert_same(loaded(name, {**SMALL, **options}), 21)


@contextmanager
def calls(model: Any) -> Iterator[Counter[str]]:
    """Calls of parts of the first block and the last, and of the head, while the context lasts."""
    count: Counter[str] = Counter()
    (network,) = model.networks()
    last = network.blocks[-1]
    parts = {"first": network.blocks[0].ffn, "query": last.self_attn.q, "last": last.ffn, "head": network.head}

    def note(name: str) -> Any:
        return lambda *_: count.update([name])

    handles = [part.register_forward_hook(note(name)) for name, part in parts.items()]
    yield count
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("spans", "passes", "whole"), [(no_spans, 35, 35), (pixels_alone, 34, 28)], ids=["all", "alone"]
)
def test_the_last_clean_pass_is_left_out_and_the_end_of_the_others(spans: Spans, passes: int, whole: int) -> None:
    """Seven chunks of four steps, and a clean pass behind each."""
    model = loaded("toy/dense", SMALL)
    with calls(model) as count, torch.inference_mode():
        pixels(model, spans, 21)
    assert count == {"first": passes, "query": whole, "last": whole, "head": whole}

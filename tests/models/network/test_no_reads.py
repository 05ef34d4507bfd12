"""No pass reads the device, whatever a policy chooses: what is chosen stays an index tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.contracts import Json, Request, registry
from videomla_models.network.cache import StreamCache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.spec.published_models import PUBLISHED

TINY: dict[str, Json] = {
    "network": "tiny",
    "codec": "preview",
    "height": 32,
    "width": 48,
    "dtype": "float32",
    "weights": "random",
}
CHOOSING: dict[str, dict[str, Json]] = {
    "bank by similarity": {"bank": 2, "bank_every": 1, "bank_by": "similarity"},
    "pool": {"bank": 2, "bank_every": 1, "bank_by": "similarity", "bank_pool": 5},
    "latents": {"bank": 2, "bank_every": 1, "bank_by": "latents", "bank_of": "all", "bank_pool": 9, "span": 8},
    "averages": {"frames": 8, "average_rates": [0.5, 0.1]},
}


class NoReads(TorchDispatchMode):
    """Raises where a number of a tensor becomes one of Python's, which waits for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), f"{func} reads the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Passes and what happens before them are watched; the list counts them."""
    calls = [0]
    forward, chunk = VideoTransformer.forward, StreamCache.chunk

    def of_pass(*args: Any, **rest: Any) -> Any:
        calls[0] += 1
        with NoReads():
            return forward(*args, **rest)

    def of_chunk(*args: Any, **rest: Any) -> Any:
        with NoReads():
            return chunk(*args, **rest)

    monkeypatch.setattr(VideoTransformer, "forward", of_pass)
    monkeypatch.setattr(StreamCache, "chunk", of_chunk)
    yield calls


STREAMING = sorted(name for name, preset in PUBLISHED.items() if preset.window.schedule != "rolling")


@pytest.mark.parametrize("name", STREAMING)
def test_no_preset_reads_the_device_in_a_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, {}, monkeypatch)


@pytest.mark.parametrize("policy", CHOOSING.values(), ids=CHOOSING)
def test_no_choice_on_latents_reads_the_device(policy: dict[str, Json], monkeypatch: pytest.MonkeyPatch) -> None:
    run("videomla-1.3b", policy, monkeypatch)


def run(name: str, policy: dict[str, Json], monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.models.create(name, {**TINY, "policy": policy})
    model.load("cpu")
    with watched(monkeypatch) as calls, torch.no_grad():
        for _ in model.stream(Request(("one",), (1,), 69, ())):
            continue
    assert calls[0] > 12


def test_a_read_would_be_seen() -> None:
    with NoReads(), pytest.raises(AssertionError, match="reads the device"):
        torch.ones(1).item()

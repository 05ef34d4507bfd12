"""Compiled passes: equal to uncompiled ones, once for each shape, whatever was compiled before."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from harness.contracts import Json, Request, Switch, enforce, registry
from harness.errors import NotAvailable, OptionError
from harness.probes.timing import flops
from harness.probes.timing.clock import Clock
from harness.probes.timing.repeat import warm_up
from videomla_models.network import compiled

TINY: dict[str, Json] = {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo and autograd as with every backend, but no C++ compiler: those take minutes on a busy machine."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


def load(name: str, **options: Json) -> Any:
    model = registry.models.create(name, {**TINY, **options})
    model.load("cpu")
    return model


def request(batch: int = 1, switch: int = 0) -> Request:
    switches = (Switch(switch, ("another",) * batch),) if switch else ()
    return Request(("one",) * batch, tuple(range(batch)), 21, switches)


def clip(model: Any, asked: Request) -> np.ndarray:
    return np.concatenate(list(model.stream(asked)), 1).astype(int)


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("kind", ["blocks", "graph"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("videomla-1.3b", {"attention": "expanded"}),
        ("videomla-1.3b", {"attention": "absorbed"}),
        ("longlive", {}),
        ("reward-forcing", {}),
    ],
)
def test_compiled_and_uncompiled_agree(name: str, options: dict[str, Json], kind: str) -> None:
    asked = request(2, 8)
    plain, fast = clip(load(name, **options), asked), clip(load(name, compile=kind, **options), asked)
    assert abs(plain - fast).max() <= 1
    assert (plain != fast).mean() < 0.01


@pytest.mark.parametrize("kind", ["blocks", "graph"])
def test_the_agreement_holds_compiled_passes_against_uncompiled_ones(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("videomla-1.3b", compile=kind)
    plain = load("videomla-1.3b").agreement(request())
    agreement = enforce.agreement(model, request())
    assert agreement is not None
    # Two chunks of five passes; the 1st, 2nd, 4th and 8th are held.
    assert agreement.compared == plain.compared + 4
    assert agreement.details["compiled_error"] <= agreement.details["compiled_limit"]
    forward = compiled.VideoTransformer.forward

    def wrong(*arguments: Any) -> torch.Tensor:
        uncompiled = len(arguments) < 7  # without what runs a block
        return forward(*arguments) * (1.001 if uncompiled else 1.0)

    monkeypatch.setattr(compiled.VideoTransformer, "forward", wrong)
    assert model.agreement(request()).error > agreement.limit


@pytest.mark.parametrize("kind", ["blocks", "graph"])
def test_each_shape_is_compiled_once_and_warming_up_waits_for_it(kind: str) -> None:
    model = load("longlive", compile=kind)
    before = graphs()
    warmup = warm_up(Clock(), lambda number: clip(model, request()), quiet=2, most=8)
    assert (warmup.runs, warmup.quiet) == (3, True)
    one = graphs() - before
    assert one >= 1
    first = clip(model, request())
    clip(model, request(2))
    assert graphs() - before == 2 * one
    assert (clip(model, request()) == first).all()
    assert graphs() - before == 2 * one


def test_the_blocks_share_what_is_compiled() -> None:
    before = graphs()
    clip(load("self-forcing", compile="blocks"), request())
    assert graphs() - before == 1


def test_calls_and_flops_are_those_of_the_uncompiled_network() -> None:
    plain, fast = (load("self-forcing", compile=kind) for kind in ("none", "blocks"))
    assert flops.take(fast, request(), fast.describe()) == flops.take(plain, request(), plain.describe())


def test_the_option_is_in_card_and_options_alone_where_it_is_set() -> None:
    plain, fast = (registry.models.create("self-forcing", {**TINY, **more}) for more in ({}, {"compile": "blocks"}))
    assert "compile" not in plain.describe().details
    assert fast.describe().details["compile"] == "blocks"
    assert "compile" not in plain.options.model_dump()
    assert fast.options.model_dump()["compile"] == "blocks"
    assert "compile" not in type(fast).unkeyed
    with pytest.raises(OptionError, match="compile"):
        registry.models.create("self-forcing", {"compile": "fast"})


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotAvailable, match=r"needs a C\+\+ compiler") as caught:
        load("self-forcing", compile="blocks")
    assert caught.value.fix == "install g++"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ on a CPU")
@pytest.mark.parametrize("kind", ["blocks", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_real_compiler_agrees(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    assert enforce.agreement(load("videomla-1.3b", compile=kind, dtype=dtype), request()) is not None

"""A network's attention held against float64 while it works: sound kernels pass, each kind of wrong one is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contracts import Agreement, Request, registry
from harness.errors import ModelFault
from videomla_models.network.attention.agreement import Comparison, hold
from videomla_models.network.attention.dense import CrossAttention, DenseAttention, scaled_dot_product
from videomla_models.network.attention.latent import LatentAttention

PROMPTS = ("a red circle moves slowly to the left", "a blue square stands still")
TINY = {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "weights": "random"}


def loaded(name: str, **options: Any) -> Any:
    model = registry.models.create(name, {**TINY, **options})
    model.load("cpu")
    return model


def agreed(model: Any, frames: int = 41, batch: int = 1) -> Agreement:
    found: Agreement = model.agreement(Request(PROMPTS[:batch], (0, 1)[:batch], frames))
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "form"),
    [("dense-window-1.3b", "auto"), ("videomla-1.3b", "expanded"), ("videomla-1.3b", "absorbed")],
)
def test_every_form_agrees_in_every_dtype(name: str, form: str, dtype: str) -> None:
    found = agreed(loaded(name, dtype=dtype, attention=form), batch=2)
    assert 0 < found.error <= found.limit
    # Two layers; of each the prompt (8 tokens of 3 x 6 queries) and a window that grows to 3 and to 6 latent frames.
    assert found.details["queries_and_keys"] == [[18, 8], [18, 18], [18, 36]]
    # Rounding to a coarser type shows: float32 could not pass for bfloat16, nor be held to its limit.
    assert found.error > {"float32": 0, "bfloat16": 1e-3, "float16": 1e-4}[dtype]


def test_the_rolling_schedule_and_a_switch_are_held_too() -> None:
    assert agreed(loaded("rolling-forcing", dtype="float32"), 81).error <= 1e-5
    model = loaded("longlive", dtype="float32")
    assert agreed(model, 60).details["queries_and_keys"][-1] == [18, 72]


def test_everything_is_as_before_afterwards_even_after_a_fault() -> None:
    model = loaded("videomla-1.3b", dtype="float32")
    modules = list(model.pipeline.network.modules())
    runner = next(m for m in modules if isinstance(m, LatentAttention)).runner
    agreed(model)
    with pytest.raises(RuntimeError), hold([model.pipeline.network], "float32"):
        raise RuntimeError
    assert all(m.runner is runner for m in modules if isinstance(m, LatentAttention))
    assert all(m.attend_window is scaled_dot_product for m in modules if isinstance(m, CrossAttention))


def test_a_model_that_is_not_loaded_is_told() -> None:
    with pytest.raises(ModelFault, match="not loaded"):
        agreed(registry.models.create("videomla-1.3b", TINY))


# Each takes query, key and value as the kernel had them, and what it gave.
def too_sharp(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return scaled_dot_product(1.01 * q, k, v)


def last_key_missed(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return scaled_dot_product(q, k[:, :-1], v[:, :-1])


def nothing_written(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return torch.full_like(out, math.nan)


def one_row_wrong(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return out.index_fill(1, torch.tensor([q.shape[1] - 1]), 0)


def second_clip_wrong(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return torch.cat([out[:1], out[:1]])


Wrong = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def spoil(model: Any, wrong: Wrong, calls: Callable[[int], bool] = lambda call: True) -> None:
    """Have the last layer's kernel give what `wrong` does, in those of its calls that `calls` names."""
    module = [m for m in model.pipeline.network.modules() if isinstance(m, DenseAttention)][-1]
    count = 0

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal count
        count += 1
        out = scaled_dot_product(q, k, v)
        return wrong(q, k, v, out) if calls(count) else out

    module.attend_window = kernel


@pytest.mark.parametrize("wrong", [too_sharp, last_key_missed, one_row_wrong, second_clip_wrong])
def test_a_wrong_kernel_is_told(wrong: Wrong) -> None:
    model = loaded("dense-window-1.3b", dtype="float32")
    assert agreed(model, batch=2).error <= 1e-5
    spoil(model, wrong)
    assert agreed(model, batch=2).error > 1e-4


def test_a_kernel_that_writes_nothing_is_told() -> None:
    held = Comparison("float32")
    exact = torch.ones(1, 2, 3, 4, dtype=torch.float64)
    held.add(torch.full_like(exact, math.nan), exact)
    held.add(exact, exact)
    assert math.isnan(held.error())


def test_a_kernel_that_is_wrong_from_the_second_pass_on_is_told() -> None:
    model = loaded("dense-window-1.3b", dtype="float32")
    spoil(model, last_key_missed, lambda call: call > 1)
    assert agreed(model, frames=1).error > 1e-4


def test_the_error_is_the_one_that_was_put_in() -> None:
    exact = torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = Comparison("float32")
    assert math.isnan(held.error())
    held.add(exact * (1 + 1e-3), exact)
    assert held.error() == pytest.approx(1e-3)
    # One row of fifteen off by a fifth: a quarter of that counts, and more than it weighs in the whole.
    one = exact.clone()
    one[0, 2, 1] *= 1.2
    held.add(one, exact)
    share = 0.2 * exact[0, 2, 1].norm() / exact.norm()
    assert held.error() == pytest.approx(max(0.2 / 4, float(share)))


def test_rows_of_zeros_agree_with_zeros_alone() -> None:
    zeros = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    held = Comparison("bfloat16")
    held.add(zeros, zeros)
    assert held.error() == 0
    held.add(zeros + 1e-9, zeros)
    assert held.error() > 1


def test_calls_are_compared_ever_more_seldom_and_clips_in_turn() -> None:
    held, module = Comparison("float32"), torch.nn.Identity()
    query, keys = torch.zeros(3, 40, 2, 4), torch.zeros(3, 7, 2, 4)
    chosen = [(call, found) for call in range(1, 10) if (found := held.chosen(module, query, keys)) is not None]
    assert [call for call, _ in chosen] == [1, 2, 4, 8]
    assert [found[0].start for _, found in chosen] == [0, 1, 2, 0]
    rows = chosen[0][1][1].tolist()
    assert (len(rows), rows[0], rows[-1]) == (16, 0, 39)
    assert held.chosen(module, query[:, :1], keys) is not None
    assert held.shapes == {(40, 7), (1, 7)}

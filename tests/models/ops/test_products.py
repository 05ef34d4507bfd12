"""Products of layers have the bits of PyTorch's own, whichever library makes them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videomla_models.ops import products
from videomla_models.ops.products import FeedForward, Linear, linear

SIZES = [(48, 192, 192), (384, 192, 576), (17, 50, 24), (96, 64, 400), (3, 192, 192), (40, 8, 1153), (768, 576, 192)]
"""Rows, outputs, channels."""


@pytest.fixture(autouse=True, params=[False, True], ids=["this machine", "wide vectors"])
def other_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape is new; and again as if MKL left vectors unused here, where PyTorch brings another library."""
    monkeypatch.setattr(products, "_equal", {})
    if request.param:
        if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
            pytest.skip("PyTorch brings no other library here")
        monkeypatch.setattr(products, "_wide", lambda: True)


def numbers(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "outputs", "channels"), SIZES)
@pytest.mark.parametrize("biased", [False, True])
def test_every_bit_is_that_of_pytorch(rows: int, outputs: int, channels: int, biased: bool) -> None:
    layer = Linear(channels, outputs, bias=biased).requires_grad_(False)
    with torch.inference_mode():
        for seed in (1, 2, 3):
            x = numbers(2, rows, channels, seed=seed)
            wanted = F.linear(x, layer.weight, layer.bias)
            assert torch.equal(layer(x), wanted)
            assert torch.equal(linear(x, layer.weight, layer.bias), wanted)
            # Rows that do not lie side by side.
            apart = numbers(rows, 2, channels, seed=seed).transpose(0, 1)
            assert torch.equal(layer(apart), F.linear(apart, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("rows", "inputs", "hidden", "outputs"), [(384, 192, 576, 192), (48, 24, 400, 9), (20, 16, 32, 8)]
)
@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
def test_two_layers_at_once_have_the_bits_of_one_after_the_other(
    rows: int, inputs: int, hidden: int, outputs: int, biases: tuple[bool, bool]
) -> None:
    first, second = Linear(inputs, hidden, biases[0]), Linear(hidden, outputs, biases[1])
    both = FeedForward(first, nn.ReLU(), second)
    x = numbers(2, rows, inputs)
    wanted = F.linear(F.linear(x, first.weight, first.bias).relu(), second.weight, second.bias)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        assert torch.equal(both(x), wanted)
    assert torch.equal(torch.random.get_rng_state(), state)
    both(x).sum().backward()
    assert first.weight.grad is not None
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        both(x)
    assert counter.get_total_flops() == 2 * 2 * rows * hidden * (inputs + outputs)


def test_numbers_that_hide_the_order_of_a_sum_do_not_stand_for_others() -> None:
    weight, x = numbers(48, 576), numbers(64, 576, seed=1)
    with torch.inference_mode():
        linear(torch.zeros(64, 576), weight)
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_weights_that_change_count_at_once() -> None:
    layer = Linear(576, 64)
    x = numbers(32, 576)

    def right() -> bool:
        return torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))

    with torch.no_grad():
        assert right()
        layer.weight.data.mul_(1.5)  # as an optimiser may
        assert right()
        layer.requires_grad_(False)
        assert right()
        layer.weight.mul_(1.5)
        assert right()
        layer.load_state_dict({"weight": numbers(64, 576), "bias": numbers(64)})
        assert right()
        layer.load_state_dict({"weight": numbers(64, 576, seed=1), "bias": numbers(64)}, assign=True)
        assert right()
    with torch.inference_mode():
        layer.weight.add_(1)
        assert right()


def test_gradients_counts_and_other_dtypes_are_pytorchs() -> None:
    layer, x = Linear(192, 64), numbers(32, 192)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(64, -1), atol=1e-5)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        layer(x)
        layer(x)
    assert counter.get_total_flops() == 2 * 2 * 32 * 192 * 64
    narrow = Linear(192, 64).to(torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(narrow(x.bfloat16()), F.linear(x.bfloat16(), narrow.weight, narrow.bias))
        assert layer(numbers(0, 192)).shape == (0, 64)

"""VideoMLA's two forms against each other and against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from videomla_models.network.attention.context import AttendWindow
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.ops import reference
from videomla_models.spec.config import LatentSizes

ODD = LatentSizes(d_c=24, d_q=20, d_nope=10, d_rope=6, pairs=(1, 1, 1))


class Fixed:
    """A context that shows given keys, unrotated, whatever the layer writes."""

    def __init__(self, positional: Tensor, content: Tensor) -> None:
        self.positional, self.content = positional, content

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        return attend_window(query, self.positional, self.content)


def layer() -> LatentAttention:
    torch.manual_seed(3)
    return LatentAttention(48, 3, 1e-6, ODD).double().requires_grad_(False)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (63, 101), (7, 1)])
def test_both_forms_are_the_reference(queries: int, keys: int) -> None:
    attention = layer()
    generator = torch.Generator().manual_seed(queries)
    x = torch.randn(2, queries, 48, generator=generator).double()
    r = torch.randn(2, keys, ODD.d_rope, generator=generator).double()
    c = torch.randn(2, keys, ODD.d_c, generator=generator).double()
    q = attention.q_norm(attention.q_down(x))
    expected = attention.o(
        reference.latent_attention(
            attention.q_up(q).view(2, queries, 3, -1),
            attention.q_rope(q).view(2, queries, 3, -1),
            c,
            r,
            attention.k_up.weight.view(3, -1, ODD.d_c),
            attention.v_up.weight.view(3, -1, ODD.d_c),
        ).flatten(2)
    )
    for form in ("expanded", "absorbed"):
        attention.use(form)  # type: ignore[arg-type]
        assert (attention(x, 0, Fixed(r, c)) - expected).abs().max() < 1e-10


def test_absorbed_maps_follow_new_weights() -> None:
    attention = layer()
    attention.use("absorbed")
    before = attention.absorb()[0].clone()
    attention.k_up.weight.mul_(2)
    attention.use("absorbed")
    assert torch.allclose(attention.absorb()[0], 2 * before)


def test_absorbed_maps_of_weights_in_training_are_never_those_of_an_earlier_update() -> None:
    attention = layer()
    attention.use("absorbed")
    before = attention.absorb()[0].clone()
    attention.requires_grad_(True)
    with torch.no_grad():
        attention.k_up.weight.mul_(2)
        assert torch.allclose(attention.absorb()[0], 2 * before)
    assert attention.absorb()[0].requires_grad
    attention.requires_grad_(False)
    assert torch.allclose(attention.absorb()[0], 2 * before)

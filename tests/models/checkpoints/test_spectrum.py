import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import OptionError, WeightsError
from videomla_models.checkpoints.load import open_checkpoint
from videomla_models.checkpoints.spectrum import (
    Gram,
    effective_rank,
    energy,
    key_value_spectrum,
    layer_count,
    product_singular_values,
    recorded,
    singular_values,
)


def test_energy_and_rank_by_hand() -> None:
    singular = torch.tensor([4.0, 2.0, 2.0, 1.0])  # squares 16 4 4 1, sum 25
    assert [energy(singular, width) for width in (0, 1, 2, 3, 4, 9)] == [0.0, 0.64, 0.8, 0.96, 1.0, 1.0]
    assert [effective_rank(singular, share) for share in (0.5, 0.64, 0.65, 0.8, 0.95, 0.96, 0.99, 1.0)] == [
        1, 1, 2, 2, 3, 3, 4, 4,
    ]  # fmt: skip


def test_the_share_of_everything_is_the_rank() -> None:
    assert effective_rank(torch.tensor([3.0, 1e-3, 0.0, 0.0], dtype=torch.float64), 1.0) == 2
    assert effective_rank(torch.zeros(3), 0.9) == 0
    for share in (0.0, 1.5):
        with pytest.raises(OptionError):
            effective_rank(torch.ones(3), share)


def test_squares_that_float64_lacks_have_no_share() -> None:
    for singular in (torch.tensor([1e160, 1.0], dtype=torch.float64), torch.tensor([math.inf, 1.0])):
        with pytest.raises(WeightsError, match="squares"):
            energy(singular, 1)
        with pytest.raises(WeightsError, match="squares"):
            effective_rank(singular, 0.9)


def test_maps_and_activations_without_a_decomposition_are_named(tmp_path: Path) -> None:
    maps = {f"blocks.0.self_attn.{name}.weight": torch.full((4, 4), 1e308, dtype=torch.float64) for name in "kv"}
    maps |= {f"blocks.0.self_attn.{n}_up.weight": torch.full((4, 4), 1e200, dtype=torch.float64) for n in "kv"}
    maps["blocks.0.self_attn.kv_down.weight"] = torch.eye(4, dtype=torch.float64) * 1e200
    save_file(maps, tmp_path / "large.safetensors")
    with pytest.raises(WeightsError, match=r", layer 0: maps or products of them that are not finite"):
        key_value_spectrum(open_checkpoint(tmp_path), 0)
    gram = Gram()
    gram.add(torch.full((2, 3), math.nan))
    with pytest.raises(WeightsError, match="activations: maps or products"):
        gram.singular_values()


def test_a_flat_spectrum_needs_its_share_of_directions() -> None:
    assert [effective_rank(torch.ones(200), share) for share in (0.9, 0.95, 0.99)] == [180, 190, 198]


def test_a_product_is_not_formed_but_has_its_spectrum() -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(31, 5, generator=draw), torch.randn(5, 17, generator=draw)
    whole = torch.linalg.svdvals(left.double() @ right.double())
    found = product_singular_values(left, right)
    assert found.shape == (5,)
    assert torch.allclose(found, whole[:5], atol=1e-10)
    assert whole[5:].max() < 1e-10


def test_a_dense_checkpoint_gives_the_stacked_operator(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    layers = [(torch.randn(6, 6, generator=draw), torch.randn(6, 6, generator=draw)) for _ in range(2)]
    state = {f"blocks.{i}.self_attn.{n}.weight": kv[j] for i, kv in enumerate(layers) for j, n in enumerate("kv")}
    save_file(state, tmp_path / "dense.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert layer_count(checkpoint) == 2
    k, v = layers[1]
    by_eigenvalues = torch.linalg.eigvalsh(k.double().T @ k.double() + v.double().T @ v.double()).flip(0).sqrt()
    assert torch.allclose(key_value_spectrum(checkpoint, 1), by_eigenvalues)


def test_a_latent_checkpoint_gives_the_composed_operator(tmp_path: Path) -> None:
    down = torch.diag(torch.tensor([3.0, 2.0, 1.0]))[:2]
    state = {"kv_down": down, "k_up": torch.eye(2), "v_up": torch.tensor([[0.0, 1.0]])}
    save_file(
        {f"blocks.0.self_attn.{name}.weight": tensor.clone() for name, tensor in state.items()},
        tmp_path / "m.safetensors",
    )
    expected = torch.tensor([3.0, 2 * math.sqrt(2)], dtype=torch.float64)
    assert torch.allclose(key_value_spectrum(open_checkpoint(tmp_path), 0), expected)


def test_missing_blocks_are_refused(tmp_path: Path) -> None:
    save_file({"blocks.1.self_attn.k.weight": torch.ones(2, 2)}, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match=r"\[1\]"):
        layer_count(open_checkpoint(tmp_path))


def test_activations_in_pieces_have_the_spectrum_of_the_whole() -> None:
    whole = torch.randn(50, 7, generator=torch.Generator().manual_seed(2))
    gram = Gram()
    for piece in whole.reshape(5, 2, 5, 7).split(2):
        gram.add(piece)
    assert gram.tokens == 50
    assert torch.allclose(gram.singular_values(), singular_values(whole), atol=1e-6)


def test_outputs_are_recorded_only_inside_the_context() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with recorded(model, ["0"]) as grams:
        model(torch.ones(2, 5, 3))
        model(torch.ones(1, 3))
    model(torch.ones(9, 3))
    assert grams["0"].tokens == 11
    row = model[0](torch.ones(3))
    assert torch.allclose(grams["0"].singular_values()[0], row.norm().double() * math.sqrt(11))
    with pytest.raises(OptionError, match="nothing"), recorded(model, ["nothing"]):
        pass
    with pytest.raises(OptionError, match="no activations"):
        Gram().singular_values()

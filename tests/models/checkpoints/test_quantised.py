"""Float8 checkpoints: every value exact, with the factors of ComfyUI's files; other quantisations refused by name."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wan_states import assert_same, loaded, wan_state

from harness.errors import WeightsError
from videomla_models.checkpoints.load import open_checkpoint

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
NAME = "blocks.0.ffn.0.weight"


def value(bits: int, exponent_bits: int, mantissa_bits: int, bias: int) -> float:
    """A float8 by the arithmetic of its bits (Micikevicius et al. 2022, arXiv 2209.05433)."""
    sign = -1.0 if bits >> 7 else 1.0
    exponent = bits >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = bits & (1 << mantissa_bits) - 1
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)


FINITE = {
    E4M3: {bits: value(bits, 4, 3, 7) for bits in range(256) if bits & 127 != 127},
    E5M2: {bits: value(bits, 5, 2, 15) for bits in range(256) if bits & 127 < 124},
}


@pytest.mark.parametrize("kind", [E4M3, E5M2])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float32])
def test_every_finite_value_is_exact(tmp_path: Path, kind: torch.dtype, suffix: str, dtype: torch.dtype | None) -> None:
    bits = torch.tensor(list(FINITE[kind]), dtype=torch.uint8)
    path = tmp_path / f"model{suffix}"
    state = {NAME: bits.view(kind)[None]}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    tensor = open_checkpoint(path, "any").read(NAME)
    assert tensor.dtype == torch.bfloat16
    assert tensor.to(dtype or torch.float64)[0].tolist() == list(FINITE[kind].values())


@pytest.mark.parametrize(("kind", "bits"), [(E4M3, 127), (E4M3, 255), (E5M2, 124), (E5M2, 125), (E5M2, 252)])
def test_what_is_no_number_is_refused(tmp_path: Path, kind: torch.dtype, bits: int) -> None:
    save_file({NAME: torch.tensor([[0, bits]], dtype=torch.uint8).view(kind)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{NAME} holds NaN or Inf"):
        open_checkpoint(tmp_path, "any").read(NAME)


def scaled(state: dict[str, Tensor], leaf: str, rows: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state in float8 with factors, and the products in float64."""
    stored, exact = dict(state), dict(state)
    for name, tensor in state.items():
        if tensor.ndim == 2 and name.startswith("blocks."):
            top = tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()
            factor = top / 448
            stored[name] = (tensor / factor).to(E4M3)
            stored[name.removesuffix("weight") + leaf] = factor
            exact[name] = (stored[name].double() * factor.double()).float()
    return stored, exact


@pytest.mark.parametrize("leaf", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("rows", [False, True])
def test_factors_are_multiplied_in(tmp_path: Path, leaf: str, prefix: str, rows: bool) -> None:
    stored, exact = scaled(wan_state(), leaf, rows)
    helpers = {"scaled_fp8": torch.zeros(2, dtype=E4M3), "blocks.0.ffn.0.scale_input": torch.ones(1)}
    if leaf == "weight_scale":
        mark = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
        helpers = {"blocks.0.ffn.0.comfy_quant": mark, "blocks.0.ffn.0.input_scale": torch.ones(())}
    save_file({prefix + name: tensor for name, tensor in (stored | helpers).items()}, tmp_path / "m.safetensors")
    assert_same(loaded(tmp_path, wan_state()), exact)


def test_a_lora_is_merged_into_float8(tmp_path: Path) -> None:
    stored, exact = scaled(wan_state(), "scale_weight")
    save_file(stored, tmp_path / "base.safetensors")
    down, up = torch.ones(2, 8), torch.full((12, 2), 0.5)
    pair = {"blocks.0.ffn.0.lora_A.weight": down.to(E5M2), "blocks.0.ffn.0.lora_B.weight": up.to(E5M2)}
    save_file(pair, tmp_path / "lora.safetensors")
    found = loaded(tmp_path / "base.safetensors", wan_state(), lora=tmp_path / "lora.safetensors")
    assert torch.allclose(found.pop(NAME), exact.pop(NAME) + 1.0, atol=1e-6)
    assert_same(found, exact)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"blocks.0.ffn.0.weight_scale_2": torch.ones(())}, "quantised as NVFP4"),
        ({"blocks.0.ffn.0.weight_scale_inv": torch.ones(1, 1)}, "quantised as float8 in blocks"),
        ({"blocks.0.ffn.0.qweight": torch.ones(2, 2, dtype=torch.int32)}, "GPTQ"),
        ({"blocks.0.ffn.0.weight.absmax": torch.ones(2)}, "bitsandbytes"),
        ({"blocks.0.ffn.0.scale_weight": torch.ones(())}, "has a scale, but is float32"),
        ({NAME: torch.ones(12, 8).to(E4M3), "blocks.0.ffn.0.scale_weight": torch.ones(3, 2)}, "is 3x2 for 12x8"),
        ({NAME: torch.ones(12, 8).to(E4M3), "blocks.0.ffn.0.scale_weight": torch.ones(8)}, "is 8 for 12x8"),
        ({NAME: torch.ones(12, 8).to(E4M3), "blocks.0.ffn.0.scale_weight": torch.tensor(math.nan)}, "NaN or Inf"),
        ({NAME: torch.ones(12, 8, dtype=torch.int8), "blocks.0.ffn.0.weight_scale": torch.ones(())}, "but is int8"),
        ({NAME: torch.ones(12, 8, dtype=torch.int8)}, rf"{NAME} is int8"),
        ({"blocks.0.ffn.0.comfy_quant": torch.tensor([123, 125], dtype=torch.uint8)}, "quantised as None"),
        ({"blocks.0.ffn.0.comfy_quant": torch.tensor([91] * 4000, dtype=torch.uint8)}, "no JSON object"),
        ({"blocks.0.ffn.0.comfy_quant": torch.zeros(1 << 13, dtype=torch.uint8)}, "no description"),
        (
            {"blocks.0.ffn.0.comfy_quant": torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)},
            "quantised as int8_tensorwise",
        ),
    ],
)
def test_other_quantisations_are_refused_by_name(tmp_path: Path, extra: dict[str, Tensor], message: str) -> None:
    save_file(wan_state() | extra, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        loaded(tmp_path, wan_state())
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format_version": "1.0", "layers": {"blocks.0.ffn.0": {"format": "nvfp4"}}}, "quantised as nvfp4"),
        ({"layers": {"blocks.0.ffn.0": {"format": "float8_e4m3fn"}}}, ""),
    ],
)
def test_the_header_may_name_the_format(tmp_path: Path, header: object, message: str) -> None:
    save_file(wan_state(), tmp_path / "model.safetensors", {"_quantization_metadata": json.dumps(header)})
    if message:
        with pytest.raises(WeightsError, match=message):
            open_checkpoint(tmp_path)
    else:
        assert_same(loaded(tmp_path, wan_state()), wan_state())


def test_one_tensor_under_two_names_with_two_values_is_refused(tmp_path: Path) -> None:
    from torch import nn

    from videomla_models.checkpoints.load import load_into

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight

    path = tmp_path / "model.safetensors"
    save_file({"first.weight": torch.ones(2, 2), "second.weight": torch.ones(2, 2)}, path)
    load_into(Tied(), open_checkpoint(path, "any"))
    save_file({"first.weight": torch.ones(2, 2), "second.weight": torch.eye(2)}, path)
    with pytest.raises(WeightsError, match=r"first\.weight and second\.weight are one tensor of the model, and differ"):
        load_into(Tied(), open_checkpoint(path, "any"))

"""Prefixes of whole checkpoints, and averaged against raw weights, under the names that trainers give them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wan_states import assert_same, diffusers_name, loaded, wan_state

from harness.errors import WeightsError
from videomla_models.checkpoints.load import open_checkpoint

RAW, MEAN = wan_state(seed=1), wan_state(seed=2)


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "model.diffusion_model.", "diffusion_model.", "transformer.", "dit.", "generator.model.", "pipe.dit.",
        "module.model.", "generator._fsdp_wrapped_module.model.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("diffusers", [False, True])
def test_a_prefix_is_taken_off_and_other_parts_are_left_alone(tmp_path: Path, prefix: str, diffusers: bool) -> None:
    state = {diffusers_name(name): tensor for name, tensor in RAW.items()} if diffusers else RAW
    path = tmp_path / "model.safetensors"
    save_file(under(prefix, state), path)
    assert_same(loaded(path, RAW), RAW)
    others = {"vae.decoder.conv1.weight": torch.ones(2), "text_encoders.umt5xxl.shared.weight": torch.ones(2)}
    save_file(under(prefix, state) | others | under("critic.model.", MEAN), path)
    assert_same(loaded(path, RAW), RAW)


def test_several_networks_in_one_file_are_not_chosen_from(tmp_path: Path) -> None:
    save_file(under("first.", RAW) | under("second.", MEAN), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="holds several networks: first, second"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("generator", "generator_ema"), ("model", "ema"), ("model", "model_ema"), ("state_dict", "ema_state_dict"),
        ("state_dict", "state_dict_ema"), ("net", "net_ema"), ("module", "EMA"), ("params", "params_ema"),
        ("model", "model-ema-0.999"),
    ],
)  # fmt: skip
def test_averages_are_taken_where_they_are_asked_for(tmp_path: Path, raw: str, averaged: str) -> None:
    path = tmp_path / "model.pt"
    torch.save({raw: RAW, averaged: MEAN, "critic": {"x": 1}, "optimizer_ema": {"x": 1}, "step": 3}, path)
    assert_same(loaded(path, RAW, ema=True), MEAN)
    assert_same(loaded(path, RAW, ema=False), RAW)
    assert open_checkpoint(path, ema=True).part == averaged
    if raw == "generator":
        assert_same(loaded(path, RAW), MEAN)
    else:
        with pytest.raises(WeightsError, match=rf"averaged weights \({averaged}\) and raw ones \({raw}\)"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("generator.model.", "generator_ema.model."), ("model.", "ema."), ("", "ema_model."), ("model.", "model_ema.")],
)
@pytest.mark.parametrize("nested", [False, True])
def test_averages_under_a_prefix_of_their_names(tmp_path: Path, raw: str, averaged: str, nested: bool) -> None:
    path = tmp_path / "model.pt"
    both = under(raw, RAW) | under(averaged, MEAN)
    torch.save({"state_dict": both, "step": 3} if nested else both, path)
    assert_same(loaded(path, RAW, ema=True), MEAN)
    assert_same(loaded(path, RAW, ema=False), RAW)
    if raw.startswith("generator"):
        assert_same(loaded(path, RAW), MEAN)
    else:
        with pytest.raises(WeightsError, match="set ema to true or false"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [{"model": RAW, "optimizer": {"x": 1}}, RAW, {"generator": RAW, "critic_ema": RAW}, {"state_dict": RAW}],
)
def test_raw_weights_are_no_average(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="has no averaged weights"):
        open_checkpoint(tmp_path, ema=True)
    assert_same(loaded(tmp_path, RAW), RAW)
    assert_same(loaded(tmp_path, RAW, ema=False), RAW)
    (tmp_path / "model.pt").unlink()
    save_file(RAW, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="has no averaged weights"):
        open_checkpoint(tmp_path, ema=True)


def test_a_file_may_say_that_it_is_an_average(tmp_path: Path) -> None:
    save_file(MEAN, tmp_path / "model_ema.safetensors")
    assert_same(loaded(tmp_path, MEAN, ema=True), MEAN)


def test_an_average_alone(tmp_path: Path) -> None:
    torch.save({"ema": {"state_dict": MEAN}, "step": 1}, tmp_path / "model.pt")
    assert_same(loaded(tmp_path, MEAN), MEAN)
    assert_same(loaded(tmp_path, MEAN, ema=True), MEAN)
    assert open_checkpoint(tmp_path).part == "ema.state_dict"
    with pytest.raises(WeightsError, match="averaged weights alone"):
        open_checkpoint(tmp_path, ema=False)


def test_averages_whose_names_cannot_be_read_are_told(tmp_path: Path) -> None:
    flattened = {"model_ema." + name.replace(".", ""): tensor for name, tensor in MEAN.items()}
    path = tmp_path / "last.safetensors"
    save_file(under("model.diffusion_model.", RAW) | flattened, path)
    with pytest.raises(WeightsError, match=r"averaged weights \(model_ema\) and raw ones"):
        open_checkpoint(path)
    with pytest.raises(WeightsError, match="has no averaged weights"):
        open_checkpoint(path, ema=True)
    assert_same(loaded(path, RAW, ema=False), RAW)


def test_dictionaries_within_themselves_end(tmp_path: Path) -> None:
    content: dict[str, Any] = {"step": 1}
    content["model"] = content
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="no tensors"):
        open_checkpoint(tmp_path)

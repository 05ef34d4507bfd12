import json
import os
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wan_states import DIM, FFN, assert_same, diffusers_name, loaded, module_for, wan_state

from harness.errors import WeightsError
from videomla_models.checkpoints.load import load_into, open_checkpoint


def fsdp(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as Self-Forcing's trainer saves them."""
    return {
        f"model._fsdp_wrapped_module.{name}".replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): tensor
        for name, tensor in state.items()
    }


def shard(state: dict[str, Tensor], folder: Path, count: int = 3) -> Path:
    names = list(state)
    table = {}
    for i in range(count):
        part = f"diffusion_pytorch_model-{i + 1:05}-of-{count:05}.safetensors"
        save_file({name: state[name] for name in names[i::count]}, folder / part)
        table |= dict.fromkeys(names[i::count], part)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


def test_original_names_from_one_file(tmp_path: Path) -> None:
    state = wan_state()
    save_file(state, tmp_path / "model.safetensors")
    assert_same(loaded(tmp_path / "model.safetensors", state), state)
    assert_same(loaded(tmp_path, state), state)
    torch.save(state, tmp_path / "plain.pth")
    assert_same(loaded(tmp_path / "plain.pth", state), state)


def test_a_pickle_older_than_archives(tmp_path: Path) -> None:
    state = wan_state()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(loaded(tmp_path / "old.pt", state), state)


def test_diffusers_names_sharded(tmp_path: Path) -> None:
    state = wan_state()
    folder = tmp_path / "transformer"
    folder.mkdir()
    shard({diffusers_name(name): tensor for name, tensor in state.items()}, folder)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == "diffusers"
    assert_same(loaded(tmp_path, state), state)
    assert sorted(checkpoint.digests()) == sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(("ema", "seed"), [(None, 2), (True, 2), (False, 1)])
def test_self_forcing_parts(tmp_path: Path, ema: bool | None, seed: int) -> None:
    parts = {"generator": fsdp(wan_state(seed=1)), "generator_ema": fsdp(wan_state(seed=2)), "critic": {"x": 3}}
    torch.save(parts, tmp_path / "model.pt")
    assert_same(loaded(tmp_path / "model.pt", wan_state(), ema=ema), wan_state(seed=seed))


def test_the_part_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    torch.save({"generator": fsdp(wan_state()), "critic": {}}, tmp_path / "model.pt")
    assert open_checkpoint(tmp_path / "model.pt").part == "generator"
    with pytest.raises(WeightsError, match="generator_ema"):
        open_checkpoint(tmp_path / "model.pt", ema=True)
    torch.save({"critic": wan_state()}, tmp_path / "critic.pt")
    with pytest.raises(WeightsError, match="critic"):
        open_checkpoint(tmp_path / "critic.pt")


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6.0, 2.0)])
def test_lora_is_merged(tmp_path: Path, alpha: float | None, scale: float) -> None:
    state = wan_state()
    rank, target = 3, "blocks.1.self_attn.k"
    draw = torch.Generator().manual_seed(5)
    down, up = torch.randn(rank, DIM, generator=draw), torch.randn(DIM, rank, generator=draw)
    torch.save({"generator": fsdp(state)}, tmp_path / "longlive_base.pt")
    lora = {f"base_model.model.{target}.lora_A.weight": down, f"base_model.model.{target}.lora_B.weight": up}
    torch.save({"generator_lora": lora}, tmp_path / "lora.pt")
    found = loaded(tmp_path / "longlive_base.pt", state, lora=tmp_path / "lora.pt", lora_alpha=alpha)
    expected = state[f"{target}.weight"].double() + scale * up.double() @ down.double()
    assert torch.allclose(found.pop(f"{target}.weight").double(), expected, atol=1e-5)
    assert_same(found, {name: tensor for name, tensor in state.items() if name != f"{target}.weight"})


def test_digests_of_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save_file(wan_state(), tmp_path / "a" / "model.safetensors")
    pair = {"lora_A.weight": torch.ones(2, DIM), "lora_B.weight": torch.ones(DIM, 2)}
    save_file({f"blocks.0.self_attn.q.{leaf}": t for leaf, t in pair.items()}, tmp_path / "b" / "model.safetensors")
    digests = open_checkpoint(tmp_path / "a", lora=tmp_path / "b").digests()
    assert sorted(digests) == ["lora/model.safetensors", "model.safetensors"]


def test_a_lora_for_another_model_is_refused(tmp_path: Path) -> None:
    save_file(wan_state(), tmp_path / "base.safetensors")
    wrong = {"blocks.9.self_attn.k.lora_A.weight": torch.ones(2, DIM), "blocks.0.ffn.0.lora_A.weight": torch.ones(2, 3)}
    save_file(wrong, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match=r"blocks\.9\.self_attn\.k") as caught:
        open_checkpoint(tmp_path / "base.safetensors", lora=tmp_path / "lora.safetensors")
    assert "blocks.0.ffn.0" in str(caught.value)


def test_dtype_and_gradient_flag(tmp_path: Path) -> None:
    state = wan_state()
    save_file(state, tmp_path / "model.safetensors")
    module = module_for(state).requires_grad_(False)
    load_into(module, open_checkpoint(tmp_path), torch.bfloat16)
    for name, parameter in module.named_parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, state[name].bfloat16())


def test_every_disagreement_is_listed_at_once(tmp_path: Path) -> None:
    state = wan_state(layers=3)
    save_file({**state, "img_emb.proj": torch.ones(2)}, tmp_path / "model.safetensors")
    wanted = wan_state(layers=3) | {"blocks.0.ffn.0.bias": torch.ones(7), "extra.scale": torch.ones(1)}
    with pytest.raises(WeightsError) as caught:
        loaded(tmp_path, wanted)
    message = str(caught.value)
    assert "1 missing: extra.scale" in message
    assert "1 unexpected: img_emb.proj" in message
    assert f"blocks.0.ffn.0.bias {FFN} instead of 7" in message


def test_another_width_names_ten_and_counts_the_rest(tmp_path: Path) -> None:
    save_file(wan_state(dim=2 * DIM), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        loaded(tmp_path, wan_state())
    count = len(wan_state()) - 3  # the biases of head.head and of the two ffn.0 have no width
    assert f"{count} misshapen: " in str(caught.value)
    assert f"{count - 10} more" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state = wan_state()
    state["blocks.1.ffn.2.weight"][3, 4] = value
    torch.save({"generator_ema": state}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"blocks\.1\.ffn\.2\.weight holds NaN or Inf"):
        loaded(tmp_path, wan_state())


class Payload:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"generator": wan_state(), "hook": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(WeightsError, match=f"{name} is refused: loading it would run code"):
            open_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "old.pt"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_give_one_line(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    if name == "model.safetensors":
        save_file(wan_state(), path)
    else:
        torch.save(wan_state(), path, _use_new_zipfile_serialization=name == "model.pt")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(WeightsError, match=name) as caught:
        loaded(path, wan_state())
    assert "\n" not in caught.value.message


def test_shards_must_be_there_and_hold_what_the_index_says(tmp_path: Path) -> None:
    index = shard(wan_state(), tmp_path)
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.rename(tmp_path / "away")
    with pytest.raises(WeightsError, match=f"1 of 3 shards are missing: {first.name}"):
        open_checkpoint(tmp_path)
    (tmp_path / "away").rename(first)
    table = json.loads(index.read_text())
    table["weight_map"]["blocks.7.modulation"] = first.name
    index.write_text(json.dumps(table))
    with pytest.raises(WeightsError, match=r"blocks\.7\.modulation"):
        open_checkpoint(tmp_path)


def test_unknown_layouts_and_kinds_are_refused(tmp_path: Path) -> None:
    save_file({"transformer.h.0.attn.weight": torch.ones(2, 2)}, tmp_path / "gpt.safetensors")
    with pytest.raises(WeightsError, match=r"unknown layout.*transformer\.h\.0"):
        open_checkpoint(tmp_path / "gpt.safetensors")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        open_checkpoint(tmp_path / "list.pt")
    torch.save({"blocks.0.self_attn.q.weight": torch.ones(1), "step": 4}, tmp_path / "mixed.pt")
    with pytest.raises(WeightsError, match=r"1 entries are no tensors: step"):
        open_checkpoint(tmp_path / "mixed.pt")
    both = {"model.blocks.0.self_attn.q.weight": torch.ones(1), "blocks.0.self_attn.q.weight": torch.zeros(1)}
    save_file(both, tmp_path / "twice.safetensors")
    with pytest.raises(WeightsError, match="are both"):
        open_checkpoint(tmp_path / "twice.safetensors")


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_loading_keeps_no_more_than_one_shard_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    state = wan_state(layers=6)
    if kind == "pickle":
        torch.save({"generator": state}, tmp_path / "model.pt")
    else:
        shard(state, tmp_path, 4)
    checkpoint, module = open_checkpoint(tmp_path), module_for(state)
    given: list[weakref.ref[Tensor]] = []
    peak = 0

    def read(name: str, original: Callable[[str], Tensor] = checkpoint.read) -> Tensor:
        nonlocal peak
        given.append(weakref.ref(tensor := original(name)))
        alive = [found for ref in given if (found := ref()) is not None]
        peak = max(peak, sum(found.nbytes for found in alive))
        return tensor

    monkeypatch.setattr(checkpoint, "read", read)
    load_into(module, checkpoint)
    sizes = [tensor.nbytes for tensor in state.values()]
    assert len(given) == len(state)
    assert max(sizes) <= peak <= 2 * max(sizes) < sum(sizes) / 4
    assert_same({name: tensor.detach() for name, tensor in module.state_dict().items()}, state)


def test_the_model_does_not_lean_on_the_file(tmp_path: Path) -> None:
    state = wan_state()
    torch.save(state, tmp_path / "model.pt")
    module = module_for(state)
    load_into(module, open_checkpoint(tmp_path))
    with (tmp_path / "model.pt").open("r+b") as file:
        file.write(bytes((tmp_path / "model.pt").stat().st_size))
    assert_same({name: tensor.detach() for name, tensor in module.state_dict().items()}, state)

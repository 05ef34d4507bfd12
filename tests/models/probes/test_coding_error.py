"""Errors of attention on encoded caches against softmax written out in numpy, and on latents from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.contracts import Request, registry
from harness.errors import OptionError, WeightsError
from videomla_models.adapters.transformer_model import StreamingModel
from videomla_models.checkpoints.latents import read_latents
from videomla_models.network.attention.dense import DenseAttention
from videomla_models.network.storage import decode, encode
from videomla_models.probes.coding_error import QUERIES, CodingErrors, attention_errors
from videomla_models.spec.storage import Code, Storage

TINY = {"dtype": "float32", "weights": "random", "network": "tiny", "height": 32, "width": 48, "codec": "preview"}


def loaded(name: str, **options: Any) -> StreamingModel:
    model = registry.models.create(name, {**({} if name.startswith("toy/") else TINY), **options})
    assert isinstance(model, StreamingModel)
    model.load("cpu")
    return model


def errors(model: StreamingModel, storage: Storage, frames: int, latents: Tensor | None = None) -> CodingErrors:
    request = Request(("a",), (0,), frames)
    assert model.pipeline is not None
    return attention_errors(model.pipeline, request, model.timeline(request), storage, latents)


def softmax_attention(query: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One head: [rows, d], [keys, d], [keys, d]."""
    scores = query @ keys.T / query.shape[1] ** 0.5
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)) @ values


def test_errors_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-Forcing keeps keys as they are turned when written, so that what attention reads is what was encoded."""
    model, code = loaded("self-forcing"), Code("int4", "token")
    found = errors(model, Storage(code, code), 21)
    assert model.pipeline is not None
    attention = model.pipeline.network.blocks[1].self_attn
    assert isinstance(attention, DenseAttention)
    windows: list[tuple[np.ndarray, ...]] = []
    usual = attention.attend_window

    def noting(*window: Tensor) -> Tensor:
        windows.append(tuple(t[0].double().numpy() for t in window))
        return usual(*window)

    monkeypatch.setattr(attention, "attend_window", noting)
    for _ in model.stream(Request(("a",), (0,), 21)):
        pass
    own, tokens, squares = 3 * 6, 6, np.zeros((2, 2))
    for query, keys, values in windows[5:10]:
        coded = []
        for entries in (keys, values):
            past = torch.from_numpy(entries[:-own]).unflatten(0, (-1, tokens)).unsqueeze(0).float()
            coded.append(np.concatenate([decode(encode(past, code), code)[0].flatten(0, 1).numpy(), entries[-own:]]))
        rows = np.round(np.linspace(0, len(query) - 1, QUERIES)).astype(int)
        for head in range(2):
            exact = softmax_attention(query[rows, head], keys[:, head], values[:, head])
            other = softmax_attention(query[rows, head], coded[0][:, head], coded[1][:, head])
            squares[:, head] += np.square(other - exact).sum(), np.square(exact).sum()
    np.testing.assert_allclose(found.by_chunk[1, 1].numpy(), np.sqrt(squares[0] / squares[1]), rtol=1e-5)
    assert found.by_chunk.shape == (2, 2, 2)
    # The first chunk sees nothing but itself, which stands exact.
    assert not bool(found.by_chunk[0].any())


@pytest.mark.parametrize("name", ["longlive", "reward-forcing", "dense-window-1.3b"])
def test_a_code_that_loses_nothing_has_no_error(name: str) -> None:
    model, code = loaded(name, dtype="bfloat16"), Code("bf16")
    found = errors(model, Storage(code, code, sink=model.window_policy().sink), 61)
    assert not bool(found.overall.any())
    assert found.bits == 16


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_more_bits_have_less_error_and_the_model_goes_its_exact_way(form: str) -> None:
    model = loaded("toy/videomla", attention=form)
    request = Request(("a",), (0,), 15)
    before = np.concatenate(list(model.stream(request)), 1)
    means = []
    for kind in ("int8", "int4", "int2"):
        code: Any = Code(kind)
        found = errors(model, Storage(code, code), 15)
        assert bool(torch.isfinite(found.by_chunk).all())
        means.append(float(found.overall.mean()))
    assert 0 < means[0] < means[1] < means[2] < 2
    assert np.array_equal(np.concatenate(list(model.stream(request)), 1), before)


def test_what_is_not_compared_is_refused() -> None:
    code = Code("int8")
    with pytest.raises(OptionError, match="rolling"):
        errors(loaded("rolling-forcing"), Storage(code, code), 85)


def test_latents_from_a_file_stand_in_the_cache(tmp_path: Path) -> None:
    latents = torch.randn(1, 16, 7, 4, 6, generator=torch.Generator().manual_seed(0))
    save_file({"latents": latents.bfloat16()}, tmp_path / "l.safetensors")
    torch.save(latents.bfloat16(), tmp_path / "l.pt")
    read = read_latents(tmp_path / "l.safetensors")
    assert torch.equal(read, read_latents(tmp_path / "l.pt"))
    assert torch.equal(read, latents.bfloat16().float().transpose(1, 2))
    model, code = loaded("dense-window-1.3b"), Code("int4")
    found = errors(model, Storage(code, code), 1, read)
    # Seven frames are two chunks of three.
    assert found.by_chunk.shape == (2, 2, 2)
    other = errors(model, Storage(code, code), 1, 3 * read)
    assert not torch.equal(found.overall, other.overall)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 4, 6, 4, 6), "16 channels"), ((1, 16, 2, 4, 6), "at least 3"), ((1, 16, 6, 5, 6), "divide")],
)
def test_latents_that_do_not_fit_the_model_are_refused(shape: tuple[int, ...], said: str) -> None:
    model, code = loaded("dense-window-1.3b"), Code("int4")
    with pytest.raises(OptionError) as caught:
        errors(model, Storage(code, code), 1, torch.zeros(shape).transpose(1, 2))
    assert said in f"{caught.value.message} {caught.value.fix}"


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(16, 4, 5, 6),
        torch.zeros(1, 16, 3, 4, 6, dtype=torch.int32),
        torch.zeros(1, 16, 0, 4, 6),
        torch.full((1, 16, 3, 4, 6), float("nan")),
        {"a": torch.zeros(1, 16, 3, 4, 6), "b": torch.zeros(1)},
        {"a": 3},
        [1, 2],
        "text",
    ],
)
def test_other_files_are_refused_in_one_line(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "l.pt")
    with pytest.raises(WeightsError) as caught:
        read_latents(tmp_path / "l.pt")
    assert "l.pt" in caught.value.message
    assert "\n" not in caught.value.message + caught.value.fix


def test_a_pickle_with_code_a_torn_file_and_none_are_refused(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    save_file({"latents": torch.zeros(1, 16, 3, 4, 6)}, tmp_path / "l.safetensors")
    whole = (tmp_path / "l.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(whole[:-9])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "l.npy").write_bytes(b"x")
    for name in ("code.pt", "torn.safetensors", "empty.pt", "l.npy", "none.pt", "."):
        with pytest.raises(WeightsError):
            read_latents(tmp_path / name)

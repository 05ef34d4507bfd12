import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import WeightsError
from videomla_models.rollout.text_encoder import TextEncoder, clean

transformers = pytest.importorskip("transformers", exc_type=ImportError)
ftfy = pytest.importorskip("ftfy")
TOKENS = 12
WORDS = ["a", "red", "circle", "moves", "left", "on", "navy", "&", "background"]
PROMPTS = ["a red circle moves left", "a circle", "", " ".join(WORDS * 3)]


def make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def make_encoder(words: int = 16) -> transformers.UMT5EncoderModel:  # type: ignore[name-defined]
    torch.manual_seed(0)
    config = transformers.UMT5Config(
        vocab_size=words, d_model=24, d_kv=6, d_ff=20, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )
    model = transformers.UMT5EncoderModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    make_tokenizer(tmp_path / "pipeline" / "tokenizer")
    make_encoder().save_pretrained(tmp_path / "pipeline" / "text_encoder")
    return tmp_path / "pipeline"


def direct(folder: Path) -> Tensor:
    """Embeddings as transformers gives them, padding zeroed."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    fed = tokenizer(PROMPTS, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = make_encoder()(**{k: fed[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    assert fed.attention_mask.sum(1).tolist() == [6, 3, 1, TOKENS]
    return hidden * fed.attention_mask[..., None]


def test_embeddings_are_those_of_transformers(pipeline: Path) -> None:
    encoder = TextEncoder(pipeline, tokens=TOKENS, dtype=torch.float32)
    found = encoder(PROMPTS)
    assert found.shape == (4, TOKENS, 24)
    assert torch.allclose(found, direct(pipeline), atol=1e-5, rtol=0.0)
    assert not found[1, 3:].any()


def test_a_known_prompt_needs_no_encoder(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TextEncoder(pipeline, tokens=TOKENS)(PROMPTS[:2])
    monkeypatch.setattr("videomla_models.rollout.text_encoder.load_umt5", None)
    again = TextEncoder(pipeline, tokens=TOKENS)(["a  red circle\nmoves left ", "a circle"])
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, again)
    with pytest.raises(TypeError):
        TextEncoder(pipeline, tokens=TOKENS)(["navy"])


def test_what_could_change_an_embedding_changes_its_place(pipeline: Path) -> None:
    TextEncoder(pipeline, tokens=TOKENS)(["a"])
    TextEncoder(pipeline, tokens=TOKENS + 1)(["a"])
    TextEncoder(pipeline, tokens=TOKENS, dtype=torch.float32)(["a"])
    model = make_encoder()
    model.shared.weight.data += 1
    model.save_pretrained(pipeline / "text_encoder")
    TextEncoder(pipeline, tokens=TOKENS)(["a"])
    TextEncoder(pipeline, tokens=TOKENS)(["a"])
    assert len(list((pipeline.parent / "cache" / "text").iterdir())) == 4


def test_a_damaged_cache_is_made_again(pipeline: Path) -> None:
    first = TextEncoder(pipeline, tokens=TOKENS)(["a"])
    (path,) = (pipeline.parent / "cache" / "text").iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(TextEncoder(pipeline, tokens=TOKENS)(["a"]), first)


def wan_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of Wan2.1's `t5.py`, written from its modules."""
    renamed = {}
    for name, tensor in state.items():
        if name == "encoder.embed_tokens.weight":
            continue
        for theirs, ours in (
            ("shared", "token_embedding"),
            ("encoder.final_layer_norm", "norm"),
            ("encoder.block", "blocks"),
            ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
            ("layer.0.SelfAttention", "attn"),
            ("layer.0.layer_norm", "norm1"),
            ("layer.1.layer_norm", "norm2"),
            ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
            ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
            ("layer.1.DenseReluDense.wo", "ffn.fc2"),
        ):
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed


def test_the_original_file_gives_the_same_embeddings(pipeline: Path, tmp_path: Path) -> None:
    original = tmp_path / "Wan2.1-T2V-1.3B"
    make_tokenizer(original / "google" / "umt5-xxl")
    torch.save(wan_names(make_encoder().state_dict()), original / "models_t5_umt5-xxl-enc-bf16.pth")
    found = TextEncoder(original, tokens=TOKENS, dtype=torch.float32)(PROMPTS)
    assert torch.allclose(found, direct(pipeline), atol=1e-5, rtol=0.0)


def pieces() -> bytes:
    """A SentencePiece model of a few words, with T5's ids of padding, end and unknown."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 4), model_writer=model, vocab_size=30, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def packed(prefix: str = "", leaf: str = "scale_weight") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An encoder as ComfyUI packs it, its maps in float8, and the weights that this stands for."""
    exact = {name: t for name, t in make_encoder(64).state_dict().items() if name != "encoder.embed_tokens.weight"}
    stored = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in exact.items():
        stored[name] = tensor.clone()
        if tensor.ndim == 2 and name.startswith("encoder.block") and "bias" not in name:
            factor = tensor.abs().max() / 448
            stored[name] = (tensor / factor).to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + leaf] = factor
            exact[name] = (stored[name].double() * factor.double()).float()
    stored["spiece_model"] = torch.frombuffer(bytearray(pieces()), dtype=torch.uint8)
    return {prefix + name: tensor for name, tensor in stored.items()}, exact


@pytest.mark.parametrize("prefix", ["", "text_encoders.umt5xxl.transformer."])
@pytest.mark.parametrize("leaf", ["scale_weight", "weight_scale"])
def test_comfyui_s_file_gives_what_its_weights_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, leaf: str
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    stored, exact = packed(prefix, leaf)
    path = tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    save_file(stored | ({"vae.decoder.conv1.weight": torch.ones(1)} if prefix else {}), path)
    found = TextEncoder(path, tokens=TOKENS, dtype=torch.float32)(PROMPTS)
    model = make_encoder(64)
    model.load_state_dict(exact, strict=False)
    reader = sentencepiece.SentencePieceProcessor()
    reader.LoadFromSerializedProto(pieces())
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([[*reader.Encode(prompt)[: TOKENS - 1], 1]])
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state[0]
        assert torch.allclose(found[row, : ids.shape[1]], expected, atol=1e-5, rtol=0.0)
        assert not found[row, ids.shape[1] :].any()


def test_comfyui_s_file_without_a_tokenizer_or_with_half_of_one_is_refused(tmp_path: Path) -> None:
    stored, _ = packed()
    path = tmp_path / "umt5.safetensors"
    save_file(stored | {"spiece_model": stored["spiece_model"][:50].clone()}, path)
    with pytest.raises(WeightsError, match="spiece_model is no SentencePiece model"):
        TextEncoder(path, tokens=TOKENS, cache=tmp_path / "cache")(["a"])
    del stored["spiece_model"]
    save_file(stored, path)
    with pytest.raises(WeightsError, match="no tokenizer"):
        TextEncoder(path, tokens=TOKENS)


@pytest.mark.parametrize("layout", ["transformers", "wan"])
def test_two_embeddings_that_differ_are_refused(pipeline: Path, tmp_path: Path, layout: str) -> None:
    state = {name: tensor.clone() for name, tensor in make_encoder().state_dict().items()}
    embedding = state["shared.weight"]
    if layout == "transformers":
        path = pipeline / "text_encoder" / "model.safetensors"
        second, state = "encoder.embed_tokens.weight", state
    else:
        path = tmp_path / "wan" / "models_t5_umt5-xxl-enc-bf16.safetensors"
        make_tokenizer(path.parent)
        second, state = "shared.weight", wan_names(state)
    save_file(state | {second: embedding + 1}, path)
    with pytest.raises(WeightsError, match=r"shared\.weight and .*differ|are both shared\.weight"):
        TextEncoder(path, tokens=TOKENS, dtype=torch.float32, tokenizer=pipeline / "tokenizer")(["a"])
    if layout == "transformers":
        save_file(state | {second: embedding.clone()}, path)
        found = TextEncoder(pipeline, tokens=TOKENS, dtype=torch.float32)(PROMPTS)
        assert torch.allclose(found, direct(pipeline), atol=1e-5, rtol=0.0)


def test_damaged_or_incomplete_folders_are_refused(pipeline: Path) -> None:
    path = pipeline / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WeightsError, match="truncated"):
        TextEncoder(pipeline, tokens=TOKENS)(["a"])
    (pipeline / "text_encoder" / "config.json").unlink()
    make_encoder().save_pretrained(path.parent)
    (pipeline / "text_encoder" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        TextEncoder(pipeline, tokens=TOKENS)(["a"])
    for file in (pipeline / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(WeightsError, match="no tokenizer"):
        TextEncoder(pipeline, tokens=TOKENS)


def test_cleaning_by_hand() -> None:
    assert clean("  a &amp;amp; b\n\t c ") == "a & b c"
    assert clean("schÃ¶n  \u201cquoted\u201d") == 'schön "quoted"'
    assert clean("") == ""

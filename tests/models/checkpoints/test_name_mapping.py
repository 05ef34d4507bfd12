"""Names that do not fit: which of ours is nearest, and a user's mapping of theirs to ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.contracts import registry
from harness.errors import HarnessError, OptionError, WeightsError
from videomla_models.adapters.wan import TINY
from videomla_models.checkpoints import name_mapping
from videomla_models.checkpoints.load import load_into, open_checkpoint
from videomla_models.checkpoints.name_mapping import read_name_map, unmatched
from videomla_models.cli import convert
from videomla_models.network.build import randomise
from videomla_models.network.transformer import VideoTransformer
from videomla_models.spec.config import TransformerConfig

LATENT = TransformerConfig(**{**{f: getattr(TINY, f) for f in TINY.__slots__}, "attention": "latent"})
PAIRS = "2,1,1"

THEIRS = r"""
layers\.(\d+)\.attn\.kv_a\.weight: blocks.\1.self_attn.kv_down.weight
layers\.(\d+)\.attn\.(?P<rest>.+): blocks.\1.self_attn.\g<rest>
layers\.(\d+)\.(.+): blocks.\1.\2
opt_step: null
"""


def test_a_pattern_that_no_engine_takes_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("'a{4294967296}': b\n")
    mapping = read_name_map(tmp_path / "map.yaml")
    assert (dict(mapping.entries), dict(mapping.patterns)) == ({"a{4294967296}": "b"}, {})


def test_renaming_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some million ways to divide a name of 300 letters among three repeats, which is a fraction of a second.
    mapping = read_name_map(mapping_file(tmp_path, "a*a*a*b: c"))
    monkeypatch.setattr(name_mapping, "RENAMING_S", 0.001)
    with pytest.raises(WeightsError, match=r"map\.yaml: to match the names of x\.pt takes more than 0\.001 s") as late:
        mapping.apply("x.pt", ["a" * 300])
    assert "\n" not in late.value.message
    monkeypatch.undo()
    assert mapping.apply("x.pt", ["a" * 300 + "b", "other"]) == {"a" * 300 + "b": "c"}


def ours() -> dict[str, Tensor]:
    network = VideoTransformer(LATENT)
    randomise(network)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def foreign(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as another code base's trainer might name them, and a stray one."""
    renamed = {}
    for name, tensor in state.items():
        inner = name.replace("self_attn.kv_down", "attn.kv_a").replace("self_attn.", "attn.")
        renamed["model." + inner.replace("blocks.", "layers.")] = tensor
    return renamed | {"opt_step": torch.ones(1)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"generator_ema": foreign(ours())}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def mapping_file(tmp_path: Path, text: str, name: str = "map.yaml") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_the_nearest_has_the_same_shape_where_one_has() -> None:
    missing = {"blocks.0.self_attn.kv_down.weight": (4, 9), "blocks.0.self_attn.k_up.weight": (8, 4)}
    missing |= {name.replace("0", "1", 1): shape for name, shape in missing.items()}
    theirs = {f"blocks.{i}.self_attn.k_a.weight": (4, 9) for i in range(2)} | {"step": ()}
    lacks, has = unmatched(missing, theirs)
    assert lacks == (
        "blocks.*.self_attn.kv_down.weight [4x9] in 2 places, blocks.*.self_attn.k_up.weight [8x4] in 2 places"
    )
    assert has.startswith(
        "blocks.*.self_attn.k_a.weight [4x9] in 2 places (nearest of ours: blocks.*.self_attn.kv_down.weight [4x9])"
    )
    assert unmatched({}, {"step": (1,)}) == ("", "step [1]")


def test_many_names_are_cut_short() -> None:
    _, has = unmatched({"a": (1,)}, {f"x{i}y": (i,) for i in range(500)})
    assert has.endswith("… 440 more kinds")
    assert len(has) < 5000


def test_the_first_load_lists_their_names_with_the_nearest_of_ours(checkpoint: Path) -> None:
    options = {"weights": str(checkpoint), "codec": "preview", "dtype": "float32"}
    with torch.device("meta"):
        network = VideoTransformer(LATENT)
    with pytest.raises(WeightsError) as caught:
        load_into(network, open_checkpoint(checkpoint, "any"))
    said = str(caught.value)
    assert "layers.*.attn.kv_a.weight [16x48] in 2 places (nearest of ours: blocks.*.self_attn.kv_down" in said
    assert "harness convert SRC DST --map FILE" in said
    # The preset's own road comes to the same sentence.
    model = registry.models.create("videomla-1.3b", options)
    with pytest.raises(WeightsError, match=r"nearest of ours: blocks\.\*\.self_attn"):
        model.load_network("cpu")


@pytest.mark.parametrize("name", ["map.yaml", "map.json"])
def test_a_mapping_gives_our_names_to_the_same_tensors(checkpoint: Path, tmp_path: Path, name: str) -> None:
    text = THEIRS
    if name == "map.json":
        lines = [line.split(": ") for line in text.strip().splitlines()]
        text = json.dumps({theirs: None if mine == "null" else mine for theirs, mine in lines})
    out = tmp_path / "ours.safetensors"
    (said,) = convert(str(checkpoint), out, pairs=PAIRS, map_=mapping_file(tmp_path, text, name))
    assert said.endswith("2 layers under our names, 24 cached scalars")
    found, exact = load_file(out), ours()
    assert found.keys() == exact.keys()
    assert all(torch.equal(found[key], exact[key]) for key in exact)
    with torch.device("meta"):
        network = VideoTransformer(LATENT)
    load_into(network, open_checkpoint(out))


@pytest.mark.parametrize("pairs", ["100,-50,-46", "4,1,-1", "5,-1,0"])
def test_pairs_that_no_head_has_are_refused(checkpoint: Path, tmp_path: Path, pairs: str) -> None:
    out = tmp_path / "ours.safetensors"
    with pytest.raises(OptionError, match=r"pairs are \(.*\)\n  a head of"):
        list(convert(str(checkpoint), out, pairs=pairs, map_=mapping_file(tmp_path, THEIRS)))
    assert not out.exists()


def test_dense_attention_is_renamed_and_then_converted(tmp_path: Path) -> None:
    dense = TransformerConfig(dim=32, heads=2, layers=1, ffn=24, text_width=8, text_tokens=4)
    network = VideoTransformer(dense)
    randomise(network)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(
        {name.replace("self_attn.", "mixer."): tensor for name, tensor in state.items()}, tmp_path / "t.safetensors"
    )
    save_file(state, tmp_path / "o.safetensors")
    sizes = {"d_c": 8, "d_q": 8, "d_nope": 8, "d_rope": 6, "pairs": "1,1,1", "heads": 2}
    file = mapping_file(tmp_path, r"(.*)\.mixer\.(.*): \1.self_attn.\2")
    list(convert(str(tmp_path / "t.safetensors"), tmp_path / "a.safetensors", map_=file, **sizes))  # type: ignore[arg-type]
    list(convert(str(tmp_path / "o.safetensors"), tmp_path / "b.safetensors", **sizes))  # type: ignore[arg-type]
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no mapping"),
        ("[a, b]", "holds no mapping"),
        ("a: [b]", r"map\.yaml:1: .* is no name"),
        ("a: b\n{c: d}: e", "is no YAML"),
        ("a: b\na: c", r"map\.yaml:2: key 'a' is written twice"),
        ("a: ''", "is no name"),
        ("a: b c", "is no name"),
        ("a: {b: c", "is no YAML"),
        ("a: " + "b" * 301, "is no name"),
        ("a: &x b\nc: *x\nlayers.9.w: blocks.9.w", "takes in no tensor"),
        (r"layers\.(\d+)\..*: blocks.\2.x", "does not fit .*: invalid group reference"),
        (r"layers\.(\d+)\.(.*): blocks.0.x", "are both blocks.0.x"),
        (r"lairs\.(\d+)\.(.*): blocks.\1.\2", "takes in no tensor"),
        (r"layers\.(\d+)\.attn\.q_down\.weight: blocks.\1.self_attn.q_down.weight", "after renaming"),
    ],
)
def test_a_mapping_that_does_not_hold_is_one_line(checkpoint: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        list(convert(str(checkpoint), tmp_path / "out.safetensors", map_=mapping_file(tmp_path, text)))
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out.safetensors").exists()


def test_a_mapping_that_is_no_file_or_too_long(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_name_map(tmp_path)
    with pytest.raises(WeightsError, match="larger than 1,048,576 bytes"):
        read_name_map(mapping_file(tmp_path, "a" * (1 << 20) + ": b"))
    whole = mapping_file(tmp_path, THEIRS)
    with pytest.raises(OptionError, match="the rope key has 8 channels"):
        list(convert(str(checkpoint), tmp_path / "o.safetensors", map_=whole))
    with pytest.raises(OptionError, match=r"ends in \.safetensors"):
        list(convert(str(checkpoint), tmp_path / "o.pt", map_=whole, pairs=PAIRS))
    with pytest.raises(HarnessError, match="unknown layout"):
        list(convert(str(checkpoint), tmp_path / "o.safetensors"))

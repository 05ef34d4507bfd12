import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.contracts import (
    Frames,
    Measurement,
    ModelCard,
    Options,
    ProbeContext,
    Request,
    Spans,
    Subject,
    VideoModel,
    Workload,
    no_spans,
    registry,
)
from harness.errors import OptionError, RecordError, WeightsError
from harness.report.plots.spectra import plot_spectra, tables
from harness.report.render import markdown
from videomla_models.checkpoints.spectrum import Gram

WORK = Workload(("a", "b", "c"), (0, 1), 4, batch=2)
HERE = ProbeContext("cpu", Path("unused"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    diagonal = torch.tensor([4.0, 2.0, 2.0, 1.0])
    state = {}
    for layer in range(3):
        state[f"blocks.{layer}.self_attn.k.weight"] = torch.diag(diagonal)
        state[f"blocks.{layer}.self_attn.v.weight"] = torch.zeros(4, 4)
    state["blocks.2.self_attn.k.weight"] = torch.eye(4)
    save_file(state, tmp_path / "dense.safetensors")
    return tmp_path / "dense.safetensors"


def measured(checkpoint: Path) -> Measurement:
    return registry.probes.create("rank", {"checkpoint": str(checkpoint), "width": 2}).measure(
        None, Workload((), (), 0), HERE
    )


def test_ranks_of_a_checkpoint_by_hand(checkpoint: Path) -> None:
    found = measured(checkpoint)
    assert found.samples["energy"] == [0.8, 0.8, 0.5]
    assert found.samples["r90"] == [3, 3, 4]
    assert found.samples["singular[00]"] == [4, 2, 2, 1]
    own = {name: value for name, value in found.values.items() if not name.startswith("null_")}
    assert own == {"energy": 0.8, "r90": 3, "r95": 3, "r99": 4, "layers": 3, "directions": 4}
    assert (found.notes["operator"], found.notes["of"]) == ("[W_K; W_V]", "weights")


@pytest.mark.parametrize("width", [4, 192])
def test_a_width_that_reaches_every_direction_has_no_energy_of_its_own(checkpoint: Path, width: int) -> None:
    probe = registry.probes.create("rank", {"checkpoint": str(checkpoint), "width": width})
    found = probe.measure(None, Workload((), (), 0), HERE)
    assert math.isnan(found.values["energy"])
    assert math.isnan(found.values["null_energy"])
    assert all(math.isnan(energy) for energy in found.samples["energy"])
    (table,) = tables(found.samples, found.notes, found.values)
    assert [row.cells[0].text for row in table.rows] == ["all"] * 4
    assert "1.000" not in markdown(table)
    assert f"There are 4 directions, so a width of {width} keeps all energy" in markdown(table)


def test_random_maps_of_a_shape_have_the_spectrum_that_theory_gives_them(tmp_path: Path) -> None:
    """Squared singular values of a 2n x n Gaussian matrix follow the Marchenko-Pastur law of ratio 1/2."""
    n = 96
    maps = {f"blocks.0.self_attn.{name}.weight": torch.eye(n) for name in "kv"}
    save_file(maps, tmp_path / "m.safetensors")
    probe = registry.probes.create("rank", {"checkpoint": str(tmp_path / "m.safetensors"), "width": n // 8})
    found = probe.measure(None, Workload((), (), 0), HERE).values
    ratio = 0.5
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    at = np.linspace(high, low, 200_001)
    density = np.sqrt(np.clip((high - at) * (at - low), 0, None)) / (2 * np.pi * ratio * at)
    count, energy = np.cumsum(density), np.cumsum(density * at)
    count, energy = count / count[-1], energy / energy[-1]
    assert found["null_energy"] == pytest.approx(energy[np.searchsorted(count, 1 / 8)], abs=0.01)
    for name, share in (("null_r90", 0.9), ("null_r99", 0.99)):
        assert found[name] == pytest.approx(n * count[np.searchsorted(energy, share)], abs=1.5)


def test_the_key_depends_on_the_bytes_of_the_checkpoint(checkpoint: Path) -> None:
    probe = registry.probes.create("rank", {"checkpoint": str(checkpoint)})
    first = probe.identity()
    save_file({"blocks.0.self_attn.k.weight": torch.ones(4, 4)}, checkpoint)
    assert probe.identity() != first


def test_planning_needs_no_torch() -> None:
    rooms = "videomla_models.probes.rank, videomla_models.checkpoints.locate, videomla_models.checkpoints.names"
    code = f"import sys, {rooms}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_row_a_layer_and_the_same_plot_twice(checkpoint: Path, tmp_path: Path) -> None:
    found = measured(checkpoint)
    (table,) = tables(found.samples, found.notes)
    text = markdown(table)
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| 0")] == [
        "0.800",
        "0.800",
        "0.500",
    ]
    for name in ("one.svg", "two.svg"):
        plot_spectra(found.samples, found.notes, tmp_path / name)
    first = (tmp_path / "one.svg").read_bytes()
    assert first == (tmp_path / "two.svg").read_bytes()
    assert b"<dc:date>" not in first
    with pytest.raises(RecordError, match="no spectra"):
        tables({}, {})


class Toy(VideoModel):
    """Projects one known row per frame through its two blocks, whatever the prompt."""

    pipeline: SimpleNamespace

    def describe(self) -> ModelCard:
        return ModelCard("toy", 1, 1, 8.0, 1)

    def load(self, device: str) -> None:
        network = nn.Module()
        blocks = nn.ModuleList()
        for scale in (1.0, 2.0):
            block = nn.Module()
            block.add_module("self_attn", nn.ModuleDict({"k": nn.Linear(3, 3, bias=False)}))
            nn.init.eye_(block.get_parameter("self_attn.k.weight")).data.mul_(scale)
            blocks.append(block)
        network.add_module("blocks", blocks)
        self.pipeline = SimpleNamespace(network=network)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        for _ in range(request.frames):
            for layer in (0, 1):
                self.pipeline.network.get_submodule(f"blocks.{layer}.self_attn.k")(torch.ones(request.batch, 3))
            yield np.zeros((request.batch, 1, 1, 1, 3), np.uint8)


def loaded_toy() -> VideoModel:
    model = Toy(Options())
    model.load("cpu")
    return model


def test_activations_of_a_rollout() -> None:
    subject = Subject("toy", {}, loaded_toy().describe(), "cpu", loaded_toy)
    found = registry.probes.create("activation-rank", {"width": 1}).measure(subject, WORK, HERE)
    assert found.values["tokens"] == 6 * 4
    assert found.values["k_r99"] == 1
    assert math.isnan(found.values["v_r99"])
    assert math.isnan(found.values["latent_energy"])
    assert (found.notes["of"], found.notes["centred"]) == (["k"], False)
    assert found.notes["outputs"] == ["blocks.0.self_attn.k", "blocks.1.self_attn.k"]
    assert found.samples["k:singular[01]"][0] == pytest.approx(2 * found.samples["k:singular[00]"][0])
    assert found.samples["k:singular[00]"][0] == pytest.approx((3 * 24) ** 0.5)
    assert found.values.keys() == {value.name for value in registry.probes.get("activation-rank").values}
    # Every row is the same, so nothing is left of them once their mean is gone.
    centred = registry.probes.create("activation-rank", {"width": 1, "centred": True}).measure(subject, WORK, HERE)
    assert centred.samples["k:singular[00]"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert centred.notes["centred"] is True
    with pytest.raises(OptionError, match=r"no block has self_attn\.v or self_attn\.kv_norm"):
        registry.probes.create("activation-rank", {"activations": ["v", "latent"]}).measure(subject, WORK, HERE)


def test_centred_spectra_are_those_of_rows_less_their_mean() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    gram = Gram()
    for piece in (rows[:1], rows[1:20].view(1, 19, 6), rows[20:]):
        gram.add(piece)
    for centred, exact in ((False, rows), (True, rows - rows.mean(0))):
        torch.testing.assert_close(gram.singular_values(centred), torch.linalg.svdvals(exact))


def test_weights_of_several_networks_by_hand() -> None:
    def attention(**diagonals: list[float]) -> SimpleNamespace:
        network, block = nn.Module(), nn.Module()
        block.add_module("self_attn", nn.ModuleDict({n: nn.Linear(4, 4, bias=False) for n in (*diagonals, "o")}))
        for name, diagonal in diagonals.items():
            block.get_parameter(f"self_attn.{name}.weight").data = torch.diag(torch.tensor(diagonal))
        network.add_module("blocks", nn.ModuleList([block]))
        return SimpleNamespace(network=network)

    dense = attention(k=[4.0, 2.0, 2.0, 1.0], v=[0.0, 0.0, 0.0, 0.0])
    latent = attention(k_up=[2.0, 2.0, 0.0, 0.0], v_up=[0.0, 0.0, 0.0, 0.0], kv_down=[1.0, 1.0, 1.0, 1.0])
    model = Toy(Options())
    model.pipelines = [dense, latent]  # type: ignore[attr-defined]
    subject = Subject("toy", {}, model.describe(), "cpu", lambda: model)
    found = registry.probes.create("weight-rank", {"width": 1}).measure(subject, WORK, HERE)
    assert found.samples["seed[0]:energy"] == [pytest.approx(0.64)]
    assert found.samples["seed[1]:energy"] == [pytest.approx(0.5)]
    assert found.samples["seed[1]:singular[00]"] == pytest.approx([2, 2, 0, 0], abs=1e-9)
    assert (found.values["energy"], found.values["r99"]) == (pytest.approx(0.57), (4 + 2) / 2)
    model.pipelines = [attention(q=[1.0] * 4)]  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="dense or latent"):
        registry.probes.create("weight-rank", {}).measure(subject, WORK, HERE)


@pytest.mark.parametrize(
    ("name", "kinds", "outputs", "width"),
    [("videomla-1.3b", ["latent"], ["kv_norm"], 16), ("self-forcing", ["k", "v"], ["k", "v"], 48)],
)
def test_activations_of_the_presets(name: str, kinds: list[str], outputs: list[str], width: int) -> None:
    tiny = {"weights": "random", "network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}
    model = registry.models.create(name, tiny)

    def load() -> VideoModel:
        model.load("cpu")
        return model

    subject = Subject(name, tiny, model.describe(), "cpu", load)
    found = registry.probes.create("activation-rank", {"width": 4}).measure(subject, Workload(("a",), (0,), 9), HERE)
    assert found.notes["of"] == kinds
    assert found.notes["outputs"] == [f"blocks.{layer}.self_attn.{output}" for output in outputs for layer in (0, 1)]
    # Three latent frames of 2 x 3 tokens, four denoising steps and the clean pass.
    assert found.values["tokens"] == 3 * 6 * 5
    for kind in kinds:
        assert found.values[f"{kind}_directions"] == width
        assert 1 < found.values[f"{kind}_r90"] <= found.values[f"{kind}_r99"] <= width
        assert 0 < found.values[f"{kind}_energy"] < 1
    titles = [table.title for table in tables(found.samples, found.notes, found.values)]
    assert titles == [f"Spectrum per layer: activations {kind}, not centred" for kind in kinds]


def test_activations_behind_latents_of_a_file(tmp_path: Path) -> None:
    """The model's own noise is no part of the cache then; the file's digest is part of the key, its place is not."""
    tiny = {"weights": "random", "network": "tiny", "codec": "preview", "height": 64, "width": 64, "dtype": "float32"}
    model = registry.models.create("videomla-1.3b", tiny)
    model.load("cpu")
    subject = Subject("videomla-1.3b", tiny, model.describe(), "cpu", lambda: model)
    save_file({"latents": torch.randn(2, 16, 7, 4, 6)}, tmp_path / "l.safetensors")
    save_file({"latents": 5 * torch.randn(2, 16, 7, 4, 6)}, tmp_path / "other.safetensors")
    work = Workload(("a",), (0,), 9)
    spectra = []
    for name in ("l", "other"):
        probe = registry.probes.create(
            "activation-rank", {"width": 4, "latents": str(tmp_path / f"{name}.safetensors")}
        )
        found = probe.measure(subject, work, HERE)
        # Two clips of six frames of 2 x 3 tokens, four denoising steps and the clean pass.
        assert found.values["tokens"] == 2 * 6 * 6 * 5
        spectra.append(found.samples["latent:singular[01]"])
        keyed = probe.keyed_options({"width": 4, "latents": "anything"})
        assert len(str(keyed["latents"])) == 64
    assert spectra[0] != spectra[1]
    assert "latents" not in registry.probes.create("activation-rank", {}).keyed_options({"width": 4, "latents": ""})
    missing = registry.probes.create("activation-rank", {"latents": str(tmp_path / "none.pt")})
    with pytest.raises(WeightsError, match="is no file"):
        missing.keyed_options({"latents": "none.pt"})

from pathlib import Path

import pytest

from harness.errors import NotAvailable, WeightsError
from videomla_models.checkpoints.locate import resolve

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "weights"
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(root))
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (root / "org" / "name" / "checkpoints").mkdir(parents=True)
    return root


def test_a_hub_id_is_found_under_the_offline_root(offline: Path) -> None:
    inner = offline / "org" / "name" / "checkpoints" / "dmd.pt"
    inner.touch()
    assert resolve("org/name:checkpoints/dmd.pt").files == (inner,)
    (offline / "org" / "name" / "model.safetensors").touch()
    assert [path.name for path in resolve("org/name").files] == ["model.safetensors"]


def test_a_hub_id_that_is_not_here_says_how_to_bring_it() -> None:
    with pytest.raises(NotAvailable, match="org/other") as caught:
        resolve("org/other:a.pt")
    assert "hf download org/other a.pt" in caught.value.fix


def test_a_hub_id_is_found_in_the_local_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", exc_type=ImportError)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--cached"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.pt").touch()
    assert resolve("org/cached").files == (snapshot / "model.pt",)
    assert resolve("org/cached:model.pt").files == (snapshot / "model.pt",)


@pytest.mark.parametrize("name", ["org/name:../../secret.pt", "org/name:checkpoints/../../x.pt"])
def test_a_hub_id_does_not_leave_its_repository(name: str) -> None:
    with pytest.raises(WeightsError):
        resolve(name)


@pytest.mark.parametrize("name", ["nowhere.pt", "a/b/c/d", "folder/model.safetensors", "/none/such.pt", ""])
def test_a_missing_path_is_no_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError):
        resolve(name)


def test_a_folder_must_hold_one_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        resolve(folder)
    for name in ("a.pt", "b.safetensors"):
        (folder / name).touch()
    with pytest.raises(WeightsError, match=r"2 checkpoints: a\.pt, b\.safetensors"):
        resolve(folder)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "x.py"])
def test_an_index_names_only_its_neighbours(tmp_path: Path, shard: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "%s"}}' % shard)  # noqa: UP031
    with pytest.raises(WeightsError, match="no file beside it"):
        resolve(index)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"w": 3}}', "[" * 5000 + "]" * 5000]
)
def test_a_malformed_index_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(WeightsError, match="no shard index"):
        resolve(index)


def test_a_component_of_a_pipeline(tmp_path: Path) -> None:
    diffusers, original = tmp_path / "diffusers", tmp_path / "original"
    for name in ("transformer", "vae"):
        (diffusers / name).mkdir(parents=True)
        (diffusers / name / "diffusion_pytorch_model.safetensors").touch()
    original.mkdir()
    for name in ("diffusion_pytorch_model.safetensors", "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth"):
        (original / name).touch()
    assert resolve(diffusers, component="vae").files[0].parent.name == "vae"
    assert resolve(diffusers).files[0].parent.name == "transformer"
    assert resolve(original).files[0].name == "diffusion_pytorch_model.safetensors"
    assert resolve(original, component="vae").files[0].name == "Wan2.1_VAE.pth"
    assert resolve(original, component="text_encoder").files[0].name == "models_t5_umt5-xxl-enc-bf16.pth"

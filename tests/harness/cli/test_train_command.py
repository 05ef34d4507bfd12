"""`harness train` from recipe to records: trained, resumed, a lost checkpoint made again, and the model made of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_recipe import TINY

from harness.cli import main
from harness.contracts import Request, registry
from harness.errors import OptionError, WeightsError
from harness.runs.plan import make
from harness.runs.records import RecordFile
from harness.suite.recipe import load_recipe, suite_of


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main(["train", *arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "tiny.yaml").write_text(TINY.replace("[0, 1]", "[0]").replace("[4, 8]", "[4]"))
    assert run(str(folder / "tiny.yaml"), "--out", str(folder / "tiny")) == 0
    return folder


def test_a_record_holds_the_digests_of_its_checkpoints(trained: Path) -> None:
    records = list(RecordFile(trained / "tiny" / "records.jsonl").records())
    assert [record.context["section"] for record in records] == ["dense-0", "latent-4-0"]
    for record in records:
        assert record.status == "ok"
        assert record.values["steps"] == 7
        for stage in record.notes["stages"]:  # type: ignore[union-attr]
            name = f"checkpoints/{record.context['section']}/{stage['stage']}.safetensors"  # type: ignore[index,call-overload]
            found = hashlib.sha256((trained / "tiny" / name).read_bytes()).hexdigest()
            assert found == stage["sha256"]  # type: ignore[index,call-overload]
        assert record.notes["checkpoint"] == found
        assert set(record.samples) >= {"teacher_forcing:generator", "distribution_matching:critic"}


def test_a_recipe_does_not_lie_where_the_shared_stages_do(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in (trained / "stages").iterdir())
    assert run(str(trained / "tiny.yaml"), "--out", str(trained / "stages")) == 2
    assert "holds the stages that recipes share" in capsys.readouterr().err
    assert sorted(path.name for path in (trained / "stages").iterdir()) == before


def test_again_does_nothing_and_a_lost_checkpoint_is_made_again_alike(trained: Path) -> None:
    records = trained / "tiny" / "records.jsonl"
    before = records.read_bytes()
    assert run(str(trained / "tiny.yaml"), "--out", str(trained / "tiny")) == 0
    assert records.read_bytes() == before
    last = json.loads(before.splitlines()[0])["notes"]["stages"][-1]
    (trained / "stages" / last["file"]).unlink()
    assert run(str(trained / "tiny.yaml"), "--out", str(trained / "tiny"), "--only", "dense") == 0
    again = json.loads(records.read_bytes().splitlines()[-1])["notes"]["stages"][-1]
    assert again["sha256"] == last["sha256"]


def test_the_model_takes_sizes_window_and_steps_from_the_file(trained: Path) -> None:
    folder = trained / "tiny" / "checkpoints" / "latent-4-0"
    forced = registry.models.create("toy/trained", {"checkpoints": [str(folder / "teacher_forcing.safetensors")]})
    matched = registry.models.create(
        "toy/trained", {"checkpoints": [str(folder / "distribution_matching.safetensors")]}
    )
    one, four = forced.describe(), matched.describe()
    assert one.cached_scalars == four.cached_scalars == 4 + 6
    assert (one.window_frames, one.sink_frames, one.frames_per_chunk) == (5, 1, 2)
    assert one.forwards_per_chunk == 2 * (8 + 1)
    assert four.forwards_per_chunk == 4 + 1
    assert "first_chunk_steps" not in four.details
    more = registry.models.create(
        "toy/trained", {"checkpoints": [str(folder / "distribution_matching.safetensors")], "first_steps": 8}
    )
    assert more.describe().details["first_chunk_steps"] == [1000 * (8 - step) / 8 for step in range(8)]
    assert forced.identity("cpu")["weights"] != matched.identity("cpu")["weights"]
    with pytest.raises(WeightsError, match="does not exist"):
        registry.models.create("toy/trained", {"checkpoints": [str(folder / "no.safetensors")]}).describe()
    torn = trained / "torn.safetensors"
    torn.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="no checkpoint that"):
        registry.models.create("toy/trained", {"checkpoints": [str(torn)]}).describe()


def test_a_model_of_several_training_seeds_by_pattern(trained: Path) -> None:
    folder = trained / "tiny" / "checkpoints"
    for seed in (0, 5):
        copy = folder / f"many-{seed}" / "teacher_forcing-3.safetensors"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((folder / "latent-4-0" / "teacher_forcing.safetensors").read_bytes())
    pattern = str(folder / "many-{seed}" / "teacher_forcing.safetensors")
    options = {"checkpoints": [pattern], "training_seeds": [0, 5], "step": 3}
    model = registry.models.create("toy/trained", options)
    assert [path.parent.name for path in model.files] == ["many-0", "many-5"]  # type: ignore[attr-defined]
    assert list(model.describe().weight_digests) == ["0", "1"]
    model.check_request(Request(("a", "b"), (1, 3), 9))
    with pytest.raises(OptionError, match="clips of several training seeds"):
        model.check_request(Request(("a", "b"), (1, 2), 9))
    with pytest.raises(WeightsError, match=r"many-0/teacher_forcing\.safetensors does not exist"):
        registry.models.create("toy/trained", options | {"step": None}).describe()


def test_a_chain_goes_on_from_a_file_without_a_header(trained: Path) -> None:
    """As the toy world's models do, whose first training wrote weights alone."""
    whole = trained / "tiny" / "checkpoints" / "dense-0" / "teacher_forcing.safetensors"
    plain = trained / "plain.safetensors"
    save_file(load_file(whole), plain)
    text = TINY.replace("[0, 1]", "[0]").split("arms:")[0].replace("recipe: tiny", "recipe: further")
    further = [line for line in text.splitlines(keepends=True) if "teacher_forcing" not in line]
    start = f"start: {{kind: checkpoint, origin: {{file: {plain}}}}}"
    arms = (
        f"arms:\n  - {{label: dense, set: {{{start}}}}}\n  - {{label: wide, set: {{{start}, network: {{dim: 48}}}}}}\n"
    )
    (trained / "further.yaml").write_text("".join(further) + arms)
    assert run(str(trained / "further.yaml"), "--out", str(trained / "further"), "--only", "dense") == 0
    plan = (trained / "further" / "plan.json").read_text()
    # The same network, taught by the same weights on the same clips: the stages after it end alike.
    ends = [
        trained / name / "checkpoints" / "dense-0" / "distribution_matching.safetensors" for name in ("tiny", "further")
    ]
    first, second = map(load_file, ends)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run(str(trained / "further.yaml"), "--out", str(trained / "further"), "--only", "wide") == 1
    assert (trained / "further" / "plan.json").read_text() == plan
    assert "misshapen" in list(RecordFile(trained / "further" / "records.jsonl").records())[-1].error["message"]


def test_trainings_take_the_road_of_every_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit, several at a time with one result, tables, and keys that hold what files contain, not where they lie."""
    text = (trained / "tiny.yaml").read_text().replace("recipe: tiny", "recipe: road")
    forced = trained / "tiny" / "checkpoints" / "dense-0" / "teacher_forcing.safetensors"
    (trained / "copy.safetensors").write_bytes(forced.read_bytes())
    head, arms = text.split("arms:\n")
    keys = []
    for path in (forced, trained / "copy.safetensors"):
        more = f"  - {{label: more, set: {{start: {{kind: checkpoint, origin: {{file: {path}}}}}}}}}\n"
        (trained / "road.yaml").write_text(f"{head}arms:\n{more}{arms}")
        keys.append([unit.key for unit in make(suite_of(*load_recipe(trained / "road.yaml"), "cpu"), "cpu").units])
    assert keys[0] == keys[1]
    folder = trained / "road"
    assert run(str(trained / "road.yaml"), "--out", str(folder), "--only", "more", "--limit", "1") == 0
    assert run(str(trained / "road.yaml"), "--out", str(folder), "--jobs", "2", "--limit", "1") == 3
    assert run(str(trained / "road.yaml"), "--out", str(folder), "--jobs", "2") == 0
    assert str(trained) not in (folder / "records.jsonl").read_text()
    assert (folder / "tables" / "road.md").read_text().count("-0 ") == 3
    assert f"checkpoints: {folder / 'checkpoints'}" in capsys.readouterr().out
    for name in ("dense-0", "latent-4-0"):
        ends = [trained / of / "checkpoints" / name / "distribution_matching.safetensors" for of in ("tiny", "road")]
        assert ends[0].samefile(ends[1])


def test_a_process_of_torchrun_trains_its_share_and_records_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = trained / "tiny.yaml", trained / "shares" / "tiny"
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {"TORCHELASTIC_RUN_ID": "none", **alone}.items():
        monkeypatch.setenv(name, value)
    assert run(str(recipe), "--out", str(folder), "--only", "dense") == 0
    assert "dense-0: done" in capsys.readouterr().out
    assert not folder.exists()
    finished = (trained / "shares" / "stages").glob("*/stage.json")
    states = {path: path.stat().st_mtime_ns for path in finished}
    assert len(states) == 3
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert run(str(recipe), "--out", str(folder), "--only", "dense") == 0
    assert {path: path.stat().st_mtime_ns for path in states} == states
    assert [record.status for record in RecordFile(folder / "records.jsonl").records()] == ["ok"]


def test_dry_run_and_unknown_names(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(trained / "tiny.yaml"), "--dry-run") == 0
    assert "dense-0: teacher_forcing 3 steps, then consistency 2 steps" in capsys.readouterr().out
    assert run(str(trained / "tiny.yaml"), "--only", "dence") == 2
    assert "did you mean dense" in capsys.readouterr().err

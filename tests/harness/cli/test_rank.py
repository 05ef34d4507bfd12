from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from typed_commands import Harness
from typer.testing import CliRunner

from harness.cli.rank import rank
from harness.errors import HarnessError, SuiteError, WeightsError
from harness.runs.records import RecordFile
from harness.suite.load import load_suite


def dense(path: Path) -> Path:
    diagonal = torch.diag(torch.tensor([4.0, 2.0, 2.0, 1.0]))
    save_file(
        {f"blocks.{i}.self_attn.{name}.weight": diagonal * (name == "k") for i in range(2) for name in "kv"}, path
    )
    return path


def test_a_record_a_table_and_a_plot(tmp_path: Path) -> None:
    lines = "\n".join(
        rank(str(dense(tmp_path / "m.safetensors")), width=2, svg=tmp_path / "r.svg", out=tmp_path / "run")
    )
    assert "0.800" in lines
    assert "| random maps " in lines
    assert (tmp_path / "r.svg").stat().st_size > 1000
    (record,) = RecordFile(tmp_path / "run" / "records.jsonl").records()
    assert record.status == "ok"
    assert record.values["r95"] == 3
    assert record.preimage["probe"]["identity"]["weights"].keys() == {"m.safetensors"}  # type: ignore[index,call-overload,union-attr]
    again = "\n".join(rank(str(tmp_path / "m.safetensors"), width=2, out=tmp_path / "run"))
    assert "0.800" in again
    assert len(list(RecordFile(tmp_path / "run" / "records.jsonl").records())) == 1


def test_activations_of_a_rollout_are_named_with_their_centring(tmp_path: Path) -> None:
    options = {"activations": True, "width": 8, "frames": 9, "out": tmp_path / "run"}
    first = "\n".join(rank("toy/videomla", set_=["weights=random"], **options))  # type: ignore[arg-type]
    assert "activations latent, not centred" in first
    plot = tmp_path / "r.svg"
    second = "\n".join(rank("toy/dense", centred=True, svg=plot, **options))  # type: ignore[arg-type]
    assert "activations k, centred" in second
    assert "activations v, centred" in second
    assert {path.name for path in tmp_path.glob("*.svg")} == {"r_k.svg", "r_v.svg"}
    assert len(list(RecordFile(tmp_path / "run" / "records.jsonl").records())) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"centred": True}, "belong to --activations"),
        ({"set_": ["steps=8"]}, "belong to --activations"),
        ({"activations": True, "ema": True}, "options of the model here"),
        ({"activations": True}, "unknown model"),
    ],
)
def test_options_that_do_not_belong_together(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        list(rank("m.safetensors", out=tmp_path / "run", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("svg", ["/", ".", ""])
def test_a_plot_that_names_no_file_is_one_line(harness: Harness, tmp_path: Path, svg: str) -> None:
    ended = harness("rank", str(dense(tmp_path / "m.safetensors")), "--svg", svg)
    assert (ended.code, ended.err) == (2, f"error: '{svg}' names no file\n  name one, or leave the option out\n")


def test_from_the_command_line(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(rank)
    said = CliRunner().invoke(app, ["--help"])
    assert said.exit_code == 0
    assert "--svg" in said.output


def test_bad_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        list(rank(str(tmp_path / "none.pt"), out=tmp_path / "run"))
    path = dense(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(HarnessError, match="truncated"):
        list(rank(str(path), out=tmp_path / "run"))


def test_only_probes_of_no_model_go_without_models(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("suite: s\nmeasure: [{name: spectrum, probe: rank, options: {checkpoint: x.pt}}]\n")
    assert load_suite(path).models == []
    path.write_text("suite: s\nprompts: {p: [x]}\nmeasure: [{name: a, probe: activation-rank, prompts: p}]\n")
    with pytest.raises(SuiteError, match="'a' needs `models`"):
        load_suite(path)

import json
import shlex
from functools import wraps
from pathlib import Path

import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from harness.errors import OptionError
from videomla_models.cli import convert


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "patch_embedding.weight": (64, 16, 1, 2, 2),
        "text_embedding.0.weight": (64, 24),
        "time_embedding.0.weight": (64, 256),
        "blocks.0.ffn.0.weight": (96, 64),
    }
    for part in "qkvo":
        shapes |= {f"blocks.0.self_attn.{part}.weight": (64, 64), f"blocks.0.self_attn.{part}.bias": (64,)}
    shapes |= {f"blocks.0.self_attn.norm_{part}.weight": (64,) for part in "qk"}
    path = tmp_path / "dense.safetensors"
    save_file({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}, path)
    return path


def test_sizes_from_the_command_line(source: Path) -> None:
    said: list[str] = []
    arguments = "--d-c=24 --d-q=32 --d-nope=20 --d-rope=12 --pairs=2,2,2 --heads=2 --latent-gain=one"
    app = typer.Typer()
    app.command()(wraps(convert)(lambda **given: said.extend(convert(**given))))
    out = source.with_name("latent.safetensors")
    result = CliRunner().invoke(app, [*shlex.split(arguments), str(source), str(out)])
    assert result.exit_code == 0, result.output
    with safe_open(out, "pt") as file:
        recipe = json.loads(file.metadata()["conversion"])
        assert file.get_slice("blocks.0.self_attn.kv_down.weight").get_shape() == [24, 64]
    assert recipe["latent"] == {"d_c": 24, "d_q": 32, "d_nope": 20, "d_rope": 12, "pairs": [2, 2, 2]}
    assert recipe["latent_gain"] == "one"
    assert said[-1].endswith("instead of 128")


def test_what_was_kept_is_said(source: Path) -> None:
    out = source.with_name("latent.safetensors")
    sizes = {"d_c": 24, "d_q": 32, "d_nope": 20, "d_rope": 12, "pairs": "2,2,2", "heads": 2}
    first, last = convert(str(source), out, **sizes)  # type: ignore[arg-type]
    assert first.startswith("layer  0: energy kept 0.")
    assert last.endswith("36 cached scalars per token and layer instead of 128")
    with pytest.raises(OptionError, match="three numbers"):
        list(convert(str(source), out, pairs="6,5"))

"""The table of published models: one entry makes a model that is listed, planned and replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from harness.cli.list import list_
from harness.contracts import registry
from harness.runs.plan import make
from harness.suite.load import load_suite
from videomla_models.rollout.replay import TOLERANCE, read, verify
from videomla_models.spec.config import SamplerConfig
from videomla_models.spec.published_models import PUBLISHED, Preset
from videomla_models.spec.window import WindowPolicy

TRACES = Path(__file__).parents[2] / "data" / "traces"
ENTRY = Preset(
    family="ours",
    title="Ours",
    about="Nine frames, one of them sink.",
    window=WindowPolicy(frames=9, sink=1),
    sampler=SamplerConfig(steps=(1000, 500)),
    trace="ours",
)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ours-1.3b` stands in the table, and the registry reads its entry points anew, as a new process does."""
    monkeypatch.setitem(PUBLISHED, "ours-1.3b", ENTRY)
    monkeypatch.setattr(registry.models, "_points", None)
    monkeypatch.setattr(registry.models, "_classes", dict(registry.models._classes))


@pytest.mark.usefixtures("entered")
def test_an_entry_is_listed() -> None:
    assert {*PUBLISHED} <= {*registry.models}
    (line,) = [line for line in "\n".join(list_("models")).splitlines() if line.startswith("ours-1.3b")]
    assert line.split(maxsplit=1)[1] == ENTRY.about


@pytest.mark.usefixtures("entered")
def test_an_entry_is_planned(tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    model = {"name": "ours-1.3b", "options": {"weights": "random"}}
    section = {"name": "short", "prompts": "p", "seeds": [0], "frames": 33}
    suite.write_text(
        yaml.safe_dump({"suite": "s", "models": [model], "prompts": {"p": ["one"]}, "generate": [section]})
    )
    (unit,) = make(load_suite(suite), "cpu").units
    assert (unit.preimage["model"]["name"], unit.preimage["model"]["version"]) == ("ours-1.3b", "2")  # type: ignore[index,call-overload]
    model = registry.models.create("ours-1.3b", {})
    card = model.describe()
    assert (card.family, card.window_frames, card.sink_frames) == ("ours", 9, 1)
    assert model.sampler_config().steps == (1000, 500)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("entered")
def test_a_trace_that_names_an_entry_is_replayed(tmp_path: Path) -> None:
    spec, tensors = read(TRACES / "self_forcing_la6_sink1.safetensors")
    path = tmp_path / "ours.safetensors"
    save_file(tensors, path, {"spec": json.dumps(spec | {"family": "ours"})})
    difference = verify(path).difference
    assert difference is not None
    assert difference <= TOLERANCE


def test_versions_are_those_of_existing_keys() -> None:
    assert {name: registry.models.get(name).version for name in PUBLISHED} == dict.fromkeys(PUBLISHED, "2") | {
        "causvid": "3",
        "longlive-rag": "3",
    }

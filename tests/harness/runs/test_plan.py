from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from road import FAKES, base, planned, write

from harness.contracts import ModelCard, Options, VideoModel, registry
from harness.errors import RegistryError
from harness.runs import keys as identity
from harness.runs.plan import make, to_json
from harness.suite.load import load_suite


def keys(plan: Any, kind: str = "generate") -> list[str]:
    return [unit.key for unit in plan.units if unit.kind == kind]


def test_every_clip_and_score_is_planned_once_with_its_preimage(tmp_path: Path) -> None:
    plan = planned(tmp_path, base())
    assert [unit.kind for unit in plan.units] == ["generate", "score"] * 4
    assert all(identity.key(unit.preimage) == unit.key for unit in plan.units)
    first, second = plan.units[:2]
    assert first.preimage["prompt"] == "one"
    assert first.preimage["model"]["options"]["chunk"] == 4
    assert second.preimage["generate"] == first.key == second.context["of"]
    assert [(group.kind, group.plugin, len(group.keys)) for group in plan.groups] == [
        ("generate", "", 4),
        ("score", "fake/brightness", 4),
    ]
    assert json.loads(json.dumps(to_json(plan)))["groups"][0]["keys"] == keys(plan)


@pytest.mark.parametrize(
    "change",
    [
        {"models": [{"name": "fake/moving", "label": "a", "options": {"chunk": 3}}]},
        {"models": [{"name": "fake/short", "label": "a"}]},
        {"video": {"crf": 9}},
        {"prompts": {"p": ["uno", "dos"]}},
        {"generate": [{"name": "short", "prompts": "p", "seeds": [2, 3], "frames": 6}]},
        {"generate": [{"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 7}]},
        {
            "generate": [
                {
                    "name": "short",
                    "prompts": "p",
                    "seeds": [0, 1],
                    "frames": 6,
                    "switches": [{"frame": 2, "prompts": "p"}],
                }
            ]
        },
    ],
)
def test_what_could_change_a_pixel_changes_every_key(tmp_path: Path, change: dict[str, Any]) -> None:
    assert not set(keys(planned(tmp_path, base()))) & set(keys(planned(tmp_path, base(**change))))


def test_device_and_weights_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_plugin(FAKES)
    loaded = load_suite(write(tmp_path, base()))
    on_cpu, on_cuda = make(loaded, "cpu"), make(loaded, "cuda:1")
    assert not set(keys(on_cpu)) & set(keys(on_cuda))
    assert keys(on_cuda) == keys(make(loaded, "cuda"))
    cls = registry.models.get("fake/moving")
    card = cls(cls.schema()).describe()
    monkeypatch.setattr(cls, "describe", lambda self: replace(card, weight_digests={"w": "abc"}))
    assert not set(keys(on_cpu)) & set(keys(make(loaded, "cpu")))
    monkeypatch.undo()
    monkeypatch.setattr(cls, "version", "2")
    assert not set(keys(on_cpu)) & set(keys(make(loaded, "cpu")))


def test_names_and_positions_are_not_in_the_key(tmp_path: Path) -> None:
    plain = planned(tmp_path, base())
    renamed = base(
        suite="other",
        models=[{"name": "fake/long", "options": {"when": "x"}}, {"name": "fake/moving", "label": "z"}],
        prompts={"q": ["zero", "two", "one"]},
        generate=[{"name": "s", "prompts": "q", "seeds": [5, 1, 0], "frames": 6, "metrics": ["fake/brightness"]}],
    )
    other = planned(tmp_path, renamed)
    assert set(keys(plain)) < set(keys(other))
    assert set(keys(plain, "score")) < set(keys(other, "score"))


def test_two_sections_that_ask_for_the_same_share_the_unit(tmp_path: Path) -> None:
    section = base()["generate"][0]
    plan = planned(tmp_path, base(generate=[section, {**section, "name": "again", "seeds": [0]}]))
    assert len(keys(plan)) == 4
    assert set(plan.groups[2].keys) < set(plan.groups[0].keys)


def test_a_metric_option_changes_the_score_only(tmp_path: Path) -> None:
    def with_fault(fault: str) -> Any:
        section = {**base()["generate"][0], "metrics": [{"name": "fake/faulty", "options": {"fault": fault}}]}
        return planned(tmp_path, base(generate=[section]))

    one, two = with_fault("raise"), with_fault("nan")
    assert keys(one) == keys(two)
    assert not set(keys(one, "score")) & set(keys(two, "score"))


def test_a_switch_takes_the_prompt_of_the_same_number(tmp_path: Path) -> None:
    section = {**base()["generate"][0], "switches": [{"frame": 3, "prompts": "q"}]}
    plan = planned(tmp_path, base(prompts={"p": ["one", "two"], "q": ["uno", "dos"]}, generate=[section]))
    found = {
        (unit.preimage["prompt"], str(unit.preimage["switches"])) for unit in plan.units if unit.kind == "generate"
    }
    assert found == {("one", "[[3, 'uno']]"), ("two", "[[3, 'dos']]")}


def test_measures_are_one_an_arm_or_one_in_all(tmp_path: Path) -> None:
    arms = [{"name": "fake/moving", "label": "a"}, {"name": "fake/moving", "label": "b", "options": {"chunk": 2}}]
    measure = [
        {"name": "speed", "probe": "fake/count", "prompts": "p", "frames": 6, "models": ["b"]},
        {"name": "all", "probe": "fake/count", "prompts": "p", "frames": 6},
        {"name": "machine", "probe": "fake/device"},
    ]
    plan = planned(tmp_path, base(models=arms, generate=[], measure=measure))
    assert [(group.section, group.arm, len(group.keys)) for group in plan.groups] == [
        ("speed", "b", 1),
        ("all", "a", 1),
        ("all", "b", 1),
        ("machine", "", 1),
    ]
    assert len(plan.units) == 3


def test_a_request_identity_is_part_of_that_clip_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = keys(planned(tmp_path, base()))
    cls = registry.models.get("fake/moving")
    monkeypatch.setattr(cls, "request_identity", lambda self, prompt, seed: {"file": "abc"} if prompt == "two" else {})
    other = keys(planned(tmp_path, base()))
    assert plain[:2] == other[:2]
    assert not set(plain[2:]) & set(other[2:])


def test_a_model_that_cannot_describe_itself_is_named(tmp_path: Path) -> None:
    @registry.models.register("fake/mute")
    class Mute(VideoModel):
        schema = Options

        def describe(self) -> ModelCard:
            raise KeyError("layers")

        def stream(self, request: Any, spans: Any = None) -> Any:
            return iter(())

    try:
        with pytest.raises(RegistryError, match="model 'm' cannot describe itself: KeyError"):
            planned(tmp_path, base(models=[{"name": "fake/mute", "label": "m"}]))
    finally:
        del registry.models._classes["fake/mute"]


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path, base())
    program = (
        "import sys; from pathlib import Path; from harness.contracts import registry\n"
        "from harness.runs import folder, plan, records\n"
        "from harness.suite.load import load_suite; from harness.execute import run\n"
        f"registry.load_plugin(Path({str(FAKES)!r}))\n"
        f"units = plan.make(load_suite(Path({str(path)!r}))).units\n"
        "heavy = [name for name in ('torch', 'pandas', 'matplotlib', 'scipy', 'triton') if name in sys.modules]\n"
        "assert len(units) == 8 and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

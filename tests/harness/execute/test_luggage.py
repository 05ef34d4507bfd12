"""What goes to another machine, and what is compared there."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from road import FAKES, base, planned, write

from harness.contracts import registry
from harness.errors import RegistryError
from harness.execute import luggage as luggage_module
from harness.execute.luggage import TRAVELS, Luggage, Unpacked, code_digest, pack
from harness.execute.printed import MOST_OF_ONE
from harness.execute.ray_actors import FOLDER, LOCK, Keeper
from harness.runs.plan import Plan, make
from harness.suite.load import load_suite
from harness.system.digests import canonical, file_sha256

SEES = FAKES.with_name("ray_plugins.py")


@pytest.fixture(autouse=True)
def _own_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights in a folder of the test."""
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))


NODE = """
import pickle, sys
from pathlib import Path
from harness.execute.luggage import unpack
luggage, folder = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps(unpack(luggage, folder)))
"""


def unpack(luggage: Luggage, folder: Path) -> Unpacked:
    """Unpacks in a process of its own, as a node does."""
    content = pickle.dumps((luggage, folder))
    answer = subprocess.run([sys.executable, "-c", NODE], input=content, capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    unpacked: Unpacked = pickle.loads(answer.stdout)
    return unpacked


def weighted(folder: Path, weights: Path) -> Plan:
    registry.load_plugin(SEES)
    models = [{"name": "ray/weights", "label": "a", "options": {"weights": str(weights)}}]
    section = {**base()["generate"][0], "metrics": ["ray/sees"]}
    return make(load_suite(write(folder, base(models=models, generate=[section]))), "cpu")


def bytes_at(folder: Path, content: bytes = b"\x21weights") -> Path:
    path = folder / "w.bin"
    path.write_bytes(content)
    return path


def test_the_driver_itself_is_a_node_that_is_fit(tmp_path: Path) -> None:
    luggage = pack(weighted(tmp_path, bytes_at(tmp_path)))
    unpacked = unpack(luggage, tmp_path / "node")
    assert unpacked.faults == ()
    assert unpacked.paths == {}, "what is where the plan says is used there"
    assert {path.read_bytes() for path in unpacked.plugins} >= {SEES.read_bytes()}


def test_a_small_file_travels(tmp_path: Path) -> None:
    path = bytes_at(tmp_path)
    plan = weighted(tmp_path, path)
    luggage = pack(plan)
    path.unlink()
    unpacked = unpack(luggage, tmp_path / "node")
    assert unpacked.faults == ()
    arm = unpacked.arm(plan.arms[0])
    assert Path(str(arm.options["weights"])).read_bytes() == b"\x21weights"
    assert arm.identity == plan.arms[0].identity


def large(luggage: Luggage) -> Luggage:
    """As if every input were too large to travel."""
    return replace(luggage, inputs={name: replace(parcel, content=None) for name, parcel in luggage.inputs.items()})


def test_a_large_file_is_found_by_its_digest_or_named_as_missing(tmp_path: Path) -> None:
    path = bytes_at(tmp_path)
    luggage = large(pack(weighted(tmp_path, path)))
    place = tmp_path / "weights" / "org" / "name" / "w.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\x22weights")
    path.unlink()
    fault = " ".join(unpack(luggage, tmp_path / "node").faults)
    assert f"{path} is missing" in fault
    assert luggage.inputs[str(path)].sha256[:12] in fault
    place.write_bytes(b"\x21weights")
    unpacked = unpack(luggage, tmp_path / "node")
    assert (unpacked.faults, unpacked.paths) == ((), {str(path): str(place)})


def test_a_file_above_the_limit_does_not_travel(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    with path.open("wb") as file:
        file.truncate(TRAVELS + 1)
    assert [parcel.content for parcel in pack(weighted(tmp_path, path)).inputs.values()] == [None]


def test_so_many_small_files_that_they_do_not_fit_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(luggage_module, "TRAVELS_IN_ALL", 10)
    assert [parcel.content for parcel in pack(weighted(tmp_path, bytes_at(tmp_path, b"x" * 10))).inputs.values()] != [
        None
    ]
    assert [parcel.content for parcel in pack(weighted(tmp_path, bytes_at(tmp_path, b"x" * 11))).inputs.values()] == [
        None
    ]


def test_other_weights_at_the_same_place_are_refused(tmp_path: Path) -> None:
    path = bytes_at(tmp_path)
    luggage = large(pack(weighted(tmp_path, path)))
    path.write_bytes(b"\x22weights")
    assert any("is missing (SHA-256" in fault for fault in unpack(luggage, tmp_path / "node").faults)


def test_weights_that_no_option_names_are_compared_by_the_identity_of_the_model(tmp_path: Path) -> None:
    path = bytes_at(tmp_path)
    luggage = replace(pack(weighted(tmp_path, path)), inputs={})
    path.write_bytes(b"\x22weights")
    assert unpack(luggage, tmp_path / "node").faults == ("model 'a': other weights than planned: weights",)
    path.unlink()
    (fault,) = unpack(luggage, tmp_path / "node").faults
    assert "FileNotFoundError" in fault


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"code": {"harness": "0" * 64}}, "package harness has the code"),
        ({"code": {"no_such_package": "0" * 64}}, "package no_such_package is not installed"),
        ({"versions": {"torch": "0.1"}}, "not 0.1: install the driver's version"),
    ],
)
def test_other_code_is_refused_before_anything_else_is_looked_at(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    luggage = replace(pack(weighted(tmp_path, bytes_at(tmp_path))), **change)
    assert any(named in fault for fault in unpack(luggage, tmp_path / "node").faults)
    assert not (tmp_path / "node").exists()


def test_another_metric_than_planned_is_refused_and_a_missing_one_is_told(tmp_path: Path) -> None:
    plan = planned(tmp_path, base(generate=[{**base()["generate"][0], "metrics": ["fake/unavailable"]}]))
    luggage = pack(plan)
    key = canonical({"name": "fake/unavailable", "options": {}})
    assert unpack(luggage, tmp_path / "node").unavailable == {key: "weights of the backbone are missing"}
    luggage = pack(weighted(tmp_path, bytes_at(tmp_path)))
    other = replace(luggage, metrics=tuple({**use, "identity": {"lock": "other"}} for use in luggage.metrics))
    assert unpack(other, tmp_path / "node").faults == ("metric ray/sees: its identity differs from the plan's",)


def test_a_plugin_travels_with_what_lies_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "__init__.py").write_text("from parts.deep import LEVEL\n")
    (folder / "parts" / "deep.py").write_text("LEVEL = 1\n")
    (folder / "beside.py").write_text("LEVEL = 2\n")
    (folder / "data.bin").write_bytes(b"left behind")
    plugin = folder / "mine.py"
    plugin.write_text("import beside, parts\nassert (beside.LEVEL, parts.LEVEL) == (2, 1)\n")
    registry.load_plugin(plugin)
    unpacked = unpack(pack(weighted(tmp_path, bytes_at(tmp_path))), tmp_path / "node")
    assert unpacked.faults == ()
    (brought,) = (path for path in unpacked.plugins if path.name == "mine.py")
    names = {path.relative_to(brought.parent).as_posix() for path in brought.parent.rglob("*") if path.is_file()}
    assert {name for name in names if not name.endswith(".pyc")} == {
        "mine.py",
        "beside.py",
        "parts/__init__.py",
        "parts/deep.py",
    }


def test_a_model_that_only_this_process_knows_is_refused_before_anything_starts(tmp_path: Path) -> None:
    moving = registry.models.get("fake/moving")

    class Here(moving):  # type: ignore[misc, valid-type]
        """Registered by a test, not by a file."""

    registry.models.register("here/alone")(Here)
    plan = planned(tmp_path, base(models=[{"name": "here/alone", "label": "a"}]))
    with pytest.raises(RegistryError, match="defined in this process alone"):
        pack(plan)


def test_the_digest_of_a_package_is_that_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "one_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = code_digest("one_package")
    (package / "deep").mkdir()
    (package / "deep" / "part.py").write_text("x = 1\n")
    second = code_digest("one_package")
    (package / "deep" / "part.py").write_text("x = 2\n")
    assert len({first, second, code_digest("one_package"), file_sha256(package / "__init__.py")}) == 4
    assert code_digest("no_such_package") == ""


def test_a_keeper_deletes_what_killed_ones_have_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = Keeper()
    left = tmp_path / f"{FOLDER}left"
    left.mkdir()
    (left / LOCK).touch()
    (tmp_path / "other").mkdir()
    second = Keeper()
    assert sorted(tmp_path.iterdir()) == sorted([first.folder, second.folder, tmp_path / "other"])
    (first.folder / "a.log").write_bytes(b"x" * (2 * MOST_OF_ONE) + b"the end")
    assert first.printed("a.log").endswith(b"the end")
    assert len(first.printed("a.log")) == MOST_OF_ONE
    assert first.printed("none.log") == b""
    for keeper in (first, second):
        keeper.close()
        keeper.lock.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]

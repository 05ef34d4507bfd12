"""A package from outside adds a model and a metric by entry points: installed for real, listed, checked and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.runs.records import RecordFile

PACKAGE = Path(__file__).parents[1] / "data" / "outside_package"
SUITE = {
    "suite": "outside",
    "models": [{"name": "outside/stripes", "label": "stripes", "options": {"chunk": 3}}],
    "prompts": {"p": ["wide", "narrow"]},
    "generate": [{"name": "short", "prompts": "p", "seeds": [0], "frames": 7, "metrics": ["outside/redness"]}],
}
HARNESS = ("-c", "from harness.cli.main import main; main()")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package was installed into with pip."""
    folder = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(PACKAGE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(source)], capture_output=True, text=True, check=False
    )
    if "No module named pip" in done.stderr or "setuptools" in done.stderr:
        pytest.skip("pip and setuptools are needed to install a package")
    assert done.returncode == 0, done.stderr
    return folder / "site"


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_an_installed_package_is_listed_checked_and_run(site: Path, tmp_path: Path) -> None:
    listed = python(site, *HARNESS, "list", "models")
    assert "outside/stripes" in listed.stdout, listed.stderr
    checked = python(site, *HARNESS, "check", "outside/stripes")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    suite = tmp_path / "s.yaml"
    suite.write_text(yaml.safe_dump(SUITE, sort_keys=False))
    done = python(site, *HARNESS, "run", str(suite), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    records = list(RecordFile(tmp_path / "run" / "records.jsonl").records())
    assert [record.status for record in records] == ["ok"] * 4
    redness = [record.values["redness"] for record in records if record.kind == "score"]
    assert all(100 < value < 150 for value in redness), "half of every row is red"


def test_without_the_package_its_model_is_unknown(tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text(yaml.safe_dump(SUITE, sort_keys=False))
    done = python(tmp_path, *HARNESS, "run", str(suite), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert f"{suite}:3: unknown model 'outside/stripes'" in done.stdout + done.stderr

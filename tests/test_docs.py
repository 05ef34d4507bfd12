"""Pages name files, links and headings that exist, their examples run, and their pins are those of constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.contracts import Clip, ProbeContext, Subject, Workload, registry
from harness.suite.load import load_suite
from harness.testing import check_model, check_probe

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "harness/**/*.md", "models/**/*.md", "results/**/README.md")
    for path in ROOT.glob(pattern)
)
FENCED = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s:#]*)(#[^)\s]*)?\)")
QUOTED = re.compile(
    r"`((?:harness|models|suites|tests|results|docs|examples|\.ci|\.github)/[\w./\-]*"
    r"|(?:[\w.\-]+/)+[\w.\-]+\.(?:py|md|ya?ml|jsonl?|csv|lock|txt|toml|sh))`"
)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _anchors(page: Path) -> set[str]:
    """The anchors that a renderer of Markdown gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", _text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_are_there() -> None:
    names = {_name(page) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/concepts.md", "docs/design.md", "harness/probes/RULES.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for path, anchor in LINK.findall(FENCED.sub("", _text(page))):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor[1:] not in _anchors(target)):
            dead.append(path + anchor)
    assert not dead


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_quoted_paths_exist(page: Path) -> None:
    assert [path for path in QUOTED.findall(_text(page)) if not (ROOT / path).exists()] == []


def test_paths_of_files_that_moved_are_seen() -> None:
    assert QUOTED.findall("`report/cells.py`, `tests/data/`, not `harness list`, `a/b` or `c.py`") == [
        "report/cells.py",
        "tests/data/",
    ]
    assert LINK.findall("[a](docs/a.md#b) [c](#d) [e](https://f.g)") == [("docs/a.md", "#b"), ("", "#d")]


def test_the_trees_folders_exist() -> None:
    (tree,) = re.findall(r"^## The tree\n\n(.*?)\n\n", _text(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    room, named = "", []
    for line in tree.splitlines():
        folders = re.findall(r"([\w.]+)/ ?", line[4:26])
        files = re.findall(r"[\w]+\.py", line[4:26])
        assert folders or files, line
        assert [file for file in files if not (ROOT / room / file).is_file()] == []
        if folders and line.startswith("    " + folders[0]):
            room = folders[0] if folders[0] in ("harness", "models") else ""
            named += folders
        else:
            named += [f"{room}/{folder}" for folder in folders]
    assert [folder for folder in named if not (ROOT / folder).is_dir()] == []
    for room in ("harness", "models"):
        rooms = {f"{room}/{each.name}" for each in (ROOT / room).iterdir() if (each / "__init__.py").is_file()}
        assert rooms <= set(named)


@pytest.fixture
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is gone after its test."""
    for kind in (registry.models, registry.metrics, registry.probes):
        monkeypatch.setattr(kind, "_classes", dict(kind._classes))
    monkeypatch.setattr(registry, "plugin_files", list(registry.plugin_files))


def _example(page: str, tmp_path: Path) -> None:
    """Load the Python example of a page as the plug-in file that it is to be saved as."""
    text = _text(ROOT / page)
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (name,) = set(re.findall(r"Save this as `(\w+\.py)`", text))
    (tmp_path / name).write_text(block, encoding="utf-8")
    registry.load_plugin(tmp_path / name)


@pytest.mark.usefixtures("_forgotten")
def test_the_readmes_model_keeps_the_contract(tmp_path: Path) -> None:
    _example("README.md", tmp_path)
    findings = check_model("lab/bar", live=True)
    assert [finding for finding in findings if finding.ok is False] == []
    assert any(finding.name.startswith("stream") and finding.ok for finding in findings)
    (block,) = re.findall(r"```python\n(.*?)```", _text(ROOT / "README.md"), re.DOTALL)
    assert len(block.splitlines()) <= 32


@pytest.mark.usefixtures("_forgotten")
def test_the_metric_of_the_guide_scores(tmp_path: Path) -> None:
    _example("docs/add-a-metric.md", tmp_path)
    frames = np.full((5, 8, 8, 3), 100, np.uint8)
    clip = Clip(tmp_path / "c.mp4", "a cat", 0, 0, 5, 8, 8, 8.0, "", lambda: frames)
    assert registry.metrics.create("lab/brightness", {}).score(clip) == {"brightness": 100.0}


@pytest.mark.usefixtures("_forgotten")
def test_the_probe_of_the_guide_measures(tmp_path: Path) -> None:
    _example("README.md", tmp_path)
    _example("docs/add-a-probe.md", tmp_path)
    assert [finding for finding in check_probe("lab/chunks") if finding.ok is False] == []
    model = registry.models.create("lab/bar", {"chunk": 5})
    subject = Subject("lab/bar", {"chunk": 5}, model.describe(), "cpu", lambda: model)
    measurement = registry.probes.create("lab/chunks", {}).measure(
        subject, Workload(("a",), (0,), 12), ProbeContext("cpu", tmp_path)
    )
    assert measurement.values == {"chunks": 3, "first_frames": 5}
    assert measurement.samples == {"frames": [5, 5, 2]}


def test_the_suite_of_the_guide_loads(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(suite: .*?)```", _text(ROOT / "docs/concepts.md"), re.DOTALL)
    (tmp_path / "prompts").symlink_to(ROOT / "suites" / "prompts")
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    suite = load_suite(tmp_path / "mine.yaml")
    assert [entry.label for entry in suite.models] == ["dense", "videomla [steps=4]", "videomla [steps=8]"]


def test_pre_commit_has_the_pinned_ruff() -> None:
    (pinned,) = re.findall(r"^ruff==(\S+)$", _text(ROOT / "constraints.txt"), re.MULTILINE)
    hooks = yaml.safe_load(_text(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    used = [package for hook in hooks for package in hook.get("additional_dependencies", [])]
    assert used == [f"ruff=={pinned}"] * 2


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load(_text(ROOT / "CITATION.cff"))
    project = tomllib.loads(_text(ROOT / "pyproject.toml"))["project"]
    assert (citation["title"], citation["version"], citation["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    assert {"cff-version", "message", "authors"} <= set(citation)


def test_the_workflow_runs_the_command_of_this_repository() -> None:
    workflow = yaml.safe_load(_text(ROOT / ".github/workflows/ci.yml"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111

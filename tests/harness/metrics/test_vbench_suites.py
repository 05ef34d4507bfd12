import json
import shutil
from pathlib import Path

import pytest

from harness.errors import SuiteError
from harness.metrics.vbench_protocol import SuitePrompt, write_prompts
from harness.suite.load import load_suite

SUITES = Path(__file__).parents[3] / "suites"


@pytest.fixture
def suites(tmp_path, monkeypatch):
    """The project's suites beside prompt files as the user makes them."""
    folder = tmp_path / "suites"
    folder.mkdir()
    for path in SUITES.glob("vbench_*.yaml"):
        shutil.copy(path, folder)
    (folder / "prompts").mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_short_suite_generates_and_scores_by_the_protocol(suites):
    listed = [
        SuitePrompt("a dog", ("object_class",)),
        SuitePrompt("In a still frame, a sign", ("temporal_flickering",)),
    ]
    write_prompts(suites / "prompts", listed, ["a dog, rewritten", "a sign, rewritten"])
    suite = load_suite(suites / "vbench_short.yaml")
    standard, static = suite.generate
    assert standard.seeds == [0, 1, 2, 3, 4]
    assert static.seeds == list(range(25))
    assert suite.prompts["standard"].texts == ["a dog, rewritten"]
    assert static.metrics[0].options["static_filter"] is True
    total = suite.tables[0].columns[0]
    assert (total.value, total.joined) == ("standard:total", ["static"])
    assert len({column.value for table in suite.tables for column in table.columns}) == 16 + 4


@pytest.mark.parametrize(("name", "frames"), [("vbench_long_30s", 480), ("vbench_long_60s", 960)])
def test_the_long_suites_take_the_first_128_prompts_of_the_users_file(suites, tmp_path, name, frames):
    with pytest.raises(SuiteError, match=r"moviegen\.txt does not exist"):
        load_suite(suites / f"{name}.yaml")
    mine = tmp_path / "MovieGenVideoBench.txt"
    mine.write_text("\n".join(f"prompt {number}" for number in range(1003)))
    suite = load_suite(suites / f"{name}.yaml", [f"prompts.moviegen.file={json.dumps(str(mine))}"])
    assert suite.suite == name
    assert suite.prompts["moviegen"].texts == [f"prompt {number}" for number in range(128)]
    assert [section.frames for section in suite.generate] == [frames]
    assert [metric.options["compat"] for section in suite.generate for metric in section.metrics] == ["long"]
    assert suite.generate[0].frames / 16 == int(name[-3:-1])
    shown = {column.value for table in suite.tables for column in table.columns}
    assert {"long:mean_of_six", "long:dynamic_degree", "long:imaging_spread", "long:imaging_change"} <= shown


def test_compat_is_one_setting_away(suites, tmp_path):
    mine = tmp_path / "p.txt"
    mine.write_text("a dog\n")
    settings = [f"prompts.moviegen.file={json.dumps(str(mine))}", "generate.0.metrics.0.options.compat=upstream_dev"]
    suite = load_suite(suites / "vbench_long_30s.yaml", settings)
    assert suite.generate[0].metrics[0].options["compat"] == "upstream_dev"

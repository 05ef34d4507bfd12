"""`harness run` beside what a folder holds: a dry run that looks at the files, and another suite of the same name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from road import FAKES, base, write

from harness.cli.main import main
from harness.runs.records import load_run

TypeIn = Callable[..., tuple[object, str, str]]


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TypeIn:
    """Types a command in a folder with the suite `s.yaml`; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base(device="cpu"))

    def call(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--plugin", str(FAKES)])
        text = capsys.readouterr()
        return ended.value.code, text.out, text.err

    return call


def test_a_dry_run_finds_lost_clips_and_with_verify_changed_ones(type_in: TypeIn, tmp_path: Path) -> None:
    assert type_in("run", "s.yaml")[0] == 0
    lost, changed, *_ = sorted((tmp_path / "runs" / "small" / "clips").rglob("*.mp4"))
    lost.unlink()
    body = bytearray(changed.read_bytes())
    body[-1] ^= 1
    changed.write_bytes(body)
    before = sorted((tmp_path / "runs").rglob("*"))
    # A clip that is lost takes the score of it along.
    assert "holds records of 6 of them; a run would do the other 2" in type_in("run", "s.yaml", "--dry-run")[1]
    _, out, _ = type_in("run", "s.yaml", "--dry-run", "--verify")
    assert "holds records of 4 of them; a run would do the other 4" in out
    assert "4 of those have a record, and a clip or file that is lost or changed" in out
    assert sorted((tmp_path / "runs").rglob("*")) == before
    _, out, _ = type_in("run", "s.yaml", "--verify")
    assert "8 units: 6 done before, 2 done now" in out


def test_another_suite_of_the_same_name_does_not_replace_a_plan_in_silence(type_in: TypeIn, tmp_path: Path) -> None:
    type_in("run", "s.yaml")
    plan = (tmp_path / "runs/small/plan.json").read_bytes()
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", base(device="cpu", prompts={"p": ["three"]}))
    code, _, err = type_in("run", "other/s.yaml")
    assert code == 2
    assert "runs/small holds the plan and records of another suite or of other options: none of its 8 units" in err
    assert "--out DIR" in err
    assert (tmp_path / "runs/small/plan.json").read_bytes() == plan
    code, out, _ = type_in("run", "other/s.yaml", "--replace-plan")
    assert code == 0
    assert "8 of 8 units of the plan before are no longer planned" in out
    assert len(load_run(tmp_path / "runs/small").index) == 12


def test_a_suite_that_was_edited_goes_on_and_says_what_went(type_in: TypeIn, tmp_path: Path) -> None:
    type_in("run", "s.yaml")
    write(tmp_path, base(device="cpu", prompts={"p": ["two", "three"]}))
    code, out, _ = type_in("run", "s.yaml")
    assert code == 0
    assert "8 units: 4 done before, 4 done now" in out
    assert "4 of 8 units of the plan before are no longer planned" in out
    write(tmp_path, base(device="cpu", prompts={"p": ["two", "three", "four"]}))
    assert "no longer planned" not in type_in("run", "s.yaml")[1]


def test_a_plan_without_records_may_go(type_in: TypeIn, tmp_path: Path) -> None:
    (tmp_path / "runs/small").mkdir(parents=True)
    type_in("run", "s.yaml", "--out", "elsewhere")
    (tmp_path / "runs/small/plan.json").write_bytes((tmp_path / "elsewhere/plan.json").read_bytes())
    data = yaml.safe_load((tmp_path / "s.yaml").read_text())
    write(tmp_path, {**data, "prompts": {"p": ["three"]}})
    assert type_in("run", "s.yaml")[0] == 0


def test_a_plan_shows_prompts_and_what_a_run_would_do_and_take(type_in: TypeIn, tmp_path: Path) -> None:
    texts = [f"prompt {number}" for number in range(5)]
    turns = [{"frame": 4, "prompts": "q"}]
    section = {**base()["generate"][0], "switches": turns}
    write(tmp_path, base(device="cpu", prompts={"p": texts, "q": [*texts[1:], "the last"]}, generate=[section]))
    _, out, _ = type_in("plan", "s.yaml")
    assert "short: 5 prompts (p), 2 seeds each" in out
    assert "  2: prompt 2 | from frame 4: prompt 3" in out
    assert "prompt 4 | from" not in out
    assert "runs/small holds records of 0 of them; a run would do the other 20" in out
    assert "no estimate for 20 units, as no earlier record is of fake/moving (10), fake/brightness (10)" in out
    _, out, _ = type_in("plan", "s.yaml", "--prompts")
    assert "  4: prompt 4 | from frame 4: the last" in out
    assert type_in("run", "s.yaml", "--limit", "4")[0] == 3
    assert "of work and 0." in type_in("plan", "s.yaml")[1]
    _, out, _ = type_in("run", "s.yaml", "--dry-run")
    assert "a run would do the other 16" in out
    assert " MB for 16 units, by earlier records" in out


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_that_is_none_is_refused(type_in: TypeIn, rate: str) -> None:
    code, _, err = type_in("plan", "s.yaml", "--rate", rate)
    assert (code, "expected TFLOP a second, above 0" in err) == (2, True)


def test_an_estimate_from_no_run_is_refused(type_in: TypeIn) -> None:
    assert "is no run folder" in type_in("plan", "s.yaml", "--from", "absent")[2]


def test_a_quiet_run_says_failures_alone_and_a_verbose_one_each_unit(type_in: TypeIn, tmp_path: Path) -> None:
    models = [{"name": "fake/raises", "label": "a", "options": {"when": "two"}}]
    write(tmp_path, base(device="cpu", models=models))
    code, out, err = type_in("run", "s.yaml", "-q")
    assert code == 1
    assert "8 units" in out
    assert [line.split()[0] for line in err.splitlines()] == ["failed:", "skipped:", "failed"]
    _, _, err = type_in("run", "s.yaml", "--out", "other", "-v")
    assert err.count("ok: ") == 4
    assert "(score short a fake/brightness)" in err
    code, _, err = type_in("run", "s.yaml", "-q", "-v")
    assert (code, "--quiet and --verbose do not go together" in err) == (2, True)

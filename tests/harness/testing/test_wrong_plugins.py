"""Each small wrong plug-in is told by the name of its fault, and nothing else of it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.contracts import registry
from harness.errors import RegistryError
from harness.testing import Finding, check_metric, check_model, check_named, check_probe, probe
from harness.testing import finding as finding_module

WRONG = Path(__file__).parents[2] / "data" / "wrong_plugins.py"


@pytest.fixture(autouse=True)
def _wrong() -> None:
    registry.load_plugin(WRONG)


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: f"{finding.detail} ({finding.fix})" for finding in findings if finding.ok is False}


@pytest.mark.parametrize("name", ["right/noise", "right/no_switch"])
def test_a_right_model_passes(name: str) -> None:
    findings = check_model(name)
    assert failed(findings) == {}
    assert sum(finding.ok is True for finding in findings) >= 14


@pytest.mark.parametrize(
    ("name", "finding", "says"),
    [
        ("seed", "another seed gives another clip", "not a byte of the clip changes .*request.seeds"),
        ("prompt", "another prompt gives another clip", "not a byte of the clip changes .*request.prompts"),
        ("one_stream", "a clip of a batch follows its own prompt and seed", "clip 1 .* grey levels .*not one stream"),
        ("one_prompt", "a clip of a batch follows its own prompt and seed", "clip 1 .* grey levels"),
        ("unseeded", "equal seeds give equal clips", "bytes differ"),
        ("frozen", "frames differ within a clip", "all 13 frames are the same"),
        ("black", "pixels differ within a clip", "every pixel is black"),
        ("span", "span names", r"'chunk\[0\].denoize'.*did you mean chunk\[i\].denoise"),
        ("switch", "a prompt switch changes what follows", "refuse them in check_request"),
        ("early_switch", "a prompt switch changes nothing before the frame that it states", "bytes differ"),
        ("agreement", "agreement with its reference", "relative error 5.00e-01 against a sum"),
        ("left", "clip unchanged after a stream was left", "bytes differ"),
        ("tiny", "tiny", "has no option 'smal' .*small"),
    ],
)
def test_a_wrong_model_is_told_by_its_fault(name: str, finding: str, says: str) -> None:
    faults = failed(check_model(f"wrong/{name}"))
    assert re.search(says, faults[finding]), faults


@pytest.mark.parametrize("name", ["seed", "one_stream", "span", "switch", "early_switch", "agreement"])
def test_a_fault_is_told_once(name: str) -> None:
    assert len(failed(check_model(f"wrong/{name}"))) == 1


def test_a_large_model_is_tried_at_its_tiny_size_and_live_at_its_own() -> None:
    findings = check_model("right/large")
    assert failed(findings) == {}
    assert ["its tiny size" in finding.detail for finding in findings if finding.name == "tiny"] == [True]
    assert any(finding.name == "a batch of 2" for finding in findings)
    assert "too large for this machine" in failed(check_model("right/large", live=True))["load"]
    left = check_model("right/large", live=False)[-1]
    assert (left.name, left.ok, left.fix) == ("stream", None, "try --live")


def test_a_stream_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding_module, "STEP_S", 0.2)
    assert failed(check_model("wrong/waits")) == {"stream of 13 frames": "TimeoutError: no end within 0.2 s ()"}


# --------------------------------------------------------------------------------------------- metrics


def test_a_right_metric_passes_and_one_of_another_environment_waits_for_live() -> None:
    findings = check_metric("right/two", live=True)
    assert failed(findings) == {}
    assert {"derive of some means", "score of one frame", "score of a longer clip"} <= {each.name for each in findings}
    assert [each.name for each in check_metric("right/two") if each.name.startswith("score")] == ["score"]
    last = check_metric("right/elsewhere")[-1]
    assert (last.name, last.ok, last.fix) == ("score", None, "try --live")
    assert check_metric("right/elsewhere", live=True)[-1].ok


@pytest.mark.parametrize(
    ("name", "finding", "says"),
    [
        ("derive_some", "derive of some means", "not enough values"),
        ("derive_undefined", "derive of undefined means", "cannot convert float NaN"),
        ("derive_none", "derive of no means", "ZeroDivisionError"),
        ("derive_name", "derive of all means", "does not declare: total"),
        ("derive_lacks", "derive of all means", "gives no sum though every mean is there"),
        ("samples", "samples before a score", "NoneType"),
        ("keep", "keep", "counts a clip that does not define it"),
        ("asked", "asked_for", "does not declare: three"),
        ("aggregate", "aggregate one", "is a int, not a float"),
        ("random", "score", "scored twice gives two scores"),
    ],
)
def test_a_wrong_metric_is_told_by_its_fault(name: str, finding: str, says: str) -> None:
    faults = failed(check_metric(f"wrong/{name}"))
    assert says in faults[finding], faults


def test_a_metric_that_fails_on_one_frame_is_told_live() -> None:
    assert failed(check_metric("wrong/one_frame")) == {}
    assert "ZeroDivisionError" in failed(check_metric("wrong/one_frame", live=True))["score of one frame"]


# ---------------------------------------------------------------------------------------------- probes


def test_a_right_probe_measures_by_its_tiny_options() -> None:
    findings = check_probe("right/count")
    assert failed(findings) == {}
    assert (findings[-1].name, findings[-1].ok) == ("measure", True)
    assert check_probe("right/count", live=False)[-1].ok is None
    assert failed(check_probe("right/count", {"times": 2}, live=True)) == {}


def test_a_probe_that_needs_another_model_says_so_and_takes_it() -> None:
    last = check_probe("right/picky")[-1]
    assert (last.ok, last.detail, last.fix) == (None, "stand-in is no noise", "name right/noise")
    assert check_named("right/picky", on="right/noise")[-1].ok
    with pytest.raises(RegistryError, match="unknown model 'right/nois'"):
        check_probe("right/picky", on="right/nois")


@pytest.mark.parametrize(
    ("name", "finding", "says"),
    [
        ("raises", "measure", "ZeroDivisionError: no request was timed"),
        ("value", "measure", "does not declare: question"),
        ("mapping", "measure", "gave a dict, not a Measurement"),
        ("plot", "measure", "declares the plot chunk_time, and gave no chunk_s_by_index"),
        ("table", "measure", "gave a table that it does not declare"),
        ("tiny_option", "tiny", "has no option 'time'"),
    ],
)
def test_a_wrong_probe_is_told_by_its_fault(name: str, finding: str, says: str) -> None:
    faults = failed(check_probe(f"wrong/{name}"))
    assert list(faults) == [finding]
    assert says in faults[finding]


def test_a_probe_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FAST_S", 0.2)
    assert "no end within 0.2 s" in failed(check_probe("wrong/hangs"))["measure"]


# --------------------------------------------------------------------------------------- on the command line


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("right/count", 0, r"ok +measure$"),
        ("right/elsewhere", 0, r"not tried score: it runs in environment 'quality' \(try --live\)$"),
        (
            "wrong/seed",
            1,
            r"FAILED +another seed gives another clip: not a byte .* \(draw all noise from request.seeds",
        ),
    ],
)
def test_the_command_prints_a_line_a_check_and_ends_with_its_code(name: str, code: int, line: str) -> None:
    command = [sys.executable, "-m", "harness", "check", name, "--plugin", str(WRONG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert re.search(line, done.stdout, re.MULTILINE), done.stdout

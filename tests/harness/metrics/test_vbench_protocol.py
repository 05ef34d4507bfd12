import json
from fractions import Fraction

import numpy as np
import pytest

from harness.errors import HarnessError, NotAvailable
from harness.metrics import vbench_protocol as protocol
from harness.metrics.vbench import read_short
from harness.metrics.vbench_protocol import SampleClip, SuitePrompt
from harness.system.video import write

LISTED = [
    SuitePrompt("a dog", ("object_class",)),
    SuitePrompt("a still frame", ("temporal_flickering",)),
    SuitePrompt("a bund", ("appearance_style",)),
    SuitePrompt("a bund", ("overall_consistency", "aesthetic_quality")),
]


def clips(prompt, samples, frames=48, rate=16.0):
    return [SampleClip(f"{prompt}-{i}.mp4", prompt, i, frames, rate) for i in samples]


def whole_set():
    return clips("a dog", range(5)) + clips("a still frame", range(25)) + clips("a bund", range(5))


def texts(findings, kind="error"):
    return [finding.text for finding in findings if finding.kind == kind]


def test_a_prompt_that_stands_twice_becomes_one_with_all_its_dimensions():
    merged = protocol.suite(LISTED)
    assert [entry.text for entry in merged] == ["a dog", "a still frame", "a bund"]
    assert merged[2].dimensions == ("appearance_style", "overall_consistency", "aesthetic_quality")
    assert [entry.samples for entry in merged] == [5, 25, 5]


def test_a_full_set_passes():
    assert protocol.preflight(whole_set(), protocol.suite(LISTED)) == []
    filtered = clips("a dog", range(5)) + clips("a still frame", range(5)) + clips("a bund", range(5))
    assert protocol.preflight(filtered, protocol.suite(LISTED), filtered=True) == []
    assert len(texts(protocol.preflight(filtered, protocol.suite(LISTED)))) == 1


def test_missing_and_surplus_clips_are_counted():
    made = [clip for clip in whole_set() if clip.name not in ("a dog-3.mp4",) and clip.prompt != "a bund"]
    made += clips("a still frame", [3, 30])
    found = texts(protocol.preflight(made, protocol.suite(LISTED)))
    assert any("1 of 3 prompts have no clip" in text and "a bund" in text for text in found)
    assert any("'a dog' lacks [3]" in text for text in found)
    assert any("[30] beyond" in text and "[3] twice" in text for text in found)


def test_an_unknown_prompt_is_answered_with_the_nearest():
    found = texts(protocol.preflight([*whole_set(), *clips("a dogg", [0])], protocol.suite(LISTED)))
    assert len(found) == 1
    assert "a dog" in found[0]


def test_clip_lengths_are_compared_and_long_ones_are_noted():
    made = whole_set()
    mixed = [*made[:-1], SampleClip("a bund-4.mp4", "a bund", 4, 2, 16.0)]
    found = texts(protocol.preflight(mixed, protocol.suite(LISTED)))
    assert any("differ in length" in text for text in found)
    assert any("fewer than 3 frames" in text for text in found)
    long = [SampleClip(clip.name, clip.prompt, clip.index, 81, 16.0) for clip in made]
    assert texts(protocol.preflight(long, protocol.suite(LISTED))) == []
    assert "VBench-Long" in texts(protocol.preflight(long, protocol.suite(LISTED)), "note")[0]


def test_the_filter_keeps_the_first_five_in_the_order_of_file_names():
    everything = [(index, True) for index in range(25)]
    assert protocol.first_static(everything) == [0, 1, 10, 11, 12]
    assert protocol.first_static([(index, index in (2, 20, 24)) for index in range(25)]) == [2, 20, 24]
    assert protocol.first_static([]) == []


def test_prompt_files_map_augmented_prompts_to_short_ones(tmp_path):
    longer = ["a furry dog", "a very still frame", "a painted bund", "a painted bund"]
    assert protocol.write_prompts(tmp_path / "out", LISTED, longer) == {"vbench.jsonl": 2, "vbench_static.jsonl": 1}
    assert read_short(tmp_path / "out" / "vbench.jsonl") == {"a furry dog": ["a dog"], "a painted bund": ["a bund"]}
    row = json.loads((tmp_path / "out" / "vbench_static.jsonl").read_text())
    assert row == {"prompt": "a very still frame", "short": "a still frame", "dimensions": ["temporal_flickering"]}
    with pytest.raises(HarnessError, match="3 augmented prompts for the 4"):
        protocol.write_prompts(tmp_path, LISTED, longer[:3])


def test_a_folder_is_read_by_its_file_names(tmp_path):
    pixels = np.zeros((4, 16, 16, 3), np.uint8)
    names = ["a dog-0", "it's 5 o'clock - a \"dog\"_run-12"]
    for name in names:
        write(tmp_path / f"{name}.mp4", [pixels], Fraction(16), 8, "medium")
    (tmp_path / "no number.mp4").touch()
    (tmp_path / "empty-0.mp4").touch()
    (tmp_path / "a dog-1.MP4").touch()
    (tmp_path / ".hidden-0.mp4").touch()
    (tmp_path / "folder-0.mp4").mkdir()
    made, findings = protocol.folder_clips(tmp_path)
    assert [(clip.prompt, clip.index, clip.frames) for clip in made] == [
        ("a dog", 0, 4),
        ("it's 5 o'clock - a \"dog\"_run", 12, 4),
    ]
    assert len(findings) == 3
    assert all(any(name in finding.text for name in ("no number", "empty", "MP4")) for finding in findings)


def test_the_program_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path))
    with pytest.raises(NotAvailable, match="not built"):
        protocol.entries()
    with pytest.raises(SystemExit) as ended:
        protocol.main(["check", str(tmp_path)])
    assert ended.value.code == 1
    assert "harness env build vbench" in capsys.readouterr().err

"""VBench's standard protocol as data: which prompts, how many samples of each, and whether a set of clips fits it.

The prompts come from the installed package (VBench_full_info.json), not from this project. As a program it writes
prompt files for suites, or checks a folder of clips:

    python -m harness.metrics.vbench_protocol prompts FOLDER [--augmented FILE]
    python -m harness.metrics.vbench_protocol check FOLDER
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.environments.build import Environment, find
from harness.errors import HarnessError, Incomplete, nearest
from harness.system.files import write_atomic
from harness.system.video import inspect

ENTRIES = 946
"""Lines of the package's list, in the order of its prompts/all_dimension.txt; two prompts stand twice."""

SAMPLES = 5
"""Clips of each prompt."""

FILTERED_SAMPLES = 25
"""Clips of each temporal flickering prompt, of which the static filter keeps the first five that stand still."""

LONG_SECONDS = 5.0
"""From this length on, VBench's authors send a clip to VBench-Long."""

FLICKER = "temporal_flickering"
_NAME = re.compile(r"(?P<prompt>.*)-(?P<index>\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SuitePrompt:
    """A prompt of the suite, and the dimensions it is scored on."""

    text: str
    dimensions: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Clips to generate."""
        return FILTERED_SAMPLES if FLICKER in self.dimensions else SAMPLES


@dataclass(frozen=True, slots=True)
class SampleClip:
    """A clip of a folder: its prompt of the suite, the number of its sample, and its length."""

    name: str
    prompt: str
    index: int
    frames: int
    frame_rate: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of a preflight. With an `error` the scores are no standard VBench scores; a `note` is worth knowing."""

    kind: Literal["error", "note"]
    text: str


def entries(environment: Environment | None = None) -> list[SuitePrompt]:
    """The package's list as it stands, doubles included. Raises `NotAvailable` without the environment."""
    root = (environment or find("vbench")).root
    paths = sorted(root.glob("lib/python*/site-packages/vbench/VBench_full_info.json"))
    if not paths:
        raise HarnessError(f"{root} has no VBench_full_info.json", "type: harness env remove vbench")
    rows = json.loads(paths[0].read_text(encoding="utf-8"))
    return [SuitePrompt(entry["prompt_en"], tuple(entry["dimension"])) for entry in rows]


def suite(entry_list: Sequence[SuitePrompt]) -> list[SuitePrompt]:
    """Every prompt once, with the dimensions of all its entries, in the order of the list."""
    merged: dict[str, tuple[str, ...]] = {}
    for entry in entry_list:
        merged[entry.text] = tuple(dict.fromkeys((*merged.get(entry.text, ()), *entry.dimensions)))
    return [SuitePrompt(text, dimensions) for text, dimensions in merged.items()]


def write_prompts(folder: Path, entry_list: Sequence[SuitePrompt], augmented: Sequence[str] = ()) -> dict[str, int]:
    """Write `vbench.jsonl` and `vbench_static.jsonl` (the prompts of temporal flickering) into `folder`.

    Each line has `prompt`, what a clip is made from, `short`, what it is scored by, and `dimensions`. `augmented` is
    one text for each entry of the list, in its order; an empty one leaves that prompt as it is. Returns the number of
    prompts by file.
    """
    if augmented and len(augmented) != len(entry_list):
        raise HarnessError(f"{len(augmented)} augmented prompts for the {len(entry_list)} entries of VBench's list")
    augmented_by_prompt = (
        {entry.text: text for entry, text in zip(entry_list, augmented, strict=True) if text.strip()}
        if augmented
        else {}
    )
    files: dict[str, list[str]] = {"vbench.jsonl": [], "vbench_static.jsonl": []}
    for entry in suite(entry_list):
        row = {
            "prompt": augmented_by_prompt.get(entry.text, entry.text),
            "short": entry.text,
            "dimensions": entry.dimensions,
        }
        name = "vbench_static.jsonl" if FLICKER in entry.dimensions else "vbench.jsonl"
        files[name].append(json.dumps(row, ensure_ascii=False))
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        write_atomic(folder / name, "\n".join(lines) + "\n")
    return {name: len(lines) for name, lines in files.items()}


def first_static(clips: Iterable[tuple[int, bool]], keep: int = SAMPLES) -> list[int]:
    """Which samples of one prompt the package's filter keeps: the first `keep` static ones, as file names sort.

    Names end in `-0`, `-1`, `-10`, `-11`, …: sample 10 comes before sample 2.
    """
    in_file_order = sorted((str(index) for index, static in clips if static), key=lambda text: f"-{text}.mp4")
    return [int(text) for text in in_file_order[:keep]]


def folder_clips(folder: Path) -> tuple[list[SampleClip], list[Finding]]:
    """The clips of a folder named `<prompt>-<number>.mp4`, and an error for every other file."""
    clips, findings = [], []
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.stem)
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.suffix != ".mp4" or match is None:
            findings.append(Finding("error", f"{path.name!r} is not named <prompt>-<number>.mp4"))
            continue
        try:
            info = inspect(path)
        except HarnessError as error:
            findings.append(Finding("error", error.message))
            continue
        clips.append(SampleClip(path.name, match["prompt"], int(match["index"]), info.frames, info.frame_rate))
    return clips, findings


def preflight(clips: Sequence[SampleClip], prompts: Sequence[SuitePrompt], filtered: bool = False) -> list[Finding]:
    """Compare `clips` with the standard protocol: counts, names and clip lengths.

    Args:
        clips: those of a folder.
        prompts: those of the suite, each once.
        filtered: the static filter has been run, so that temporal flickering too has five clips a prompt.
    """
    prompt_by_text = {entry.text: entry for entry in prompts}
    findings = []
    by_prompt: Mapping[str, list[SampleClip]] = defaultdict(list)
    for clip in clips:
        if clip.prompt in prompt_by_text:
            by_prompt[clip.prompt].append(clip)
        else:
            hint = nearest(clip.prompt, prompt_by_text)
            findings.append(Finding("error", f"{clip.name!r}: {clip.prompt[:60]!r} is no prompt of VBench; {hint}"))
    without_clip = [entry.text for entry in prompts if not by_prompt.get(entry.text)]
    if without_clip:
        findings.append(
            Finding("error", f"{len(without_clip)} of {len(prompts)} prompts have no clip, first {without_clip[0]!r}")
        )
    for text, clips_of_prompt in by_prompt.items():
        samples = SAMPLES if filtered else prompt_by_text[text].samples
        numbers = Counter(clip.index for clip in clips_of_prompt)
        lacking = [index for index in range(samples) if index not in numbers]
        beyond = [index for index in numbers if index >= samples]
        twice = sorted(index for index, times in numbers.items() if times > 1)
        faults = [f"lacks {lacking}"] if lacking else []
        faults += [f"has {sorted(beyond)} beyond the {samples} wanted"] if beyond else []
        faults += [f"has {twice} twice"] if twice else []
        if faults:
            findings.append(Finding("error", f"{text[:60]!r} {', '.join(faults)}"))
    return findings + _lengths(clips)


def _lengths(clips: Sequence[SampleClip]) -> list[Finding]:
    findings = []
    lengths = Counter((clip.frames, round(clip.frame_rate, 3)) for clip in clips)
    if len(lengths) > 1:
        frequent = ", ".join(f"{frames} frames at {rate:g}" for (frames, rate), _ in lengths.most_common(4))
        findings.append(Finding("error", f"clips differ in length or frame rate: {frequent}"))
    short = [clip.name for clip in clips if clip.frames < 3]
    if short:
        findings.append(Finding("error", f"{len(short)} clips have fewer than 3 frames, first {short[0]!r}"))
    long = [clip.name for clip in clips if clip.frame_rate > 0 and clip.frames / clip.frame_rate >= LONG_SECONDS]
    if long:
        findings.append(
            Finding("note", f"{len(long)} clips last 5 s or more, which VBench's authors score by VBench-Long")
        )
    return findings


def main(arguments: Sequence[str] | None = None) -> None:
    """Write prompt files or check a folder; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m harness.metrics.vbench_protocol", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    writer = commands.add_parser("prompts", help="write vbench.jsonl and vbench_static.jsonl")
    writer.add_argument("folder", type=Path)
    writer.add_argument("--augmented", type=Path, help="one text a line, in the order of VBench's all_dimension.txt")
    checker = commands.add_parser("check", help="compare a folder of clips with the protocol")
    checker.add_argument("folder", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        entry_list = entries()
        if parsed.command == "prompts":
            # Not str.splitlines, which also splits at characters that a prompt may hold.
            text = parsed.augmented.read_text(encoding="utf-8").strip("\n") if parsed.augmented else ""
            write_prompts(parsed.folder, entry_list, text.split("\n") if text else [])
            return
        clips, findings = folder_clips(parsed.folder)
        findings += preflight(clips, suite(entry_list), filtered=True)
        sys.stderr.writelines(f"{finding.kind}: {finding.text}\n" for finding in findings)
        if any(finding.kind == "error" for finding in findings):
            raise Incomplete(f"{parsed.folder} is not a full set of VBench's standard clips")
    except (HarnessError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code if isinstance(error, HarnessError) else 2) from error


if __name__ == "__main__":
    main()

"""What a run of a plan would do, how long it would take, and which prompts it would use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import shown
from harness.runs.plan import Plan

if TYPE_CHECKING:
    from harness.suite.schema import GenerateSection, MeasureSection

FEW = 3
"""Prompts of a set that are shown unless all are asked for."""


def forecast(
    plan: Plan,
    folders: Sequence[Path],
    earlier: Sequence[Path] = (),
    rate: float | None = None,
    *,
    verify: bool = False,
) -> Iterator[str]:
    """How many units are done in the first of `folders`, or for a shard in any, and what the others would cost.

    Args:
        earlier: further run folders to estimate from. rate: FLOP a second, where no record is of a model.
        verify: compare the digest of every clip file.
    """
    from harness.cli.progress import duration
    from harness.execute import standing
    from harness.execute.products import SCRATCH
    from harness.runs.estimate import costs_of, estimate
    from harness.runs.records import RECORDS, RecordFile

    done: set[str] = set()
    recorded: set[str] = set()
    remarks: dict[str, None] = {}
    for folder in folders:
        records = RecordFile(folder / RECORDS)
        index = records.newest()
        digests = standing.digests(plan, records, index, folder / SCRATCH, verify=verify)
        done |= {unit.key for unit in plan.units if standing.done(unit, digests)}
        remarks |= dict.fromkeys(standing.other_texts(plan, index, digests))
        recorded |= {unit.key for unit in plan.units if (entry := index.get(unit.key)) and entry.status == "ok"}
    to_do = [unit for unit in plan.units if unit.key not in done]
    yield f"{folders[0]} holds records of {len(done):,} of them; a run would do the other {len(to_do):,}"
    if lost := len(recorded - done):
        yield f"{lost:,} of those have a record, and a clip or file that is lost or changed"
    yield from (f"note: {remark}" for remark in remarks)
    files = [RecordFile(folder / RECORDS) for folder in (*folders, *earlier)]
    cost = estimate(plan, to_do, costs_of(files), rate)
    unknown = sum(cost.without.values())
    if told := cost.units - unknown:
        by_flops = "FLOPs of the network alone"
        basis = f"earlier records, {cost.by_rate:,} by {by_flops}" if cost.by_rate else "earlier records"
        size = "" if cost.unweighed else f" and {_size(cost.bytes)}"
        by = by_flops if cost.by_rate == told else basis
        yield f"about {duration(cost.seconds)} of work{size} for {told:,} units, by {by}"
    if unknown:
        what = ", ".join(f"{name} ({count:,})" for name, count in cost.without.items())
        yield f"no estimate for {unknown:,} units, as no earlier record is of {what}: name a run with --from"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def prompt_lines(plan: Plan, every: bool) -> Iterator[str]:
    """The prompts of each section that uses some, with what they switch to; the first few, or `every` one."""
    from harness.suite.scripts import dropped, scripts_of, words

    suite, shown_before = plan.suite, set()
    sections: list[GenerateSection | MeasureSection] = [*suite.generate, *suite.measure]
    for section in sections:
        if not section.prompts:
            continue
        scripts = scripts_of(suite, section)
        what = (section.prompts, *((words(switch), switch.prompts) for switch in section.switches))
        again = ", as above" if what in shown_before else ""
        seeds = "a seed" if len(section.seeds) == 1 else f"{len(section.seeds):,} seeds"
        yield f"{section.name}: {len(scripts):,} prompts ({section.prompts}), {seeds} each{again}"
        if again:
            continue
        shown_before.add(what)
        if lost := dropped(suite, section):
            yield f"  {lost}"
        yield from _frames_of_switches(plan, section)
        width = 4000 if every else 60
        for number, script in enumerate(scripts if every else scripts[:FEW]):
            turns = zip(section.switches, script.later, strict=True)
            later = (f" | from {words(switch)}: {shown(text, width)}" for switch, text in turns if text)
            name = f" (known as {shown(script.identity, width)})" if script.identity != script.text else ""
            yield f"  {number}: {shown(script.text, width)}{name}{''.join(later)}"
        if not every and len(scripts) > FEW:
            yield f"  and {len(scripts) - FEW:,} more (--prompts shows all)"


def _frames_of_switches(plan: Plan, section: GenerateSection | MeasureSection) -> Iterator[str]:
    """The pixel frames of switches that are asked for at other points, with the arms that have them there."""
    from harness.suite.scripts import switch_frames

    if all(switch.frame is not None for switch in section.switches):
        return
    prefixed = bool(plan.suite.prompts[section.prompts].prefixes)
    arms_by_frames: dict[tuple[int, ...], list[str]] = {}
    for arm in plan.arms:
        if section.models is None or arm.label in section.models:
            frames_of_arm = tuple(switch_frames(section, arm.card, prefixed=prefixed))
            arms_by_frames.setdefault(frames_of_arm, []).append(arm.label)
    for frames, labels in arms_by_frames.items():
        yield f"  switches at pixel frames {', '.join(map(str, frames))} ({', '.join(labels)})"

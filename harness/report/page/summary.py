"""What a page says of runs besides their clips: tables, plots, verdicts against the reference, provenance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.report import comparison_table, tables
from harness.report.comparison import compare
from harness.report.plots.chart import Picture, Spot, draw_with_spots
from harness.report.plots.kinds import builders
from harness.report.table import Row, Table
from harness.report.verdicts import Side
from harness.report.view import View, sections
from harness.runs.line import Record, device_label
from harness.runs.plan import Arm
from harness.runs.records import RecordFile, Run
from harness.suite.schema import ALL, Suite
from harness.suite.scripts import dropped, scripts_of, words

T = TypeVar("T")
MOST_PAIRS = 24
"""Arms of a run that are held to its reference; each takes a reading of all its records."""
WORSE = ("WORSE", "SLOWER")
BETTER = ("BETTER", "FASTER", "SAME")


@dataclass(frozen=True, slots=True)
class Shown:
    """What was made, or in its place why not."""

    content: Any = None
    reason: str = ""


def attempt(make: Callable[[], T]) -> Shown:
    """What `make` gives, or the sentence of a `HarnessError`."""
    try:
        return Shown(make())
    except HarnessError as error:
        return Shown(reason=error.message + (f" ({error.fix})" if error.fix else ""))


# --------------------------------------------------------------------------------------- tables and plots


def built(runs: Sequence[Run]) -> Shown:
    """The tables of the runs together."""
    return attempt(lambda: tables.build(runs))


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: its file in the page, the bytes of it, its points with their values, and its width over its height."""

    file: str
    title: str
    remarks: str
    drawn: bytes
    spots: list[Spot]
    ratio: float


def figures(run: Run, prefix: str) -> list[Shown]:
    """Every plot that the suite asks for; file names start with `prefix`."""

    def one(make: Callable[[], Picture]) -> Figure:
        picture = make()
        drawn, spots, ratio = draw_with_spots(picture)
        file = f"plots/{prefix}{picture.name}.svg"
        return Figure(file, picture.title, " ".join(picture.remarks), drawn, spots, ratio)

    return [attempt(partial(one, make)) for make in builders(run)]


# -------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True, slots=True)
class Matrix:
    """Verdicts of one run: a row for each value, a column for each arm, against the reference.

    `rows` are (value, cells); a cell is (verdict, what it rests on, class of its looks). `left_out` counts the arms
    that are not held to the reference here.
    """

    reference: str
    arms: tuple[str, ...]
    rows: list[tuple[str, list[tuple[str, str, str]]]]
    reasons: list[str]
    left_out: int


def matrix(run: Run) -> Shown:
    """The verdicts of `harness compare RUN reference ARM` for every other arm."""
    labels = [arm.label for arm in run.arms]
    reference = run.suite.reference or (labels[0] if labels else "")
    if len(labels) < 2 or reference not in labels:
        return Shown(reason="There are no two models to compare.")
    return attempt(lambda: _matrix(run, reference))


def _matrix(run: Run, reference: str) -> Matrix:
    sides = {arm.label: Side(run, arm) for arm in run.arms}
    others = [label for label in sides if label != reference]
    rows: dict[str, dict[str, tuple[str, str, str]]] = {}
    reasons: list[str] = []
    for label in others[:MOST_PAIRS]:
        pair = sides[reference], sides[label]
        findings = compare([pair])
        drawn = comparison_table.table(findings, pair)
        reasons += [f"{label}: {remark}" for remark in drawn.remarks if remark.endswith(".") and ", as " in remark]
        for finding, row in zip(findings, drawn.rows, strict=True):
            first, second, change, p = row.cells[:4]
            facts = f"{first.text} → {second.text}, {change.text} {change.spread}, p {p.text}; {row.cells[6].text}"
            looks = "worse" if finding.verdict in WORSE else "better" if finding.verdict in BETTER else "unclear"
            looks = "same" if finding.verdict == "SAME" else looks
            said = finding.reason if finding.effect is None else facts
            rows.setdefault(row.label, {})[label] = (finding.verdict + "".join(row.marks), said, looks)
    shown = tuple(others[:MOST_PAIRS])
    missing = ("-", "not compared", "unclear")
    lines = [(name, [cells.get(label, missing) for label in shown]) for name, cells in rows.items()]
    return Matrix(reference, shown, lines, list(dict.fromkeys(reasons)), len(others) - len(shown))


# ------------------------------------------------------------------------------------------ provenance


def provenance(view: View) -> dict[str, Any]:
    """Where the numbers of a run come from: facts as (name, text), its arms, and its sections with their protocol."""
    run = view.run
    counts: Counter[tuple[str, str]] = Counter()
    seen: dict[str, Counter[str]] = {name: Counter() for name in ("device", "commit", "versions")}
    for record in RecordFile(run.folder / "records.jsonl").records():
        counts[record.kind, record.status] += 1
        for name, text in _origin(record).items():
            seen[name][text] += 1
    times = [f"{number:,} {kind}d, {status}" for (kind, status), number in sorted(counts.items())]
    facts = [
        ("suite", f"{run.suite.suite}: {run.suite.title}" if run.suite.title else run.suite.suite),
        ("run folder", run.folder.resolve().name),
        ("planned on", run.device),
        ("records", "; ".join(times).replace("scored,", "score,") or "none"),
        *((name, _listed(texts)) for name, texts in seen.items()),
        ("clips are written as", f"H.264, yuv420p, crf {run.suite.video.crf}, preset {run.suite.video.preset}"),
        *(("note", f"{row}: {text}") for row, texts in view.notes.items() for text in texts),
    ]
    return {"facts": facts, "arms": [_arm(arm) for arm in islice(run.arms, 500)], "protocol": _protocol(run.suite)}


def _origin(record: Record) -> dict[str, str]:
    commit = _commit(record.git)
    if isinstance(suite := record.git.get("suite"), dict) and suite.get("commit") != record.git.get("commit"):
        commit += f", suite {_commit(suite)}"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if version)
    return {"device": device_label(record.device), "commit": commit, "versions": versions or "unknown"}


def _commit(git: Mapping[str, Any]) -> str:
    return f"{str(git.get('commit', 'unknown'))[:12]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _listed(texts: Counter[str]) -> str:
    """Each text, with the number of its records where there are several."""
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{text} ({number:,} records)" for text, number in texts.most_common(20)) or "unknown"


def _arm(arm: Arm) -> tuple[str, ...]:
    """Label, model and version, options, card and weights of an arm, as texts."""
    card = {name: getattr(arm.card, name) for name in arm.card.__slots__ if name not in ("weight_digests", "details")}
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in card.items() if value not in (None, ""))
    digests = ", ".join(f"{name} {digest[:12]}" for name, digest in arm.card.weight_digests.items())
    model = f"{arm.name}, version {arm.identity.get('version', 'unknown')}"
    return arm.label, model, _plain(arm.options), said, digests or "none"


def _protocol(suite: Suite) -> list[tuple[str, str]]:
    """Each section of the suite as one text: prompts, seeds, length, metrics or probe with their options."""
    lines = []
    for section in sections(suite):
        parts = []
        if section.prompts:
            prompts = suite.prompts[section.prompts]
            origin = f" of {prompts.file}, SHA-256 {prompts.sha256[:12]}" if prompts.file else ""
            lost = f" ({text})" if (text := dropped(suite, section)) else ""
            parts.append(f"{len(scripts_of(suite, section)):,} prompts{origin}{lost}")
        parts.append(f"seeds {', '.join(map(str, section.seeds))}")
        parts.append("all frames" if section.frames == ALL else f"{section.frames:,} frames")
        parts += [f"prompt switch at {words(switch)}" for switch in section.switches]
        body: Mapping[str, Any] = section.model_dump(mode="json")
        for use in body.get("metrics", []):
            parts.append(f"metric {use['name']}{f' {_plain(options)}' if (options := use['options']) else ''}")
        if "probe" in body:
            parts.append(f"probe {body['probe']} {_plain(body['options'])}, {body['rounds']} rounds")
        lines.append((section.name, "; ".join(parts)))
    return lines


def _plain(options: Mapping[str, Any]) -> str:
    """As `name=value`; what is empty is left out."""
    filled = {name: value for name, value in options.items() if value not in ("", None, [], {})}
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in filled.items()
    )


def pieces(table: Table) -> tuple[list[Row], list[Row]]:
    """The measured rows of a table, and the published ones."""
    return [row for row in table.rows if not row.published], [row for row in table.rows if row.published]

"""Fill the prompt sets of a suite, and pair their lines where prompts switch, before any line is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import ClipError, HarnessError, SuiteError
from harness.suite.positions import Located
from harness.suite.prompt_schema import BLANK, COMMENT, REPEATED, PrefixFile, PromptSet, ScriptEntry
from harness.suite.prompts import MOST_LETTERS, Columns, Row, check_prompts, read_prompts
from harness.suite.schema import GenerateSection, MeasureSection
from harness.system.yaml_data import Loc, Position


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt set as it is written, and as a suite holds it.

    Attributes:
        rows: every line, in the order of the file. filled: the set without what is dropped.
    """

    rows: Sequence[Row]
    filled: PromptSet


def fill(doc: Located, name: str, entry: PromptSet) -> Written:
    """Read the set `name`. Raises `SuiteError` with its place."""
    loc: Loc = ("prompts", name)
    where = str(doc.where(loc))
    own = [key for key in ("texts", "scripts", "file") if getattr(entry, key)]
    if len(own) > 1 or not (own or entry.folder):
        raise SuiteError(
            f"{where}: prompt set {name!r} needs either texts or a file (or scripts, or a folder of clips)"
        )
    position, sha256, comments = doc.where((*loc, *(own or ["folder"]))), entry.sha256, list[int]()
    if entry.file:
        columns = Columns(entry.column, entry.identity, entry.prefix_column)
        path = position.folder / entry.file
        rows, comments, sha256 = read_prompts(
            path, columns, entry.sha256, str(position), comments=entry.comments == "keep"
        )
        folder = path.parent
    else:
        rows, folder = _written_here(entry, position), position.folder
    check_prompts(rows, where, gaps=bool(entry.file))
    filled = _filled(entry, rows, comments, folder, position)
    return Written(rows, filled.model_copy(update={"sha256": sha256, "scripts": []}))


def _written_here(entry: PromptSet, position: Position) -> list[Row]:
    """The rows of a set without a file."""
    if entry.scripts:
        about = entry.attributes.items()
        return [
            Row(number + 1, tuple(script), about={name: values[number] for name, values in about})
            for number, script in enumerate(entry.scripts)
        ]
    texts = entry.texts or _named(position, entry.folder)
    files = [prefix.file for prefix in entry.prefixes] or [""] * len(texts)
    return [
        Row(number + 1, (text,), "", file, {name: values[number] for name, values in entry.attributes.items()})
        for number, (text, file) in enumerate(zip(texts, files, strict=True))
    ]


def _filled(
    entry: PromptSet, rows: Sequence[Row], comments: Sequence[int], folder: Path, position: Position
) -> PromptSet:
    """Each prompt of `rows` once, up to the limit, with its prefix and the attributes of all its lines."""
    rows_by_prompt: dict[tuple[str, str], list[Row]] = {}
    dropped: dict[str, list[int]] = {COMMENT: list(comments), BLANK: [], REPEATED: []}
    for row in rows:
        if not row.texts[0].strip():
            dropped[BLANK].append(row.line)
        elif same := rows_by_prompt.get(row.known_as):
            dropped[REPEATED].append(row.line)
            if row.prefix != same[0].prefix:
                shown = row.texts[0][:60]
                raise SuiteError(
                    f"{position}: prompt {shown!r} stands twice, with two prefixes; a clip is known by its prompt"
                )
            same.append(row)
        else:
            rows_by_prompt[row.known_as] = [row]
    chosen = list(rows_by_prompt.items())[: entry.limit]
    identities = [identity for (_, identity), _ in chosen]
    texts = [text for (text, _), _ in chosen]
    continues = entry.prefixes or entry.prefix_column
    if len(set(identities)) < len(identities):
        twice = next(name for number, name in enumerate(identities) if name in identities[:number])
        raise SuiteError(f"{position}: two prompts are known as {twice[:60]!r}", "give each a text of its own")
    return entry.model_copy(
        update={
            "texts": texts,
            "identities": identities if identities != texts else [],
            "prefixes": [_prefix(folder / same[0].prefix, str(position)) for _, same in chosen] if continues else [],
            "attributes": _categories([same for _, same in chosen], kept=() if entry.file else tuple(entry.attributes)),
            "longest_script": longest if (longest := max(len(row.texts) for row in rows)) > 1 else 0,
            "dropped": {kind: lines for kind, lines in dropped.items() if lines},
        }
    )


def _categories(rows_by_prompt: Sequence[Sequence[Row]], kept: Sequence[str]) -> dict[str, list[list[str]]]:
    """By name of an attribute the values of each prompt; columns of longer texts than a name's are left out."""
    names = dict.fromkeys([*kept, *(name for rows in rows_by_prompt for row in rows for name in row.about)])
    columns = {
        name: [
            list(dict.fromkeys(value for row in rows for value in row.about.get(name, ()))) for rows in rows_by_prompt
        ]
        for name in names
    }
    return {
        name: values
        for name, values in columns.items()
        if name in kept or all(len(each) < MOST_LETTERS for several in values for each in several)
    }


def _named(position: Position, folder: str) -> list[str]:
    """The prompts in the names of a folder's clips."""
    from harness.system.clip_names import prompts_of  # here: it loads the video library

    try:
        texts = prompts_of(position.folder / folder)
    except HarnessError as error:
        raise SuiteError(f"{position}: {error.message}", "write its path from the suite file's folder on") from error
    if not texts:
        raise SuiteError(f"{position}: no clip in {folder} is named <prompt>-<i>.mp4")
    return texts


def _prefix(path: Path, where: str) -> PrefixFile:
    """The facts of the file `path`. Raises `SuiteError` that starts with `where`."""
    from harness.suite.prefixes import inspect  # here: it loads the video library

    try:
        return PrefixFile(file=str(path), **asdict(inspect(path)))
    except ClipError as error:
        raise SuiteError(f"{where}: {error.message}", error.fix) from error


# --------------------------------------------------------------------------------------------- switches


def pair(
    doc: Located, kind: str, index: int, section: GenerateSection | MeasureSection, sets: Mapping[str, Written]
) -> dict[str, Any]:
    """What is filled in of a section whose prompts switch: its scripts and dropped lines.

    Line i of its set goes with line i of each switch's set, before blank and repeated ones are dropped. Nothing is
    filled in where prompt i of the sets, as they are filled, goes with prompt i. Raises `SuiteError` with the place.
    """
    nothing_filled_in: dict[str, Any] = {"scripts": [], "dropped": {}}
    if not section.switches or not section.prompts:
        return nothing_filled_in
    base = sets[section.prompts]
    numbers = _numbers(base.filled)
    most = base.filled.limit or len(base.rows)
    dropped: dict[str, list[int]] = {COMMENT: base.filled.dropped.get(COMMENT, []), BLANK: [], REPEATED: []}
    scripts: dict[tuple[int, tuple[str, ...]], ScriptEntry] = {}
    last = 0
    for place, row in enumerate(base.rows):
        number = numbers.get(row.known_as)
        later = tuple(_later(place, row, section, sets))
        if not row.texts[0].strip():
            dropped[BLANK].append(row.line)
        elif number is not None and (number, later) in scripts:
            dropped[REPEATED].append(row.line)
        elif number is not None and len(scripts) < most:
            scripts[number, later] = ScriptEntry(prompt=number, later=list(later))
            last = place + 1
    _check_switches(doc, (kind, index, "switches"), section, sets, last)
    if kind == "measure" and any("" in later for _, later in scripts):
        where = doc.where((kind, index, "switches"))
        raise SuiteError(f"{where}: a blank line says no new prompt, and a measurement switches all clips together")
    if list(scripts) == _by_number(section, sets):
        return nothing_filled_in
    return {"scripts": list(scripts.values()), "dropped": {kind: lines for kind, lines in dropped.items() if lines}}


def _numbers(filled: PromptSet) -> dict[tuple[str, str], int]:
    """The number of each prompt of a set, by text and identity."""
    known_as = zip(filled.texts, filled.identities or filled.texts, strict=True)
    return {prompt: number for number, prompt in enumerate(known_as)}


def _later(
    place: int, row: Row, section: GenerateSection | MeasureSection, sets: Mapping[str, Written]
) -> Iterator[str]:
    """The prompt that each switch brings to the clip of a line; an empty text where it brings none."""
    own = iter(row.texts[1:])
    for switch in section.switches:
        if not switch.prompts:
            text = next(own, "")
        elif _serves_all(other := sets[switch.prompts]):
            text = other.filled.texts[0]
        else:
            text = other.rows[place].texts[0] if place < len(other.rows) else ""
        yield text if text.strip() else ""


def _serves_all(other: Written) -> bool:
    """Whether a set is of one prompt, and says nowhere that there is no new one."""
    return len(other.filled.texts) == 1 and BLANK not in other.filled.dropped


def _by_number(
    section: GenerateSection | MeasureSection, sets: Mapping[str, Written]
) -> list[tuple[int, tuple[str, ...]]] | None:
    """The scripts of prompts of equal number; None where there are not as many, or where scripts hold their own."""
    count = len(sets[section.prompts].filled.texts)
    later = [sets[switch.prompts].filled.texts if switch.prompts else [] for switch in section.switches]
    if any(len(texts) not in (1, count) for texts in later):
        return None
    return [(n, tuple(texts[n if len(texts) > 1 else 0] for texts in later)) for n in range(count)]


def _check_switches(
    doc: Located, loc: Loc, section: GenerateSection | MeasureSection, sets: Mapping[str, Written], last: int
) -> None:
    """Refuse switches to other lines than the `last` ones that are taken have, or to prompts that scripts lack."""
    base = sets[section.prompts]
    for number, switch in enumerate(section.switches):
        where = doc.where((*loc, number))
        if switch.prompts:
            _check_lines(f"{where}: prompt set {switch.prompts!r}", base, sets[switch.prompts], last)
    if needed := sum(not switch.prompts for switch in section.switches):
        where, name = doc.where(loc), section.prompts
        if not base.filled.longest_script:
            raise SuiteError(f"{where}: prompt set {name!r} holds no scripts, so a switch must name its `prompts`")
        for row in base.rows[:last]:
            if row.texts[0].strip() and len(row.texts) <= needed:
                raise SuiteError(
                    f"{where}: the script of line {row.line} of {name!r} has {len(row.texts)} prompts; "
                    f"{needed} switches need {needed + 1}"
                )


def _check_lines(where: str, base: Written, other: Written, last: int) -> None:
    if other.filled.longest_script:
        raise SuiteError(
            f"{where} holds scripts; name it as the section's `prompts`, and leave those of the switch out"
        )
    if _serves_all(other):
        return
    of_base, of_other = (_without_blank_end(written.rows) for written in (base, other))
    fits = of_other <= of_base <= len(other.rows) or of_base <= of_other <= len(base.rows)
    limit = other.filled.limit or len(other.rows)
    if limit < last if fits else min(limit, len(other.rows)) != last:
        raise SuiteError(
            f"{where} has {min(limit, len(other.rows))} prompts; "
            f"a switch needs 1 or {last if fits else of_base}, as many as the section"
        )


def _without_blank_end(rows: Sequence[Row]) -> int:
    """Number of rows up to the last one that is not blank."""
    return max(place for place, row in enumerate(rows, 1) if row.texts[0].strip())

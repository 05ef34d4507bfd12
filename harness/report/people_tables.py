"""Tables and columns of what people said, from the tally of a study beside a run's records."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from harness.contracts import Value
from harness.report.cells import Cells, estimate_cell, ranked
from harness.report.table import NOT_TOLD, UNBOUNDED, Cell, Heading, Row, Table, numeral
from harness.report.verdicts import Standing
from harness.report.view import Place
from harness.runs.people import Answered, Number, Opinion, People, read_people
from harness.runs.records import Run
from harness.stats.estimates import Estimate

INTERVAL = "value [95 % interval over raters and prompts]"
OVER_PROMPTS = "value [95 % interval over prompts]"
NOBODY = Cell("not asked")
_ONE_PROMPT = "without an interval: that takes two prompts, and answers that differ"
_NOT_TOLD = "best, but the interval of its difference from the next holds 0"
ALPHA = (
    "Alpha is Krippendorff's for ordered answers: 1 where raters agree on all, 0 where they agree as by chance. The "
    "smallest difference is that of two models which so many votes show in 4 of 5 studies, at 5 %."
)
AGREEMENT = (
    "Kendall's tau-b of a value and people's mean answer, over pairs of clips in both orders, or over clips that were "
    "rated. Pairwise accuracy: the share of pairs that people decide and the value orders alike; chance is 0.500. "
    "One rater: a person against the majority of the others on the same pair, which no metric can be asked to exceed."
)


def tables(runs: Sequence[Run]) -> list[Table]:
    """The tables of each run whose clips people have judged."""
    tallies = [(run, people) for run in runs if (people := read_people(run.folder)) is not None]
    several = len(tallies) > 1
    return [
        table
        for run, people in tallies
        for table in of(
            people, [arm.label for arm in run.arms], run.suite.reference, run.folder.name if several else ""
        )
    ]


def of(people: People, labels: Sequence[str], reference: str, name: str = "") -> list[Table]:
    """What people say of each arm, what they were asked, and how metrics agree with them.

    Args:
        labels: of the arms, in the order of their rows. name: of the run, where there are several.
    """
    prefix, title = (f"{name}-", f"{name}: ") if name else ("", "")
    tables = [_said(people, labels, reference, prefix, title), _questions(people, prefix, title)]
    return [*tables, _agreement(people, prefix, title)] if people.agreement else tables


def column(name: str, runs: Sequence[Run], spec: str) -> tuple[Value, Cells]:
    """The value and the cells of the column `study:name`: `not asked` where no study of a run has the question."""
    tallies = [read_people(run.folder) for run in runs]
    answers = [
        next((answered for answered in people.answered if answered.column == name), None) if people else None
        for people in tallies
    ]
    cells: dict[Place, Cell] = {}
    comparable: list[Place] = []
    for number, (run, answered) in enumerate(zip(runs, answers, strict=True)):
        for arm in run.arms:
            cells[number, arm.label] = _cell(answered.opinions.get(arm.label), spec) if answered else NOBODY
            comparable += [(number, arm.label)] * (arm.card.weights != "random")
    asked = next(filter(None, answers), None)
    return Value(name, asked.unit if asked else "", "higher"), _ranked(cells, answers, comparable)


def _ranked(cells: Cells, answers: Sequence[Answered | None], comparable: Collection[Place]) -> Cells:
    """The best of the comparable cells in bold, where one study compares them all."""
    asked = [number for number, answered in enumerate(answers) if answered]
    if len(asked) != 1:
        return cells
    ahead = {tuple(pair) for answered in answers if answered for pair in answered.ahead}

    def standing(behind: Place, leader: Place) -> Standing:
        return "ahead" if (leader[1], behind[1]) in ahead else "unclear"

    return ranked(cells, "higher", [place for place in comparable if place[0] == asked[0]], standing)


def _cell(opinion: Opinion | None, spec: str = "") -> Cell:
    if opinion is None or opinion.value is None:
        return NOBODY
    low, high = (math.nan if end is None else end for end in (opinion.low, opinion.high))
    estimate = Estimate(opinion.value, low, high, opinion.votes, 0)
    cell = estimate_cell(estimate, spec or ".2f")
    return cell if estimate.bounded else Cell(cell.text, cell.value, marks=(UNBOUNDED,))


def _said(people: People, labels: Sequence[str], reference: str, prefix: str, title: str) -> Table:
    arms = [label for label in labels if any(label in each.opinions for each in people.answered)]
    columns = []
    for each in people.answered:
        cells = {(0, arm): _cell(each.opinions.get(arm)) for arm in arms}
        columns.append(_ranked(cells, [each], list(cells)))
    return Table(
        f"{prefix}study",
        f"{title}What people say",
        tuple(Heading(each.column.replace("_", " "), each.unit, "higher") for each in people.answered),
        tuple(Row(arm, tuple(cells[0, arm] for cells in columns), reference=arm == reference) for arm in arms),
        remarks=tuple(people.remarks),
        notes=((NOT_TOLD, _NOT_TOLD),),
        interval=INTERVAL,
    )


def _questions(people: People, prefix: str, title: str) -> Table:
    def cells(each: Answered) -> tuple[Cell, ...]:
        shown = Cell("-") if each.detectable is None else Cell(f"{each.detectable:.2f} {each.unit}", each.detectable)
        return Cell(f"{each.votes:,}", each.votes), Cell(f"{each.raters:,}", each.raters), _number(each.alpha), shown

    return Table(
        f"{prefix}study_questions",
        f"{title}The questions",
        tuple(map(Heading, ("votes", "raters", "alpha", "smallest difference shown"))),
        tuple(Row(f"{each.column.replace('_', ' ')}: {each.text}", cells(each)) for each in people.answered),
        corner="question",
        remarks=(ALPHA,),
    )


def _agreement(people: People, prefix: str, title: str) -> Table:
    asked = dict.fromkeys(each.question for each in people.agreement)
    by_place = {(each.value, each.question): each for each in people.agreement}
    rows = []
    for value in dict.fromkeys(each.value for each in people.agreement):
        cells: list[Cell] = []
        for question in asked:
            each = by_place.get((value, question))
            cells += (
                [Cell("-"), Cell("-")]
                if each is None
                else [
                    _bounded(each.tau, each.tau_low, each.tau_high),
                    _bounded(each.accuracy, each.accuracy_low, each.accuracy_high),
                ]
            )
        rows.append(Row(value, tuple(cells)))
    headings = [
        heading
        for question in asked
        for heading in (
            Heading(f"{question.replace('_', ' ')}: tau", "", "higher"),
            Heading(f"{question.replace('_', ' ')}: accuracy", "", "higher"),
        )
    ]
    return Table(
        f"{prefix}study_agreement",
        f"{title}How metrics agree with people",
        tuple(headings),
        tuple(rows),
        corner="value",
        remarks=(AGREEMENT,),
        notes=((UNBOUNDED, _ONE_PROMPT),),
        interval=OVER_PROMPTS,
    )


def _number(value: Number) -> Cell:
    return Cell("-") if value is None else Cell(numeral(value, 1.0, ".3f"), value)


def _bounded(value: Number, low: Number, high: Number) -> Cell:
    cell = _number(value)
    if value is None:
        return cell
    if low is None or high is None:
        return replace(cell, marks=(UNBOUNDED,))
    return replace(cell, low=low, high=high, spread=f"[{low:.3f}, {high:.3f}]")

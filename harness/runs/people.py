"""What people said of the arms of a run, as `harness study tally` leaves it beside the records: `people.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_core import from_json

from harness.errors import RecordError
from harness.suite.part import Part
from harness.suite.validate import first
from harness.system import files

FILE = "people.json"
PEOPLE_SCHEMA = 1
Number = float | None
"""None where it is not defined."""


class Opinion(Part):
    """What votes say of an arm: a strength or a mean rating with its 95 % interval, over so many votes."""

    value: Number
    low: Number
    high: Number
    votes: int


class Answered(Part):
    """A question with its answers.

    Attributes:
        column: its name in tables. text: as it was asked. unit: of the values.
        opinions: by label of the arm. ahead: pairs of labels of which the first is ahead: the 95 % interval of the
            difference excludes 0.
        votes, raters: how many it rests on. alpha: Krippendorff's, of raters on the same pair or clip.
        detectable: the smallest true difference of two arms that so many votes show in 4 of 5 studies.
    """

    column: str
    text: str
    unit: str
    opinions: dict[str, Opinion]
    ahead: list[list[str]]
    votes: int
    raters: int
    alpha: Number
    detectable: Number


class Agreement(Part):
    """How a value of a metric agrees with the answers to a question, over clips or pairs of clips.

    Attributes:
        value: as in a column of a table; `one rater` for a person against the others. question: its column.
        tau: Kendall's tau-b. accuracy: share of decided pairs of clips that the value orders as people do; a tie of
            the value counts half. Each with a 95 % interval over prompts.
        pairs: of clips that `accuracy` rests on.
    """

    value: str
    question: str
    tau: Number
    tau_low: Number
    tau_high: Number
    accuracy: Number
    accuracy_low: Number
    accuracy_high: Number
    pairs: int


class People(Part):
    """The tally of a study. `left_out` raters failed its attention checks."""

    schema_: Annotated[int, Field(alias="schema")] = PEOPLE_SCHEMA
    study: str
    raters: int
    left_out: int
    votes: int
    answered: list[Answered]
    agreement: list[Agreement]
    remarks: list[str]


def write_people(folder: Path, people: People) -> Path:
    """Write the tally of a study into the run folder `folder`."""
    path = folder / FILE
    files.write_atomic(path, people.model_dump_json(by_alias=True, indent=1) + "\n")
    return path


def read_people(folder: Path) -> People | None:
    """The tally in a run folder; None where nobody was asked. Raises `RecordError`."""
    path = folder / FILE
    try:
        body = from_json(files.read_regular(path))
        if isinstance(body, dict) and isinstance(schema := body.get("schema"), int) and schema > PEOPLE_SCHEMA:
            raise RecordError(
                f"{path}: schema {schema} is newer than this harness reads ({PEOPLE_SCHEMA})",
                "pip install --upgrade videomla-bench",
            )
        return People.model_validate(body)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fault = first(error)
        where = ".".join(map(str, fault["loc"]))
        raise RecordError(
            f"{path} is no tally of a study: {where}: {fault['msg']}", "make it again with harness study tally"
        ) from error
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} cannot be read: {files.reason(error)}", "make it again with harness study tally"
        ) from error

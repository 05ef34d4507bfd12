"""Votes: a database that survives the death of its process, and files of raters who had no server.

A vote is all answers of a rater to one task, and each is a transaction of its own. Of two votes for one task the first
counts.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic_core import from_json

from harness.errors import HarnessError, RecordError, StorageError, shown
from harness.study.design import LEFT, RIGHT, TIE, Study
from harness.system import files

DATABASE = "votes.sqlite"
SCHEMA = 1
"""Stands in the database as its user_version. Readers refuse a newer one."""
FORMAT = "videomla-bench votes 1"
LARGEST_FILE = 16 << 20
WAIT_S = 10.0
"""Longest wait for another process that writes."""
STATEMENT_S, STEPS = 60.0, 10_000
"""Longest time of a statement, and after how many steps of SQLite it is looked at."""
LARGEST_ROW = 65_536
"""Bytes of a row, several times what a rater can send."""
LONGEST_S = 86_400.0
TABLES = (
    "CREATE TABLE study (id TEXT NOT NULL)",
    "CREATE TABLE consents (rater INTEGER PRIMARY KEY, at TEXT NOT NULL)",
    "CREATE TABLE votes (rater INTEGER NOT NULL, task INTEGER NOT NULL, answers TEXT NOT NULL, seconds REAL NOT NULL, "
    "at TEXT NOT NULL, PRIMARY KEY (rater, task)) WITHOUT ROWID",
)
"""All that the database holds, by the letter, as a view or trigger in their place could run for ever."""

Answers = Mapping[str, str | int]
"""By column of the question: `a`, `b`, `tie`, or 1 to 5."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The answers of a rater to a task, and how many seconds they took."""

    rater: int
    task: int
    answers: Answers
    seconds: float


class Refused(HarnessError):
    """A vote that does not count; the message says why."""


class NotAgreed(Refused):
    """A vote of somebody who has not agreed to take part."""


def check(study: Study, rater: int, task: object, answers: object, seconds: object) -> Vote:
    """A vote as it came in, checked against the study. Raises `Refused`."""
    if type(rater) is not int or not 1 <= rater <= len(study.sequences):
        raise Refused("the study has no such rater")
    tasks = study.sequences[rater - 1]
    if not isinstance(task, int) or isinstance(task, bool) or not 0 <= task < len(tasks):
        raise Refused("this rater has no such task")
    asked = {question.column: question.kind for question in study.asked(study.items[tasks[task][0]])}
    if not isinstance(answers, dict) or set(answers) != set(asked):
        raise Refused("the answers are not those to the questions of the task")
    choices = (LEFT, RIGHT, TIE) if study.ties else (LEFT, RIGHT)
    for column, kind in asked.items():
        answer = answers[column]
        fits = answer in choices if isinstance(answer, str) else type(answer) is int and 1 <= answer <= 5
        if not fits or isinstance(answer, str) != (kind == "choice"):
            raise Refused("an answer is none of those that can be given")
    took = float(seconds) if isinstance(seconds, int | float) and 0 <= seconds <= LONGEST_S else 0.0
    return Vote(rater, task, answers, took)


class Ballots:
    """The votes of the study in `folder`, open for reading and writing from any thread.

    Raises `RecordError` for a database of another study, of a newer schema, or that is none.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.path = folder / DATABASE
        self._most = sum(map(len, study.sequences))
        self._lock = threading.Lock()
        self._deadline = math.inf
        with self._reading():
            self._base = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        self._base.set_progress_handler(lambda: time.monotonic() > self._deadline, STEPS)
        self._base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_ROW)
        try:
            with self._reading():
                self._prepare(study)
        except HarnessError:
            self._base.close()
            raise

    def _prepare(self, study: Study) -> None:
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise RecordError(
                f"{self.path}: schema {version} of votes is newer than this harness reads ({SCHEMA})",
                "pip install --upgrade videomla-bench",
            )
        self._base.execute("PRAGMA trusted_schema = OFF")
        self._check_tables(new=version == 0)
        self._base.execute("PRAGMA journal_mode = WAL")
        # A vote that was acknowledged must be on the disk, and not in a cache that a loss of power empties.
        self._base.execute("PRAGMA synchronous = FULL")
        if version == 0:
            tables = "".join(f"{table.replace('TABLE', 'TABLE IF NOT EXISTS', 1)};" for table in TABLES)
            self._base.executescript(f"BEGIN IMMEDIATE;{tables}PRAGMA user_version = {SCHEMA};COMMIT;")
        with self._writing():
            ids = [row[0] for row in self._base.execute("SELECT id FROM study LIMIT 2")]
            if not ids:
                self._base.execute("INSERT INTO study VALUES (?)", (study.id,))
        if ids not in ([], [study.id]):
            raise RecordError(f"{self.path} holds votes of another study", "move it out of the folder")

    def _check_tables(self, new: bool) -> None:
        """Raise `RecordError` where the database holds anything but its tables; `new`, it may hold nothing yet."""
        held = {text for (text,) in self._base.execute("SELECT sql FROM sqlite_master LIMIT 10")}
        if held != set(TABLES) and not (new and not held):
            raise RecordError(f"{self.path} is damaged: its tables are not those of votes", "move it out of the folder")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What SQLite refuses becomes an error of the harness. Statements inside have a deadline."""
        self._deadline = time.monotonic() + STATEMENT_S
        try:
            yield
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise RecordError(f"{self.path} is damaged: {error}", "move it out of the folder") from error
            raise StorageError(f"{self.path} cannot be used: {error}", "make room, or make it writable") from error
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{self.path} is no database of votes: {error}", "move it out of the folder") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: on the disk at the end, or without a trace."""
        with self._lock, self._reading():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def consent(self, rater: int) -> None:
        """Keep that a rater has agreed to take part."""
        with self._writing():
            self._base.execute("INSERT OR IGNORE INTO consents VALUES (?, ?)", (rater, _now()))

    def keep(self, vote: Vote) -> bool:
        """Keep a vote, on the disk when this returns; whether it is new. One that is there already is kept once.

        Raises `Refused` for other answers to a task that has some, and before consent; `StorageError`.
        """
        text = json.dumps(dict(vote.answers), sort_keys=True)
        with self._writing():
            if not self._base.execute("SELECT 1 FROM consents WHERE rater = ?", (vote.rater,)).fetchone():
                raise NotAgreed("this rater has not agreed to take part")
            there = self._base.execute(
                "SELECT answers FROM votes WHERE rater = ? AND task = ?", (vote.rater, vote.task)
            ).fetchone()
            if there is None:
                row = (vote.rater, vote.task, text, vote.seconds, _now())
                self._base.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?)", row)
        if there is not None and there[0] != text:
            raise Refused("this task has an answer already")
        return there is None

    def of(self, rater: int) -> tuple[bool, list[int]]:
        """Whether a rater has agreed to take part, and the tasks that are done."""
        with self._lock, self._reading():
            agreed = self._base.execute("SELECT 1 FROM consents WHERE rater = ?", (rater,)).fetchone()
            done = self._base.execute(
                "SELECT task FROM votes WHERE rater = ? AND typeof(task) = 'integer' ORDER BY task LIMIT ?",
                (rater, self._most),
            ).fetchall()
        return agreed is not None, [task for (task,) in done]

    def rows(self) -> list[tuple[int, int, str, float]]:
        """Rater, task, answers as JSON and seconds of every vote. Raises `RecordError` where they exceed the tasks."""
        chosen = "SELECT rater, task, answers, seconds FROM votes ORDER BY rater, task LIMIT ?"
        with self._lock, self._reading():
            rows = self._base.execute(chosen, (self._most + 1,)).fetchall()
        if len(rows) > self._most:
            raise RecordError(f"{self.path} holds more votes than the study has tasks", "move it out of the folder")
        return rows

    def close(self) -> None:
        """Close the database."""
        self._base.close()

    def __enter__(self) -> Ballots:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Counted:
    """The votes of a study, one for each rater and task, and sentences on what was not counted."""

    votes: list[Vote]
    remarks: list[str]


def collect(folder: Path, study: Study, others: Sequence[Path] = ()) -> Counted:
    """All votes of the study in `folder`: of its database and of the files `others` that raters saved.

    The same file twice counts once. Raises `RecordError` for a file that is none, of another study, or whose token is
    forged.
    """
    votes: dict[tuple[int, int], Vote] = {}
    contradicting = 0
    if (folder / DATABASE).is_file():
        with Ballots(folder, study) as ballots:
            for rater, task, text, seconds in ballots.rows():
                try:
                    votes[rater, task] = check(study, rater, task, from_json(text), seconds)
                except (HarnessError, ValueError, TypeError, RecursionError) as error:
                    place = f"rater {shown(str(rater), 40)} on task {shown(str(task), 40)}"
                    raise RecordError(f"{ballots.path}: the vote of {place} is damaged") from error
    for path in others:
        for vote in read_file(path, study):
            first = votes.setdefault((vote.rater, vote.task), vote)
            contradicting += first.answers != vote.answers
    remarks = [
        f"{contradicting} vote{'s' * (contradicting != 1)} on tasks that had other answers already: the first count."
    ]
    return Counted([votes[place] for place in sorted(votes)], remarks if contradicting else [])


def read_file(path: Path, study: Study) -> list[Vote]:
    """The votes in a file that a rater saved. Raises `RecordError`."""
    try:
        body = json.loads(files.read_limited(path, LARGEST_FILE))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is no file of votes", "name files that the study's page saved") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("votes"), list):
        raise RecordError(f"{path} is no file of votes", "name files that the study's page saved")
    if body.get("study") != study.id:
        raise RecordError(f"{path} holds votes of another study ({shown(str(body.get('study')), 40)})", "leave it out")
    rater = study.rater(str(body.get("token")))
    if rater is None:
        raise RecordError(f"{path}: its token is none of this study", "leave it out")
    votes = []
    for number, vote in enumerate(body["votes"]):
        try:
            vote = vote if isinstance(vote, dict) else {}
            votes.append(check(study, rater, vote.get("task"), vote.get("answers"), vote.get("seconds")))
        except Refused as error:
            raise RecordError(f"{path}: vote {number} is damaged: {error.message}", "leave the file out") from error
    return votes

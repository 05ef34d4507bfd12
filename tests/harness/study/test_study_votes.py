"""Votes in the database and in files: once each, never lost, and refused with one line where they are none."""

import contextlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import studies

from harness.errors import RecordError, StorageError
from harness.study import design, votes
from harness.study.votes import DATABASE, FORMAT, Ballots, NotAgreed, Refused, Vote, check, collect


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> design.Study:
    return studies.make_study(tmp_path_factory.mktemp("votes"), "overall", "adherence", raters=3, each=4, obvious=0)


def vote(study: design.Study, rater: int = 1, task: int = 0, better: str = "a") -> Vote:
    return Vote(rater, task, studies.answers(study, rater, task, lambda *_: better), 1.5)


def test_a_vote_is_kept_once_and_the_first_answer_stands(study: design.Study, tmp_path: Path) -> None:
    first, second = vote(study), vote(study, better="b")
    with Ballots(tmp_path, study) as ballots:
        with pytest.raises(NotAgreed):
            ballots.keep(first)
        ballots.consent(1)
        ballots.consent(1)
        assert ballots.keep(first)
        assert not ballots.keep(first)
        with pytest.raises(Refused, match="an answer already"):
            ballots.keep(second)
        assert ballots.of(1) == (True, [0])
        assert ballots.of(2) == (False, [])
    assert collect(tmp_path, study).votes == [first]


def test_many_threads_lose_nothing(study: design.Study, tmp_path: Path) -> None:
    with Ballots(tmp_path, study) as one, Ballots(tmp_path, study) as other:

        def answer(rater: int) -> None:
            ballots = (one, other)[rater % 2]
            ballots.consent(rater)
            for task in range(len(study.sequences[rater - 1])):
                ballots.keep(vote(study, rater, task))

        threads = [threading.Thread(target=answer, args=(rater,)) for rater in (1, 2, 3, 1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one.rows()) == sum(map(len, study.sequences))


def test_a_transaction_that_was_cut_off_leaves_no_trace(study: design.Study, tmp_path: Path) -> None:
    with Ballots(tmp_path, study) as ballots:
        ballots.consent(1)
        ballots.keep(vote(study))
        with contextlib.suppress(ZeroDivisionError), ballots._writing():
            ballots._base.execute("DELETE FROM votes")
            raise ZeroDivisionError
        assert ballots.of(1) == (True, [0])


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        (-1, {}), (99, {}), (True, {}), ("0", {}), (None, {}), (0, None), (0, {}), (0, []), (0, {"overall": "c"}),
        (0, {"overall": 1}), (0, {"overall": None}), (0, {"overall": "a", "more": "a"}), (0, {"overall": ["a"]}),
        (0, {"adherence_rating": "a"}), (0, {"adherence_rating": 6}), (0, {"adherence_rating": 3.0}),
        (0, {"adherence_rating": True}), (0, {"overall": {"a": 1}}),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused(study: design.Study, task: Any, answers: Any) -> None:
    for rater in (1, 2, 3):
        with pytest.raises(Refused):
            check(study, rater, task, answers, 1)


def test_seconds_that_are_none_count_as_unknown(study: design.Study) -> None:
    good = vote(study).answers
    for seconds in (-1, float("nan"), float("inf"), "x", None, 1e9):
        assert check(study, 1, 0, good, seconds).seconds == 0


def test_a_tie_counts_only_where_it_may_be_said(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "overall", ties=False)
    with pytest.raises(Refused):
        check(study, 1, 0, {"overall": "tie"}, 1)


def test_databases_of_others_are_refused_and_left_as_they_are(study: design.Study, tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    other = study.model_copy(update={"id": "other"})
    Ballots(tmp_path, other).close()
    with pytest.raises(RecordError, match="votes of another study"):
        Ballots(tmp_path, study)
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 2")
    base.close()
    with pytest.raises(RecordError, match="schema 2 of votes is newer"):
        Ballots(tmp_path, study)
    for leftover in tmp_path.glob(f"{DATABASE}-*"):
        leftover.unlink()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(RecordError, match="no database of votes"):
        collect(tmp_path, study)
    assert path.read_bytes() == b"no database at all" * 100
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError):
        Ballots(tmp_path, study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE votes SET answers = 'x'", "the vote of rater 1 on task 0 is damaged"),
        (f"UPDATE votes SET answers = '{'[' * 5000}{']' * 5000}'", "the vote of rater 1 on task 0 is damaged"),
        ("UPDATE votes SET rater = 99", "the vote of rater 99 on task 0 is damaged"),
        ("UPDATE votes SET rater = 0", "the vote of rater 0 on task 0 is damaged"),
        ("UPDATE votes SET rater = -1", "the vote of rater -1 on task 0 is damaged"),
        ("UPDATE votes SET rater = 1.5", r"the vote of rater 1\.5 on task 0 is damaged"),
        ("UPDATE votes SET rater = 'a' || char(10, 27)", "the vote of rater a on task 0 is damaged"),
        ("UPDATE votes SET task = x'00ff'", "on task b'.*' is damaged"),
        ("UPDATE votes SET answers = x'00ff'", "the vote of rater 1 on task 0 is damaged"),
        ("UPDATE votes SET answers = zeroblob(100000)", "no database of votes: string or blob too big"),
        ("INSERT INTO votes SELECT value, 0, '{}', 1, '' FROM json_each('[-1,-2,-3,-4,-5,-6,-7,-8,-9,-10,-11,-12,"
         "-13,-14,-15,-16,-17,-18,-19,-20,-21,-22,-23,-24]')", "more votes than the study has tasks"),
        ("UPDATE votes SET task = 999", "the vote of rater 1 on task 999 is damaged"),
        ("DROP TABLE votes", "its tables are not those of votes"),
        ("DROP TABLE votes; CREATE VIEW votes AS SELECT 1 AS rater, 0 AS task, '{}' AS answers, 1 AS seconds UNION "
         "SELECT 2, 0, '{}', 1", "its tables are not those of votes"),
        ("DROP TABLE votes; CREATE TABLE votes (rater, task, answers, seconds, at)", "its tables are not those"),
        ("CREATE TRIGGER more AFTER INSERT ON consents BEGIN DELETE FROM votes; END", "its tables are not those"),
        ("CREATE INDEX more ON votes (at)", "its tables are not those"),
        ("CREATE TABLE more (x)", "its tables are not those"),
    ],
)  # fmt: skip
def test_a_damaged_database_is_one_line(study: design.Study, tmp_path: Path, change: str, said: str) -> None:
    with Ballots(tmp_path, study) as ballots:
        ballots.consent(1)
        ballots.keep(vote(study))
    with sqlite3.connect(tmp_path / DATABASE) as base:
        base.executescript(change)
    base.close()
    with pytest.raises(RecordError, match=said) as caught:
        collect(tmp_path, study)
    assert caught.value.message.isprintable()


def test_a_database_of_something_else_is_left_as_it_is(study: design.Study, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as base:
        base.execute("CREATE TABLE bookmarks (title)")
    base.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(RecordError, match="its tables are not those of votes"):
        Ballots(tmp_path, study)
    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_statement_has_a_deadline(study: design.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ballots(tmp_path, study).close()
    monkeypatch.setattr(votes, "STATEMENT_S", -1.0)
    monkeypatch.setattr(votes, "STEPS", 1)
    with pytest.raises(StorageError, match="interrupted"):
        Ballots(tmp_path, study)


def saved(of: design.Study, path: Path, **changes: Any) -> Path:
    """A file of votes as the page saves it."""
    body = {"task": 0, "answers": dict(vote(of).answers), "seconds": 3}
    content = {"format": FORMAT, "study": of.id, "token": of.token(1), "votes": [body], **changes}
    path.write_text(json.dumps(content))
    return path


def test_files_join_the_database_and_the_first_vote_counts(study: design.Study, tmp_path: Path) -> None:
    with Ballots(tmp_path, study) as ballots:
        ballots.consent(1)
        ballots.keep(vote(study))
    file = saved(study, tmp_path / "one.json")
    counted = collect(tmp_path, study, [file, file])
    assert len(counted.votes) == 1
    assert counted.remarks == []
    against = saved(study, tmp_path / "two.json", votes=[{"task": 0, "answers": dict(vote(study, better="b").answers)}])
    counted = collect(tmp_path, study, [against])
    assert counted.votes == [vote(study)]
    assert counted.remarks == ["1 vote on tasks that had other answers already: the first count."]


def test_files_that_are_none_are_one_line(study: design.Study, tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    faults = [
        ({"study": "another\n\x1b[31m"}, "another study"),
        ({"token": f"1-{'0' * 32}"}, "token is none"),
        ({"token": 7}, "token is none"),
        ({"format": "x"}, "no file of votes"),
        ({"votes": {}}, "no file of votes"),
        ({"votes": [3]}, "vote 0 is damaged"),
        ({"votes": [{"task": 0, "answers": {"overall": "c"}}]}, "vote 0 is damaged"),
    ]
    for changes, said in faults:
        with pytest.raises(RecordError, match=said) as caught:
            collect(tmp_path, study, [saved(study, path, **changes)])
        assert caught.value.message.isprintable()
    for content in (b"", b"[" * 100_000, b"\xff\xfe", b"null", b"{}"):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="no file of votes"):
            collect(tmp_path, study, [path])
    with pytest.raises(RecordError, match="cannot be read"):
        collect(tmp_path, study, [tmp_path / "nothing.json"])


def test_no_votes_are_no_error(study: design.Study, tmp_path: Path) -> None:
    assert collect(tmp_path, study).votes == []
    assert not (tmp_path / DATABASE).exists()

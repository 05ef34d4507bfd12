"""What votes come to: strengths, ratings, attention, agreement, and the tables that they join."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import page_runs
import pytest
import studies

from harness.errors import Incomplete, RecordError, SuiteError
from harness.report import people_tables, tables
from harness.report.page import folder as pages
from harness.runs.people import FILE, People, read_people, write_people
from harness.runs.records import Run, load_run
from harness.study import design
from harness.study.tally import obvious_failures, tally
from harness.study.votes import FORMAT, Ballots, Vote, collect
from harness.suite.load import load_suite

Better = Callable[[str, str], str]


def better(question: str, prompt: str) -> str:
    """Arm `b` fits the prompt better, but for the last two prompts; nobody sees a difference of dynamics."""
    if question == "dynamics":
        return "neither"
    return "a" if prompt[0] in "45" else "b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tally")
    study = studies.make_study(folder, "adherence,dynamics", "adherence", raters=8, each=18)
    studies.vote_all(folder / "study", study, better)
    return folder


@pytest.fixture(scope="module")
def people(folder: Path) -> People:
    study = design.load(folder / "study")
    return tally(study, collect(folder / "study", study), load_run(folder / "run"))


def test_strengths_and_ratings_say_who_is_better(people: People) -> None:
    adherence, dynamics, rating = people.answered
    assert (adherence.column, dynamics.column, rating.column) == ("adherence", "dynamics", "adherence_rating")
    a, b = adherence.opinions["a"], adherence.opinions["b"]
    # Every rater says it of four prompts in six: 2 to 1, but for the penalty.
    assert a.value is not None
    assert b.value is not None
    assert 0.5 < b.value - a.value < math.log(2)
    assert a.value == pytest.approx(-b.value)
    assert (a.votes, adherence.votes, adherence.raters) == (48, 48, 8)
    assert dynamics.opinions["a"].value == pytest.approx(0, abs=1e-9)
    ratings = {label: opinion.value for label, opinion in rating.opinions.items()}
    assert ratings == {"a": pytest.approx((4 * 2 + 2 * 4) / 6), "b": pytest.approx((4 * 4 + 2 * 2) / 6)}
    assert rating.opinions["a"].votes == 48


def test_raters_who_all_agree_have_an_alpha_of_one(people: People) -> None:
    assert [each.alpha for each in people.answered] == [1, None, 1]
    assert all(each.detectable is None or each.detectable > 0.5 for each in people.answered)


def test_agreement_with_a_metric_is_known(people: People) -> None:
    by_place = {(each.value, each.question): each for each in people.agreement}
    grey = by_place["short:grey", "adherence"]
    # Arm b is lighter for every prompt, and people prefer it for four of six.
    assert grey.accuracy == pytest.approx(4 / 6)
    assert grey.pairs == 6
    assert grey.accuracy_low is not None
    assert grey.accuracy_low < 4 / 6
    assert by_place["one rater", "adherence"].accuracy == 1
    assert by_place["short:grey", "dynamics"].accuracy is None
    assert by_place["short:grey", "adherence_rating"].accuracy == pytest.approx(4 / 6)
    assert "short:part_1" not in {each.value for each in people.agreement}


def test_careless_raters_are_left_out_unless_they_are_kept(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "adherence", raters=6, each=6)
    studies.vote_all(tmp_path / "study", study, better, range(1, 5))
    with Ballots(tmp_path / "study", study) as ballots:
        for rater in (5, 6):
            ballots.consent(rater)
            for task, (item, swapped, _) in enumerate(study.tasks(rater)):
                wrong = "ba"[swapped] if study.items[item].checked else "tie"
                ballots.keep(Vote(rater, task, {"adherence": wrong}, 0.1))
    counted = collect(tmp_path / "study", study)
    failures = obvious_failures(study, counted.votes)
    assert failures == {**dict.fromkeys(range(1, 5), (0, 2)), 5: (2, 2), 6: (2, 2)}
    people = tally(study, counted, None)
    assert (people.raters, people.left_out) == (4, 2)
    assert (
        people.remarks[0] == "6 of 6 raters voted; 2 failed half of their obvious pairs or more and are left out: 5, 6."
    )
    kept = tally(study, counted, None, keep_careless=True)
    assert (kept.raters, kept.answered[0].votes) == (6, 36)
    only = counted.votes[-16:]
    assert {vote.rater for vote in only} == {5, 6}
    with pytest.raises(Incomplete, match="all 2 raters failed"):
        tally(study, type(counted)(only, []), None)
    with pytest.raises(Incomplete, match="the one rater failed"):
        tally(study, type(counted)([vote for vote in only if vote.rater == 5], []), None)


def test_repeated_pairs_say_how_steady_raters_are(folder: Path, people: People) -> None:
    assert people.remarks[0] == "8 of 8 raters voted; 0 failed half of their obvious pairs or more."
    # Two repetitions a rater, of pairs with two questions and of clips with one.
    assert people.remarks[1].startswith("100% of ")


def test_an_arm_that_always_wins_is_finite(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "overall", raters=6, each=6)
    studies.vote_all(tmp_path / "study", study, lambda *_: "a")
    (answered,) = tally(study, collect(tmp_path / "study", study), None).answered
    a = answered.opinions["a"]
    assert a.value is not None
    assert a.low is not None
    assert a.high is not None
    assert 0 < a.low < a.value < a.high < 10
    assert answered.ahead == [["a", "b"]]


def test_one_rater_has_no_interval_and_says_so(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "overall", raters=3, each=6)
    studies.vote_all(tmp_path / "study", study, better, range(1, 2))
    people = tally(study, collect(tmp_path / "study", study), load_run(tmp_path / "run"))
    (answered,) = people.answered
    assert answered.opinions["b"].low is None
    assert answered.detectable is None
    assert answered.ahead == []
    said, _, agreement = people_tables.of(people, ["a", "b"], "a")
    assert [row.cells[0].marks for row in said.rows] == [("?",), ("?", "≈")]
    assert "two raters" in dict(said.footnotes())["?"]
    shares = {row.label: row.cells[1] for row in agreement.rows}
    assert shares["one rater"].text == "-"
    unbounded = people.agreement[-1].model_copy(update={"accuracy_low": None, "accuracy_high": None})
    marked = people_tables.of(people.model_copy(update={"agreement": [unbounded]}), ["a", "b"], "a")[-1]
    assert marked.rows[0].cells[1].marks == ("?",)
    assert "two prompts" in dict(marked.footnotes())["?"]


def test_a_column_without_intervals_says_so_in_a_table_of_the_suite(tmp_path: Path) -> None:
    shown = {"tables": [{"name": "both", "columns": [{"value": "study:adherence"}]}]}
    study = studies.make_study(tmp_path, "adherence", suite=shown)
    studies.vote_all(tmp_path / "study", study, better, range(1, 2))
    run = load_run(tmp_path / "run")
    write_people(run.folder, tally(study, collect(tmp_path / "study", study), run))
    both = tables.build([load_run(run.folder)])[0]
    assert both.name == "both"
    assert [row.cells[0].marks[0] for row in both.rows] == ["?", "?"]
    assert "two raters" in dict(both.footnotes())["?"]


def test_a_study_without_votes_is_one_line(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path)
    with pytest.raises(Incomplete, match="no votes yet"):
        tally(study, collect(tmp_path / "study", study), None)


def test_votes_and_records_join_in_tables_and_on_the_page(folder: Path, people: People, tmp_path: Path) -> None:
    run = load_run(folder / "run")
    columns = [{"value": "short:grey"}, {"value": "study:adherence", "format": ".3f"}, {"value": "study:beauty"}]
    suite = page_runs.suite(studies.PROMPTS, tables=[{"name": "both", "columns": columns}])
    joined = Run(tmp_path, type(run.suite).model_validate(suite), run.device, run.arms, run.groups, run.index)
    (tmp_path / "records.jsonl").write_bytes((folder / "run" / "records.jsonl").read_bytes())
    (before,) = tables.build([joined])
    assert [cell.text for row in before.rows for cell in row.cells[1:]] == ["not asked"] * 4
    write_people(tmp_path, people)
    both, said, questions, agreement = tables.build([joined])
    value = people.answered[0].opinions["b"].value
    assert both.rows[1].cells[1].text == f"{value:.3f}"
    assert both.rows[1].cells[1].value == value
    assert both.columns[1].unit == "log odds"
    assert [table.name for table in (said, questions, agreement)] == ["study", "study_questions", "study_agreement"]
    assert [row.label for row in agreement.rows] == ["one rater", "short:grey"]
    assert said.rows[0].reference
    (folder / "run" / FILE).unlink(missing_ok=True)
    write_people(folder / "run", people)
    page = pages.write([load_run(folder / "run")], tmp_path / "page").index.read_text()
    (folder / "run" / FILE).unlink()
    for title in ("What people say", "The questions", "How metrics agree with people"):
        assert title in page


def test_a_suite_may_ask_for_what_people_say(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    body = page_runs.suite(["0 a"], tables=[{"name": "t", "columns": [{"value": "study:adherence"}]}])
    path.write_text(json.dumps(body))
    assert load_suite(path).tables[0].columns[0].value == "study:adherence"
    body["plots"][0]["values"] = ["study:adherence"]
    path.write_text(json.dumps(body))
    with pytest.raises(SuiteError, match="unknown section 'study'"):
        load_suite(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read"),
        (b"[]", "no tally of a study"),
        (b'{"schema": 2}', "newer than this harness"),
        (b'{"schema": 1, "study": 3}', "no tally of a study"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_no_tally_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        read_people(tmp_path)
    assert "\n" not in caught.value.message
    assert read_people(tmp_path / "nobody") is None


def test_the_command_tallies_the_database_and_files(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "overall", raters=3, each=6)
    studies.vote_all(tmp_path / "study", study, better, range(1, 3))
    answers = [studies.answers(study, 3, task, better) for task in range(len(study.sequences[2]))]
    votes = [{"task": task, "answers": said, "seconds": 1} for task, said in enumerate(answers)]
    file = tmp_path / "votes-3.json"
    file.write_text(json.dumps({"format": FORMAT, "study": study.id, "token": study.token(3), "votes": votes}))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "study", "tally", str(tmp_path / "study"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = run(str(file), "--plugin", str(page_runs.__file__))
    assert done.returncode == 0, done.stderr
    assert "3 of 3 raters voted" in done.stdout
    people = read_people(tmp_path / "run")
    assert people is not None
    assert (people.raters, people.answered[0].votes) == (3, 18)
    (tmp_path / "run" / "plan.json").unlink()
    gone = run()
    assert gone.returncode == 0, gone.stderr
    assert "The run is gone" in gone.stdout
    assert read_people(tmp_path / "study") is not None
    file.write_text("{}")
    refused = run(str(file))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {file} is no file of votes")

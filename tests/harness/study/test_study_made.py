"""Studies as they are made: who sees what, on which side, how often; and runs of which none can be made."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import page_runs
import pytest
import studies
from page_runs import make_run, suite
from run_folders import Arm, write_run

from harness.errors import HarnessError, RecordError
from harness.runs.records import load_run
from harness.study import design, export, make, page
from harness.system import video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    studies.make_study(folder, raters=12, each=4)
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> design.Study:
    return design.load(folder / "study")


def ordinary(study: design.Study, rater: int) -> list[design.Task]:
    return [task for task in study.tasks(rater) if task.repeats < 0 and not study.items[task.item].checked]


def test_every_pair_is_seen_equally_often_and_on_both_sides(study: design.Study) -> None:
    seen: Counter[int] = Counter()
    swapped: Counter[int] = Counter()
    for rater in range(1, 13):
        tasks = ordinary(study, rater)
        assert len({task.item for task in tasks}) == len(tasks) == 4
        assert sum(task.swapped for task in tasks) == 2
        seen.update(task.item for task in tasks)
        swapped.update(task.item for task in tasks if task.swapped)
    assert set(seen.values()) == {8}
    assert set(swapped.values()) == {4}


def test_raters_differ_in_their_order_and_a_seed_gives_it_again(study: design.Study) -> None:
    assert len({tuple(map(tuple, tasks)) for tasks in study.sequences}) == 12
    again = design.sequences(range(6), [6, 7], 12, 4, 2, study.seed)
    assert again == study.sequences
    assert design.sequences(range(6), [6, 7], 12, 4, 2, 1) != again


def test_attention_checks_are_repeated_and_obvious_pairs(study: design.Study, folder: Path) -> None:
    for rater in range(1, 13):
        tasks = study.tasks(rater)
        repeated = [task for task in tasks if task.repeats >= 0]
        assert len(repeated) == 2
        assert all(tasks[task.repeats][:2] == (task.item, not task.swapped) for task in repeated)
        obvious = [study.items[task.item] for task in tasks if study.items[task.item].checked]
        assert [item.checked for item in obvious] == [["adherence"]] * 2
    good, bad = (video.read(folder / "study" / design.MEDIA / study.clips[n].media) for n in study.items[-1].clips)
    assert good.shape == bad.shape
    assert abs(good.astype(int) - bad).mean() > 40


def test_a_still_clip_is_the_obvious_one_where_only_dynamics_are_asked(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "dynamics", obvious=1)
    item = study.items[-1]
    assert item.checked == ["dynamics"]
    frames = video.read(tmp_path / "study" / design.MEDIA / study.clips[item.clips[1]].media).astype(int)
    assert abs(frames - frames[0]).max() <= 3


def test_media_have_names_that_say_nothing_and_tokens_are_secret(study: design.Study, folder: Path) -> None:
    names = {path.name for path in (folder / "study" / design.MEDIA).iterdir()}
    assert names == {clip.media for clip in study.clips}
    assert not any(clip.key and clip.key[:8] in clip.media for clip in study.clips)
    assert (folder / "study" / design.FILE).stat().st_mode & 0o077 == 0
    with (folder / "study" / design.RATERS).open() as file:
        tokens = {row["rater"]: row["token"] for row in csv.DictReader(file)}
    assert [study.rater(token) for token in tokens.values()] == list(range(1, 13))
    assert study.rater(tokens["1"].replace("1-", "2-", 1)) is None
    for forged in (
        "",
        "1",
        "1-",
        f"1-{'0' * 32}",
        f"99-{'0' * 32}",
        f"0-{'a' * 32}",
        "x" * 100_000,
        tokens["1"] + "\n",
    ):
        assert study.rater(forged) is None


def test_ratings_show_one_clip_at_a_time(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, "", "adherence,dynamics", each=12)
    assert {len(item.clips) for item in study.items} == {1}
    assert len(ordinary(study, 1)) == 12
    assert [question.column for question in study.questions] == ["adherence_rating", "dynamics_rating"]


def test_prompts_sections_and_own_questions_are_chosen(tmp_path: Path) -> None:
    body = suite(studies.PROMPTS, ["0 slow", "1 slow"])
    run = make_run(tmp_path / "run", body)
    asked = design.questions("sharp=Which is sharper?, overall", "")
    plan = make.Plan(asked, ("b:a",), ("long",), 1)
    made = make.make(run, tmp_path / "study", plan).study
    assert [question.text for question in made.questions] == ["Which is sharper?", "Which video is better overall?"]
    assert {clip.section for clip in made.clips} == {"long"}
    assert len(made.prompts) == 1
    assert made.run == "../run"


@pytest.mark.parametrize(
    ("choices", "ratings", "said"),
    [
        ("adherance", "", "unknown question 'adherance'"),
        ("", "", "a study without questions"),
        ("overall,overall", "", "asked twice"),
        ("bad name=Which?", "", "bad name"),
        ("long=" + "x" * 3000, "", "--questions"),
        ("adherence_rating=Well?", "adherence", "the question 'adherence_rating' is asked twice"),
        (",".join(f"q{number}=Well?" for number in range(51)), "", "51 questions, and a study asks at most 50"),
    ],
)
def test_questions_that_cannot_be_asked(choices: str, ratings: str, said: str) -> None:
    with pytest.raises(HarnessError, match=said) as caught:
        design.questions(choices, ratings)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["a:c"], "no model 'c'"),
        (["a"], "expected two models"),
        (["a:a"], "expected two models"),
        (["a:b", "d:e"], "no pair leads from a to d, e"),
    ],
)
def test_pairs_that_cannot_be_compared(pairs: list[str], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        make.compared(["a", "b", "d", "e"], "a", pairs)


def test_ten_thousand_models_are_too_many_and_said_at_once() -> None:
    labels = [f"model {number}" for number in range(10_000)]
    with pytest.raises(RecordError, match="10,000 models"):
        make.compared(labels, "", ["all"])
    assert make.compared(labels, "", ["model 7:model 9"]) == (["model 7", "model 9"], [(0, 1)])
    with pytest.raises(RecordError, match="no two models"):
        make.compared(["alone"], "alone", ["all"])


def test_a_run_without_clips_makes_no_study(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [Arm("dense", [0.5] * 4), Arm("latent", [0.6] * 4)])
    with pytest.raises(RecordError, match=r"no two clips to compare: \d+ times"):
        make.make(load_run(tmp_path / "run"), tmp_path / "study", make.Plan(design.questions("overall", "")))
    assert not (tmp_path / "study" / design.FILE).exists()


def test_deleted_and_failed_clips_are_left_out_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", suite([*studies.PROMPTS, "6 fails"]))
    entry = next(run.index[key] for group in run.groups if group.kind == "generate" for key in group.keys)
    (run.folder / str(entry.clip["path"])).unlink()
    made = make.make(run, tmp_path / "study", make.Plan(design.questions("overall", ""), obvious=0))
    assert made.left_out == {"the clip was deleted or changed since": 1, "the clip is recorded as failed": 2}
    assert len(made.study.items) == 5


def test_arms_without_a_common_prompt(tmp_path: Path) -> None:
    body = suite(studies.PROMPTS, ["0 slow"])
    body["generate"][0]["models"], body["generate"][1]["models"] = ["a"], ["b"]
    run = make_run(tmp_path / "run", {**body, "plots": []})
    with pytest.raises(RecordError, match="short makes no clips of b") as caught:
        make.make(run, tmp_path / "study", make.Plan(design.questions("overall", "")))
    assert "long makes no clips of a" in caught.value.message


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, folder: Path) -> None:
    run = load_run(folder / "run")
    plan = make.Plan(design.questions("overall", ""))
    with pytest.raises(RecordError, match="holds something already"):
        make.make(run, folder / "study", plan)
    with pytest.raises(RecordError, match="no clips in a section 'shirt'"):
        make.make(run, tmp_path / "study", make.Plan(plan.questions, sections=["shirt"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "newer than this harness"),
        ({"schema": "x"}, "cannot be read"),
        ({"arms": ["a"]}, "is damaged"),
        ({"items": []}, "no study that this harness reads"),
        ({"secret": "short"}, "no study that this harness reads"),
        ({"pairs": [[0, 5]]}, "is damaged"),
        ({"arms": ["a", "a", "b"]}, "is damaged"),
        ({"arms": ["a", "b", "c"]}, "is damaged"),
        ({"arms": ["a", "a"]}, "is damaged"),
        ({"pairs": [[0, 1], [0, 1]]}, "is damaged"),
        ({"pairs": [[1, 0]]}, "is damaged"),
        ({"pairs": [[0]]}, "is damaged"),
        ({"pairs": [[-1, 1]]}, "is damaged"),
        ({"arms": [f"arm {number}" for number in range(4000)]}, "arms: List should have at most 32 items"),
        ({"pairs": [[0, 1]] * 500}, "pairs: List should have at most 496 items"),
        ({"items": [{"clips": [0, 1]}] * 40_001}, "items: List should have at most 40000 items"),
        ({"sequences": [[[0, 0, -1]] * 101] * 10_000}, "more than 1,000,000 tasks"),
        ({"questions": [{"name": "q", "kind": "choice", "text": "?"}] * 2}, "the question 'q' is asked twice"),
        (
            {
                "questions": [
                    {"name": name, "kind": kind, "text": "?"}
                    for name, kind in (("q", "rating"), ("q_rating", "choice"))
                ]
            },
            "the question 'q_rating' is asked twice",
        ),
        ({"questions": [{"name": f"q{n}", "kind": "choice", "text": "?"} for n in range(51)]}, "at most 50 items"),
        ({"sequences": [[[0, 0, -1], [1, 0, 0]]]}, "is damaged"),
        ({"sequences": [[[0, 0, 1], [0, 0, -1]]]}, "is damaged"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(
    folder: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    body = json.loads((folder / "study" / design.FILE).read_text())
    (tmp_path / design.FILE).write_text(json.dumps({**body, **change}))
    with pytest.raises(RecordError, match=said) as caught:
        design.load(tmp_path)
    assert "\n" not in caught.value.message
    with pytest.raises(RecordError, match="is no study"):
        design.load(tmp_path / "nothing")


def test_a_study_leads_to_no_file_outside_of_it(folder: Path, tmp_path: Path) -> None:
    body = json.loads((folder / "study" / design.FILE).read_text())
    for name in ("../study.json", "/etc/passwd", "a.mp4", f"{'0' * 32}.mp4/../../study.json"):
        body["clips"][0]["media"] = name
        (tmp_path / design.FILE).write_text(json.dumps(body))
        with pytest.raises(RecordError, match="no study that this harness reads"):
            design.load(tmp_path)


def test_more_tasks_than_a_study_may_have(folder: Path, tmp_path: Path) -> None:
    plan = make.Plan(design.questions("overall", ""), raters=10_000, each=1000)
    with pytest.raises(RecordError, match="more than 1,000,000 tasks"):
        make.make(load_run(folder / "run"), tmp_path / "study", plan)
    # Attention checks are tasks, too.
    plan = make.Plan(design.questions("overall", ""), raters=10_000, each=100, repeats=0, obvious=1)
    with pytest.raises(RecordError, match="10,000 raters with 101 tasks each"):
        make.make(load_run(folder / "run"), tmp_path / "study", plan)


def test_a_file_is_read_and_written_up_to_one_size(
    folder: Path, study: design.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.write(study, tmp_path / "small")
    size = (tmp_path / "small" / design.FILE).stat().st_size
    for module in (design, make):
        monkeypatch.setattr(module, "LARGEST", size - 1)
    with pytest.raises(RecordError, match=f"the study would have {size:,} bytes"):
        make.write(study, tmp_path / "large")
    assert not (tmp_path / "large").exists()
    with pytest.raises(RecordError, match="larger than"):
        design.load(tmp_path / "small")


def test_tasks_that_no_browser_takes_are_refused_before_a_page_is_made(
    folder: Path, study: design.Study, tmp_path: Path
) -> None:
    """Every task holds its prompt, so that a file of 5 MB would become a page of 86."""
    long = study.model_copy(update={"prompts": ["x" * 900_000] * len(study.prompts)})
    with pytest.raises(RecordError, match=r"the tasks of all raters have .* letters"):
        export.export(folder / "study", long, tmp_path / "static")
    assert not (tmp_path / "static").exists()
    assert len(page.render(long, served=True)[0]) < 100_000
    longer = study.model_copy(update={"prompts": ["x" * 9_000_000] * len(study.prompts)})
    with pytest.raises(RecordError, match=r"the tasks of one rater have .* letters"):
        page.render(longer, served=True)


def test_the_command_makes_a_study_and_exports_it(folder: Path, tmp_path: Path) -> None:
    def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "study", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    out = tmp_path / "study"
    made = harness("new", str(folder / "run"), "--pairs", "a:b", "--raters", "2", "--each", "3", "--out", str(out))
    assert made.returncode == 0, made.stderr
    assert "6 pairs of clips of 2 models on 6 prompts" in made.stdout
    assert "2, with 7 tasks each; a pair or clip is seen 1.0 times" in made.stdout
    exported = harness("export", str(out))
    assert exported.returncode == 0, exported.stderr
    page = (out / "static" / "index.html").read_text()
    secrets = [design.load(out).secret, "page/", "grey", str(page_runs.__file__)]
    assert not [secret for secret in secrets if secret in page]
    assert harness("new", str(tmp_path)).stderr.startswith(f"error: {tmp_path} is no run folder")
    refused = harness("serve", str(out), "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "--name HOST" in refused.stderr

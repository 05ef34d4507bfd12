"""A study in a real browser: answered by simulated raters, from a server and from the disk, and tallied."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import studies
from browsers import Shown, browser
from page_runs import HOSTILE, make_run, suite

from harness.report import people_tables
from harness.runs.records import load_run
from harness.study import design, export, make
from harness.study.tally import tally
from harness.study.votes import collect

pytestmark = pytest.mark.browser
ENTER = "\ue007"
RUN = Path(os.environ.get("VIDEOMLA_PAGE", "results/quickstart/page")).parent


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a study."""
    process = studies.Process(folder)
    try:
        yield f"http://127.0.0.1:{process.port}/"
    finally:
        process.end(signal.SIGKILL)


class Rater:
    """A person at the page of a study, who answers by keyboard."""

    def __init__(self, driver: Any, study: design.Study, address: str, rater: int, **size: int) -> None:
        self.study = study
        self.page = Shown(driver, f"{address}#{study.token(rater)}", **size)
        self.page.until("return ['consent', 'task', 'end'].some((id) => !node(id).hidden)")

    def agree(self) -> None:
        self.page("node('agree').click()")
        self.page.until("return !node('task').hidden")

    def shown(self) -> list[str]:
        """Arms of the videos from left to right; of one that is plainly bad it is empty."""
        names = self.page("return videos().map((video) => video.getAttribute('src'))")
        arm_by_media = {f"{design.MEDIA}/{clip.media}": clip.arm for clip in self.study.clips}
        return [self.study.arms[arm_by_media[name]] if arm_by_media[name] >= 0 else "" for name in names]

    def answer(self, *digits: str) -> None:
        """Answer the questions of a task, one digit each, and go on."""
        before = self.page("return done.size")
        self.page.key("".join(digits), ENTER)
        self.page.until("return done.size > arguments[0] && !busy", before)

    def ended(self) -> bool:
        return bool(self.page("return !node('end').hidden"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, design.Study]:
    folder = tmp_path_factory.mktemp("study")
    texts = ["0 a pattern", "1 a pattern", HOSTILE, "3 " + "endless words " * 700]
    study = studies.make_study(folder, "adherence,overall", "dynamics", texts=texts, raters=6, each=12, obvious=1)
    return folder / "study", study


def test_consent_tasks_progress_and_coming_back(driver: Any, small: tuple[Path, design.Study]) -> None:
    folder, study = small
    with served(folder) as address:
        rater = Rater(driver, study, address, 1)
        assert rater.page("return !node('consent').hidden && node('task').hidden")
        rater.agree()
        assert rater.page("return document.activeElement === document.body || true")
        tasks = len(study.sequences[0])
        for number in range(4):
            assert rater.page("return node('count').textContent") == f"{number} of {tasks}"
            rater.page.until("return videos().every((video) => video.currentTime > 0 && !video.paused)")
            spread = rater.page(
                "const at = videos().map((v) => v.currentTime); return Math.max(...at) - Math.min(...at)"
            )
            assert spread < 0.25
            assert rater.page("return node('next').disabled")
            questions = rater.page("return fieldsets().length")
            rater.answer(*"1" * questions)
        again = Rater(driver, study, address, 1)
        assert again.page("return node('consent').hidden && node('count').textContent") == f"4 of {tasks}"
        while not again.ended():
            again.answer(*"2" * again.page("return fieldsets().length"))
        assert again.page("return node('ended').textContent").startswith("All your answers are saved")
        assert again.page.errors() == []
    counted = collect(folder, study)
    assert len([vote for vote in counted.votes if vote.rater == 1]) == tasks
    assert all(0 < vote.seconds < 60 for vote in counted.votes)


def test_prompts_are_text_and_nothing_names_an_arm(driver: Any, small: tuple[Path, design.Study]) -> None:
    folder, study = small
    with served(folder) as address:
        rater = Rater(driver, study, address, 2, width=390, height=844)
        rater.agree()
        seen = ""
        prompts = set()
        while not rater.ended():
            prompts.add(rater.page("return node('prompt').textContent"))
            seen += str(rater.page("return document.documentElement.outerHTML"))
            assert rater.page("return document.documentElement.scrollWidth") <= 390
            assert rater.page("return node('prompt').getBoundingClientRect().height") < 140
            rater.answer(*"3" * rater.page("return fieldsets().length"))
        assert HOSTILE in prompts
        assert rater.page("return window.ran") is None
        for secret in (
            "page/counter",
            "grey",
            "reference",
            "short:",
            str(folder),
            *(c.key for c in study.clips if c.key),
        ):
            assert secret not in seen
        assert rater.page.errors() == []


def test_the_page_can_be_used_by_keyboard_and_read_aloud(driver: Any, small: tuple[Path, design.Study]) -> None:
    folder, study = small
    with served(folder) as address:
        rater = Rater(driver, study, address, 3)
        rater.agree()
        unnamed = rater.page(
            """const named = (node) => node.ariaLabel || node.textContent.trim() || node.labels?.length;
            const all = document.querySelectorAll("button, input, video, progress");
            return [...all].filter((node) => !named(node)).map((node) => node.outerHTML)"""
        )
        assert unnamed == []
        # Even before the videos are there: they wait for whom they are shown to.
        rater.page.key(" ")
        rater.page.until("return videos().every((video) => video.readyState > 2)")
        assert rater.page("return videos().every((video) => video.paused) && node('play').textContent") == "play"
        rater.page.key("r")
        rater.page.until("return videos().every((video) => !video.paused)")
        while rater.page("return fieldsets().length") < 2:
            rater.answer("4")
        rater.page.key("1")
        assert rater.page("return marked") == 1
        rater.page.key("\ue013", "3")
        assert rater.page("return [...document.querySelectorAll(':checked')].map((radio) => radio.value)") == ["b"]
        assert rater.page("return node('next').disabled")
        rater.page.key(ENTER)
        assert rater.page("return busy") is False
        rater.page.key("2", ENTER)
        rater.page.until("return done.size > 0 && !busy")


def test_a_forged_link_and_a_server_that_was_away(driver: Any, small: tuple[Path, design.Study]) -> None:
    folder, study = small
    process = studies.Process(folder)
    page = Shown(driver, f"http://127.0.0.1:{process.port}/#4-{'0' * 32}")
    page.until("return !node('problem').hidden")
    assert "not valid" in page("return node('problem').textContent")
    rater = Rater(driver, study, f"http://127.0.0.1:{process.port}/", 4)
    rater.agree()
    process.end()
    rater.page.key("1" * rater.page("return fieldsets().length"), ENTER)
    rater.page.until("return node('problem').textContent.startsWith('Not saved yet')")
    assert rater.page("return done.size") == 0
    process = studies.Process(folder, process.port)
    rater.page.until("return done.size === 1 && !busy")
    assert rater.page("return node('problem').hidden")
    process.end()
    assert len([vote for vote in collect(folder, study).votes if vote.rater == 4]) == 1


def test_a_study_from_the_disk_saves_a_file_that_the_tally_reads(
    driver: Any, small: tuple[Path, design.Study], tmp_path: Path
) -> None:
    folder, study = small
    index = export.export(folder, study, tmp_path / "static")
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    rater = Rater(driver, study, index.as_uri(), 5)
    rater.agree()
    rater.answer(*"1" * rater.page("return fieldsets().length"))
    again = Rater(driver, study, index.as_uri(), 5)
    assert again.page("return done.size") == 1
    while not again.ended():
        again.answer(*"3" * again.page("return fieldsets().length"))
    again.page("node('keep').click()")
    saved = tmp_path / "votes-5.json"
    for _ in range(500):
        if saved.is_file():
            break
        again.page("return new Promise((resolve) => setTimeout(resolve, 20))")
    counted = collect(tmp_path, study, [saved])
    assert len(counted.votes) == len(study.sequences[4])
    # On another machine the file brings the answers back.
    again.page("localStorage.clear()")
    fresh = Rater(driver, study, index.as_uri(), 5)
    assert fresh.page("return done.size") == 0
    fresh.page("node('resume').hidden = false")
    from selenium.webdriver.common.by import By

    fresh.page.driver.find_element(By.ID, "file").send_keys(str(saved))
    fresh.page.until("return !node('end').hidden")
    assert fresh.page.errors() == []


def test_twenty_raters_of_the_quickstart_are_tallied(driver: Any, tmp_path: Path) -> None:
    """Eighteen prefer one arm by odds that are known, two are careless. Without the quickstart, of clips of tests."""
    quickstart = (RUN / "plan.json").is_file() and (RUN / "clips").is_dir()
    run = load_run(RUN) if quickstart else make_run(tmp_path / "run", suite(studies.PROMPTS))
    plan = make.Plan(
        design.questions("adherence,overall", ""),
        pairs=("dense:videomla",) if quickstart else ("all",),
        sections=("short",),
        prompts=None if not quickstart else 12,
        raters=20,
        each=4,
        repeats=1,
        obvious=2,
    )
    study = make.make(run, tmp_path / "study", plan).study
    ahead, odds, chance = study.arms[0], 3.0, random.Random(11)
    with served(tmp_path / "study") as address:
        for number in range(1, 21):
            rater = Rater(driver, study, address, number)
            rater.agree()
            while not rater.ended():
                shown = rater.shown()
                if number > 18:
                    digits = [chance.choice("123") for _ in range(2)]
                elif "" in shown:
                    digits = ["31"[shown.index("")]] * 2
                else:
                    digits = [
                        "13"[shown.index(ahead) ^ (chance.random() > odds / (odds + 1))]
                        if chance.random() > 0.1
                        else "2"
                        for _ in range(2)
                    ]
                rater.answer(*digits)
            assert rater.page.errors() == []
    people = tally(study, collect(tmp_path / "study", study), run)
    assert (people.raters, people.left_out) == (18, 2)
    for answered in people.answered:
        first, second = (answered.opinions[label].value for label in study.arms)
        assert first is not None
        assert second is not None
        assert answered.votes == 72
        assert abs(first - second - math.log(odds)) < 1.1
        assert first > second
    for table in people_tables.of(people, study.arms, ""):
        print(
            "\n" + table.title, *(f"{row.label}: {[cell.text for cell in row.cells]}" for row in table.rows), sep="\n"
        )
    (tmp_path / "people.json").write_text(json.dumps(people.model_dump(by_alias=True)))

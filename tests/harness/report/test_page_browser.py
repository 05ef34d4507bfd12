"""The page in a real browser: Debian's Chromium, from the disk and from a server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import WAIT_S, Shown, browser
from page_runs import BITS, HEIGHT, HOSTILE, RATE, WIDTH, make_run, suite

from harness.report.page import folder as pages
from harness.report.page.serve import serving
from harness.runs.line import encode
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile, load_run
from harness.suite.schema import Suite

pytestmark = pytest.mark.browser
PROMPTS = [*(f"{number} a pattern" for number in range(14)), HOSTILE]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    run = make_run(folder / "run", suite(PROMPTS, ["0 slow", "1 slow"]))
    return pages.write([run], folder / "page", {"3 a pattern": {"kind": ["still", "odd"]}}).index


@pytest.fixture(scope="module")
def address(page: Path) -> Iterator[str]:
    """The page by HTTP, where a script may read the pixels of its videos."""
    with serving(page.parent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Page(Shown):
    """An open page, with what tests ask of it."""

    def clips(self) -> None:
        """Bring the clips into view and wait until those that are seen are loaded and stand still."""
        self("document.getElementById('player').scrollIntoView()")
        self.still()

    def still(self) -> None:
        self.until("return live.size > 0 && [...live].every((video) => video.readyState > 1 && !video.seeking)")

    def numbers(self) -> list[list[int]]:
        """Of each loaded video: the number of the frame that is seen, read from its stripes, and its arm."""
        seen: list[list[int]] = self(
            """const [width, height, bits] = arguments;
            return [...live].map((video) => {
              const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
              pen.drawImage(video, 0, 0);
              const lit = (bit) => pen.getImageData((bit + 0.5) * width / bits, height / 4, 1, 1).data[0] > 127;
              return [[...Array(bits).keys()].reduce((number, bit) => number | lit(bit) << bit, 0), video.arm];
            })""",
            WIDTH,
            HEIGHT,
            BITS,
        )
        return seen

    def prompts(self) -> list[str]:
        shown: list[str] = self("return rows.map((row) => row.prompt)")
        return shown

    def set(self, name: str, value: str) -> None:
        """Let a control have a value, as a person would."""
        self(
            """const control = document.getElementById(arguments[0]);
            if (control.type === "checkbox") return control.click();
            control.value = arguments[1];
            for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind));""",
            name,
            value,
        )


@pytest.fixture
def opened(driver: Any) -> Callable[..., Page]:
    return lambda url, **size: Page(driver, url, **size)


def test_it_opens_from_the_disk_and_keeps_its_policy(opened: Callable[..., Page], page: Path) -> None:
    shown = opened(page.as_uri())
    shown.clips()
    assert shown("return getComputedStyle(document.body).margin") == "0px"
    assert shown("return document.querySelector('.drawn img').decode().then(() => true)")
    assert shown("return document.querySelectorAll('.drawn circle').length") == 2
    shown("document.querySelector('.drawn circle').dispatchEvent(new Event('pointerover', {bubbles: true}))")
    assert shown("return document.getElementById('tip').textContent").startswith("a: ")
    assert shown.errors() == []


def test_a_hostile_prompt_is_text_and_runs_nothing(opened: Callable[..., Page], page: Path) -> None:
    shown = opened(f"{page.as_uri()}#query=onerror")
    shown.clips()
    assert shown.prompts() == [HOSTILE]
    assert shown("return document.querySelector('.row p').textContent") == HOSTILE
    assert shown("return window.ran") is None
    assert shown("return document.querySelectorAll('.row b, .row img').length") == 0
    # Even a script that somebody wrote into the document would not run.
    shown(
        """const script = document.createElement("script");
        try { script.text = "window.ran = 1"; } catch {}
        document.body.append(script);"""
    )
    assert shown("return window.ran") is None


def test_a_click_on_a_heading_sorts_the_table(opened: Callable[..., Page], page: Path) -> None:
    shown = opened(page.as_uri())
    names = (
        "return [...document.querySelectorAll('.sortable tbody th')].map((head) => head.firstChild.textContent.trim())"
    )
    column = "document.querySelectorAll('.sortable thead button')[1]"
    assert shown(names) == ["a", "b"]
    shown(f"{column}.click()")
    # Their means are 100 + 5 m and 200 - 5 m for the same mean m of the numbers, and the higher is the better.
    assert shown(names) == ["b", "a"]
    assert shown(f"return {column}.closest('th').ariaSort") == "descending"
    shown(f"{column}.click()")
    assert shown(names) == ["a", "b"]


def test_every_step_shows_its_frame_in_all_clips(opened: Callable[..., Page], address: str) -> None:
    shown = opened(address)
    shown.clips()
    for number in range(24):
        shown.still()
        assert {seen for seen, _ in shown.numbers()} == {number}
        shown("document.getElementById('forward').click()")
    shown.still()
    assert {seen for seen, _ in shown.numbers()} == {23}
    shown("document.getElementById('back').click()")
    shown.still()
    assert {seen for seen, _ in shown.numbers()} == {22}


def test_clips_play_together_within_a_frame(opened: Callable[..., Page], address: str) -> None:
    shown = opened(f"{address}#section=long&loop=")
    shown.clips()
    shown("document.getElementById('play').click()")
    spread = []
    for place in (0.8, 1.6, 2.4, 3.2):
        shown.until("return clock.at > arguments[0]", place)
        times = shown("return [...live].filter((video) => !video.paused).map((video) => video.currentTime)")
        assert len(times) == 4
        spread.append(max(times) - min(times))
    apart = ", ".join(f"{1000 * seconds:.0f}" for seconds in spread)
    print(f"\nclips apart while they play: {apart} ms; a frame is {1000 / RATE:.0f} ms")
    assert sorted(spread)[1] < 1 / RATE
    shown("document.getElementById('play').click()")
    shown.still()
    numbers = {seen for seen, _ in shown.numbers()}
    assert len(numbers) == 1
    assert min(numbers) > 30
    assert shown("return document.getElementById('place').textContent").startswith(f"frame {min(numbers)} of 96 ")


def test_a_loop_starts_again_and_an_end_stays(opened: Callable[..., Page], address: str) -> None:
    shown = opened(f"{address}#speed=4&loop=&at=12")
    shown.clips()
    shown("document.getElementById('play').click()")
    shown.until("return !clock.playing")
    shown.still()
    assert {seen for seen, _ in shown.numbers()} == {23}
    shown.set("loop", "")
    shown("seek(20.5 / rate); document.getElementById('play').click()")
    shown.until("return clock.playing && clock.at < 0.5")


def test_prompts_are_filtered_and_sorted_and_the_address_keeps_it(opened: Callable[..., Page], page: Path) -> None:
    shown = opened(page.as_uri())
    shown.clips()
    shown.set("query", "PATTERN")
    assert len(shown.prompts()) == 14
    shown.set("sort", "worst")
    # Arm b is at 100 - 10 n above arm a for prompt n: the last is the worst.
    assert shown.prompts()[:2] == ["13 a pattern", "12 a pattern"]
    shown.set("ten", "")
    assert shown.prompts() == [f"{number} a pattern" for number in range(13, 3, -1)]
    shown.set("least", "180")
    assert shown.prompts() == ["4 a pattern", "3 a pattern", "2 a pattern", "1 a pattern", "0 a pattern"]
    shown.set("of", "change")
    shown.set("least", "10")
    shown.set("most", "30")
    assert shown.prompts() == ["9 a pattern", "8 a pattern", "7 a pattern"]
    shown.set("of", "second")
    shown.set("most", "")
    shown.set("least", "180")
    link = shown("return location.href")
    again = opened(link)
    again.clips()
    assert again.prompts() == [f"{number} a pattern" for number in (4, 3, 2, 1, 0)]
    assert again("return document.getElementById('query').value") == "PATTERN"
    assert again("return document.getElementById('sort').value") == "worst"
    again.set("query", "")
    again.set("attribute", "kind=odd")
    assert again.prompts() == ["3 a pattern"]
    again.set("query", "nothing like it")
    assert again("return document.getElementById('count').textContent") == "No prompt fits the filters."
    assert again.errors() == []


def test_a_jump_past_the_clips_ends_at_the_provenance(opened: Callable[..., Page], page: Path) -> None:
    shown = opened(page.as_uri())
    unseen = shown("return document.querySelector('.row:empty').offsetHeight")
    shown("document.querySelector('nav a[href=\"#provenance\"]').click()")
    shown.still()
    top = shown("return document.getElementById('provenance-title').getBoundingClientRect().top / innerHeight")
    assert 0 <= top < 1
    assert unseen == shown("return document.querySelector('.row:not(:empty)').offsetHeight")


def test_an_address_of_nonsense_shows_the_page(opened: Callable[..., Page], page: Path) -> None:
    nonsense = "section=none&value=length&sort=constructor&gain=99999999&size=x&of=toString&first=9&second=-1&at=1e99"
    shown = opened(f"{page.as_uri()}#{nonsense}&models=%25")
    shown.clips()
    assert len(shown.prompts()) == len(PROMPTS)
    assert shown("return [state.section, state.sort, state.gain, state.size, state.of]") == [
        "short",
        "",
        "0",
        "220",
        "",
    ]
    assert shown.errors() == []


def test_the_difference_of_two_arms(opened: Callable[..., Page], address: str) -> None:
    shown = opened(f"{address}#query=0 a pattern&difference=1")
    shown.clips()
    pixel = """const pen = document.querySelector("canvas").getContext("2d");
      return [...pen.getImageData(32, arguments[0], 1, 1).data]"""
    # The stripes are equal; the lower halves are 100 and 200.
    shown.until(f"const pixel = (() => {{ {pixel} }})(); return pixel[3] === 255", HEIGHT * 3 // 4)
    assert shown(pixel, HEIGHT // 4)[0] <= 4
    assert shown(pixel, HEIGHT * 3 // 4)[0] == pytest.approx(100, abs=4)
    shown.set("gain", "2")
    shown.still()
    shown.until(f"const pixel = (() => {{ {pixel} }})(); return pixel[0] === 255", HEIGHT * 3 // 4)


def test_long_clips_have_thumbnails_a_curve_and_a_cursor(opened: Callable[..., Page], address: str) -> None:
    shown = opened(f"{address}#section=long")
    shown.clips()
    shown.until("return [...document.querySelectorAll('.track img')].every((image) => image.naturalWidth === 12 * 120)")
    assert shown("return document.querySelector('.track polyline').getAttribute('points').split(' ').length") == 3
    assert float(shown("return document.querySelector('.track .switch').getAttribute('x1')")) == 50
    shown.set("curve", "part")
    assert shown("return document.querySelector('.track polyline').getAttribute('points').split(' ').length") == 4
    shown("seek(48.5 / rate)")
    assert shown("return parseFloat(document.querySelector('.cursor').style.left)") == pytest.approx(100 * 48.5 / 96)
    shown(
        """const track = document.querySelector(".track"), box = track.getBoundingClientRect();
        const place = { clientX: box.left + 0.755 * box.width, clientY: box.top + 2, pointerId: 1 };
        track.dispatchEvent(new PointerEvent("pointerdown", place));"""
    )
    shown.still()
    assert {seen for seen, _ in shown.numbers()} == {72}


def test_keys_drive_the_page(opened: Callable[..., Page], address: str) -> None:
    shown = opened(address)
    shown.clips()
    shown.key(" ")
    assert shown("return clock.playing && document.getElementById('play').ariaPressed") == "true"
    shown.key(" ")
    assert not shown("return clock.playing")
    shown.key("\ue011")  # Home
    shown.key("\ue014", "\ue014")  # right arrow
    assert shown("return document.getElementById('scrub').value") == "2"
    shown.key("jj")
    assert shown("return document.activeElement.dataset.number") == "1"
    shown.key("w")
    assert len(shown.prompts()) == 10
    shown.key("/")
    shown.key("pattern l")
    assert shown("return document.getElementById('query').value") == "pattern l"
    assert shown("return document.getElementById('loop').checked")
    shown("document.activeElement.blur()")
    shown.key("?")
    assert shown("return document.getElementById('help').open")


def test_controls_have_names_and_small_screens_and_paper_are_served(opened: Callable[..., Page], page: Path) -> None:
    shown = opened(page.as_uri(), width=390)
    shown.clips()
    assert shown("return document.documentElement.scrollWidth") <= 390
    unnamed = shown(
        """const named = (node) => node.ariaLabel || node.textContent.trim() || node.labels?.length
          || node.hasAttribute("alt");
        const all = document.querySelectorAll("button, input, select, video, img, [role=img]");
        return [...all].filter((node) => !named(node)).map((node) => node.outerHTML);"""
    )
    assert unnamed == []
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert shown(colour) == "rgb(255, 255, 255)"
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert shown(colour) == "rgb(21, 23, 26)"
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    for left_out in ("#player", "#filters", ".row:empty"):
        assert shown("return getComputedStyle(document.querySelector(arguments[0])).display", left_out) == "none"
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def many(folder: Path, prompts: int) -> Path:
    """A page of two arms with a clip for each of so many prompts; all of them one file of one size."""
    small = make_run(folder / "small", suite(["0 a pattern"]))
    body = suite([f"{number} a pattern with some more words" for number in range(prompts)], plots=[])
    plan = make(Suite.model_validate(body), "cpu")
    run = folder / "run"
    (run / "clips").mkdir(parents=True)
    (run / "plan.json").write_text(json.dumps(to_json(plan)))
    templates = {record.kind: record for record in RecordFile(small.folder / "records.jsonl").records()}
    os.link(small.folder / str(templates["generate"].clip["path"]), run / "clips/one.mp4")
    with (run / "records.jsonl").open("wb") as file:
        for number, unit in enumerate(plan.units):
            like = templates[unit.kind]
            clip = {**like.clip, "path": "clips/one.mp4"}
            record = type(like)(
                unit.key, unit.kind, "ok", unit.preimage, unit.context, {**like.values, "grey": number % 100}, clip=clip
            )
            file.write(encode(record))
    return pages.write([load_run(run)], folder / "page").index


def test_five_thousand_clips_stay_usable(opened: Callable[..., Page], tmp_path: Path) -> None:
    shown = opened(many(tmp_path, 2500).as_uri())
    assert shown("return rows.length * arms.length") == 5000
    shown.clips()
    assert shown("return document.querySelectorAll('video').length") < 60
    paint = shown("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    shown.driver.set_script_timeout(WAIT_S)
    gaps = shown.driver.execute_async_script(
        """const done = arguments[0], gaps = [], start = performance.now(); let before = start, most = 0;
        (function turn(now) {
          gaps.push(now - before); before = now;
          most = Math.max(most, document.querySelectorAll("video").length);
          scrollBy(0, 60);
          now - start < 3000 ? requestAnimationFrame(turn) : done([gaps.slice(1).sort((a, b) => a - b), most, scrollY]);
        })(start)"""
    )
    shifts, most, reached = gaps
    middle, slow, slowest = (shifts[int(len(shifts) * share)] for share in (0.5, 0.99, 0.9999))
    print(f"\n5,000 clips: first paint after {paint:.0f} ms; {reached:.0f} px scrolled, at most {most} videos at once")
    print(f"frames of {middle:.0f} ms, 99 % below {slow:.0f} ms, the longest {slowest:.0f} ms")
    assert most < 75
    shown("scrollTo(0, document.documentElement.scrollHeight)")
    shown.until("return [...live].some((video) => video.closest('.row').dataset.number > 2400)")
    shown.set("query", "2499 a")
    assert shown.prompts() == ["2499 a pattern with some more words"]
    shown.still()
    assert shown.errors() == []


QUICKSTART = Path(os.environ.get("VIDEOMLA_PAGE", "results/quickstart/page"), "index.html")


@pytest.mark.skipif(not QUICKSTART.is_file(), reason="the page of the quickstart was not made")
def test_the_page_of_the_quickstart(opened: Callable[..., Page]) -> None:
    shown = opened(QUICKSTART.resolve().as_uri())
    shown.clips()
    assert shown("return data.arms.map((arm) => arm.label)") == [
        "dense",
        "videomla",
        "videomla 8 bits",
        "videomla 4 bits",
        "videomla control",
    ]
    assert shown("return data.sections.map((each) => each.rows.length)") == [32, 48]
    assert shown("return document.querySelectorAll('.matrix tbody tr').length") > 5
    shown("document.getElementById('play').click()")
    shown.until("return [...live].every((video) => video.currentTime > 0.3)")
    assert shown.errors() == []

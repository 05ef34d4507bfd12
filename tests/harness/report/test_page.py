"""A page's folder, without a browser: what it holds, what it says of what is missing, and that it escapes."""

import base64
import errno
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_runs import HOSTILE, make_run, suite
from record_lines import drop_digests
from run_folders import Arm, write_run

from harness.errors import RecordError, SuiteError
from harness.report.page import folder as pages
from harness.report.page import summary
from harness.report.page.gallery import numbered
from harness.report.plots.chart import Axis, Line, Panel, Picture, draw_with_spots
from harness.runs.records import Run, load_run
from harness.suite.attributes import read_attributes
from harness.system import video


class Reader(HTMLParser):
    """Tags with their attributes, and the text inside of each kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def data_of(index: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', index.read_text(), re.DOTALL)
    body: dict[str, Any] = json.loads(text)
    return body


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    prompts = [*(f"{number} a pattern" for number in range(4)), "5 fails", HOSTILE]
    return make_run(tmp_path_factory.mktemp("page") / "run", suite(prompts, ["0 slow", "1 slow"]))


def test_a_page_holds_clips_scores_and_tables(run: Run, tmp_path: Path) -> None:
    page = pages.write([run], tmp_path / "page")
    assert (page.clips, page.missing) == (14, 2)
    data = data_of(page.index)
    assert [arm["label"] for arm in data["arms"]] == ["a", "b"]
    short, long = data["sections"]
    assert [row["prompt"] for row in short["rows"]] == [
        *(f"{number} a pattern" for number in range(4)),
        "5 fails",
        HOSTILE,
    ]
    grey = [value["label"] for value in short["values"]].index("grey")
    for number, row in enumerate(short["rows"][:4]):
        assert row["cells"]["0"]["scores"][str(grey)] == 100 + 5 * number
        assert row["cells"]["1"]["scores"][str(grey)] == 200 - 5 * number
    for row in (*short["rows"], *long["rows"]):
        for cell in row["cells"].values():
            if "file" in cell:
                assert video.inspect(page.index.parent / cell["file"]).frames == cell["frames"]
    assert "the pattern is <lost>" in short["rows"][4]["cells"]["0"]["reason"]
    cell = long["rows"][1]["cells"]["0"]
    assert cell["switches"] == [[48, "a later prompt"]]
    assert cell["curves"] == {"drift": [3, 2, 1], "part": [106, 107, 108, 109]}
    assert (page.index.parent / cell["strip"]).read_bytes().startswith(b"\xff\xd8")
    assert (page.index.parent / "tables" / "page.csv").is_file()


def test_no_text_becomes_markup_and_the_policy_names_the_one_script(run: Run, tmp_path: Path) -> None:
    text = pages.write([run], tmp_path / "page").index.read_text()
    reader = Reader(text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert len([tag for tag, _ in reader.tags if tag == "script"]) == 2
    assert not [
        name for _, attributes in reader.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert any("Grey & <b>" in piece for piece in reader.texts)
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    outside = [a[name] for _, a in reader.tags for name in ("src", "href") if a.get(name)]
    assert not [link for link in outside if link and ("//" in link or link.startswith(("data:", "javascript:")))]


def test_what_is_gone_is_marked_and_the_rest_is_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", suite(["0 a", "1 b"]))
    pages.write([run], tmp_path / "page")
    entry = run.index[run.groups[0].keys[0]]
    (run.folder / str(entry.clip["path"])).unlink()
    page = pages.write([run], tmp_path / "page")
    assert (page.clips, page.missing) == (3, 1)
    (row, _) = data_of(page.index)["sections"][0]["rows"]
    assert row["cells"]["0"]["reason"] == "the clip was deleted or changed since"
    assert row["cells"]["0"]["scores"]
    assert len(list((tmp_path / "page" / "clips").iterdir())) == 3


def test_runs_side_by_side_share_prompts_where_they_have_them(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", suite(["0 shared", "1 first only"]))
    second = make_run(tmp_path / "second", suite(["0 shared", "2 second only"]))
    data = data_of(pages.write([first, second], tmp_path / "page").index)
    assert [arm["label"] for arm in data["arms"]] == ["first: a", "first: b", "second: a", "second: b"]
    rows = {row["prompt"]: sorted(row["cells"]) for row in data["sections"][0]["rows"]}
    assert rows == {"0 shared": ["0", "1", "2", "3"], "1 first only": ["0", "1"], "2 second only": ["2", "3"]}


def test_a_run_without_clips_or_results_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [Arm("dense", [None] * 4), Arm("latent", [1, 2, 3, None])], incomplete="refuse")
    page = pages.write([load_run(tmp_path / "run")], tmp_path / "page")
    text = page.index.read_text()
    assert page.clips == 0
    assert "There are no tables: table &#39;fake&#39; is refused" in text
    assert text.count("not made yet") == 8
    write_run(
        tmp_path / "bare",
        [Arm("dense", [])],
        generate=[],
        tables=[{"name": "t", "columns": [{"value": "card:family"}]}],
    )
    assert (
        "These runs have no clips." in pages.write([load_run(tmp_path / "bare")], tmp_path / "other").index.read_text()
    )


def test_the_matrix_says_what_compare_says(tmp_path: Path) -> None:
    arms = [
        Arm("dense", [0.5, 0.52, 0.49, 0.51]),
        Arm("latent", [0.9, 0.91, 0.92, 0.9]),
        Arm("worse", [0.1, 0.12, 0.1, 0.11]),
    ]
    write_run(tmp_path / "run", arms, metric="fake/plain")
    text = pages.write([load_run(tmp_path / "run")], tmp_path / "page").index.read_text()
    matrix = re.findall(r'<td class="(\w+)" data-tip="([^"]*)" tabindex="0">([^<]*)<', text)
    assert [(looks, verdict) for looks, _, verdict in matrix] == [("better", "BETTER"), ("worse", "WORSE")]
    assert matrix[0][1].startswith("0.505 → 0.9075, +0.4025 [")


def test_many_arms_and_long_prompts_stay_bounded_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MOST_PAIRS", 2)
    arms = [Arm(f"arm {number}", [number / 1000]) for number in range(510)]
    long = "word " * 2000
    write_run(tmp_path / "run", arms, 1, metric="fake/plain")
    page = pages.write([load_run(tmp_path / "run")], tmp_path / "page")
    text = page.index.read_text()
    assert "10 more rows are in the CSV file." in text
    assert len((tmp_path / "page/tables/fake.csv").read_text().splitlines()) == 511
    assert "507 more models: <code>harness compare RUN arm 0 MODEL</code>" in text
    assert len(data_of(page.index)["arms"]) == 510
    run = make_run(tmp_path / "long", suite([long]))
    assert data_of(pages.write([run], tmp_path / "longer").index)["sections"][0]["rows"][0]["prompt"] == long


def test_a_clip_that_not_every_browser_plays_has_a_marked_copy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", suite(["0 a"]))
    entry = run.index[run.groups[0].keys[0]]
    path = run.folder / str(entry.clip["path"])
    pixels = video.read(path)
    video.write_lossless(path, pixels, 12.0)
    lines = drop_digests(run.folder / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        if record["key"] == entry.key:
            record["clip"] |= {"bytes": path.stat().st_size, "encoder": {"kept": "as it was"}}
    (run.folder / "records.jsonl").write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records))
    page = pages.write([load_run(run.folder)], tmp_path / "page")
    cell = data_of(page.index)["sections"][0]["rows"][0]["cells"]["0"]
    assert cell["preview"] is True
    assert video.plays_anywhere(page.index.parent / cell["file"])
    assert not video.plays_anywhere(path)
    copied = video.read(page.index.parent / cell["file"]).astype(int)
    assert np.abs(copied - pixels).mean() < 4


def test_a_page_replaces_only_a_page(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RecordError, match="holds something else than a page"):
        pages.write([run], tmp_path / "mine")
    with pytest.raises(RecordError, match="is a file"):
        pages.write([run], tmp_path / "mine" / "thesis.txt")
    pages.write([run], tmp_path / "page")
    (tmp_path / "page" / "clips" / "old.mp4").write_bytes(b"x")
    page = pages.write([run], tmp_path / "page")
    assert not (page.index.parent / "clips" / "old.mp4").exists()


def test_clips_are_copied_where_they_cannot_be_linked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr("harness.report.page.media.os.link", refuse)
    page = pages.write([run], tmp_path / "page")
    cell = data_of(page.index)["sections"][0]["rows"][0]["cells"]["0"]
    assert (page.index.parent / cell["file"]).stat().st_nlink == 1
    assert video.inspect(page.index.parent / cell["file"]).frames == 24


def test_a_record_cannot_lead_out_of_its_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", suite(["0 a"]))
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    text = drop_digests(run.folder / "records.jsonl").read_text()
    path = run.index[run.groups[0].keys[0]].clip["path"]
    size = run.index[run.groups[0].keys[0]].clip["bytes"]
    (run.folder / "records.jsonl").write_text(
        text.replace(f'"{path}"', '"../secret.mp4"').replace(f'"bytes":{size}', '"bytes":6')
    )
    page = pages.write([load_run(run.folder)], tmp_path / "page")
    assert page.missing == 1
    assert not [file for file in page.index.parent.rglob("*.mp4") if file.read_bytes() == b"secret"]


def test_attributes_come_from_a_file_beside_the_prompts(run: Run, tmp_path: Path) -> None:
    rows = [{"prompt": "0 a pattern", "dimensions": ["color", "scene"], "n": 3}, {"prompt": "none of them", "n": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    attributes = read_attributes(tmp_path / "a.jsonl")
    assert attributes["0 a pattern"] == {"dimensions": ["color", "scene"], "n": ["3"]}
    data = data_of(pages.write([run], tmp_path / "page", attributes).index)
    assert [row["about"] for row in data["sections"][0]["rows"][:2]] == [attributes["0 a pattern"], {}]
    (tmp_path / "a.csv").write_text('prompt,kind\n"a, b",still\nc,\n')
    assert read_attributes(tmp_path / "a.csv") == {"a, b": {"kind": ["still"]}, "c": {}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "a.jsonl:1: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
        ("a.jsonl", b"[1]", "row 1 has no text 'prompt'"),
        ("a.csv", b"text,kind\na,b\n", "row 1 has no text 'prompt'"),
        ("a.csv", b'prompt\n"a', "not CSV"),
        ("a.csv", b"prompt\n\xff", "it is not UTF-8"),
        ("b.csv", None, "cannot be read"),
    ],
)
def test_attributes_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SuiteError, match=re.escape(message)):
        read_attributes(tmp_path / name)


def test_numbered_values_are_a_curve() -> None:
    scores = {
        "quarter_1": 1.0,
        "quarter_2": 0.5,
        "quarter_3": 0.25,
        "q_1_x": 1,
        "q_2_x": 2,
        "q_3_x": 3,
        "gap_1": 0,
        "gap_2": 0,
        "gap_4": 0,
    }
    assert numbered(scores) == {"quarter": [1.0, 0.5, 0.25], "q x": [1, 2, 3]}


def test_spots_lie_on_the_markers_of_the_drawing() -> None:
    lines = (Line("one", 0, (1.0, 10.0, 100.0), (2.0, 3.0, 5.0)),)
    picture = Picture("p", "Title", (Panel(Axis("across", log=True), Axis("up", "s"), lines),))
    drawn, spots, ratio = draw_with_spots(picture)
    text = drawn.decode()
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
    assert ratio == pytest.approx(width / height, rel=1e-3)
    (group,) = (part for part in re.findall(r"<g clip-path[^>]*>(.*?)</g>", text, re.DOTALL) if part.count("<use") == 3)
    markers = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', group)]
    for spot, marker in zip(spots, markers, strict=True):
        assert (spot.x * width, spot.y * height) == pytest.approx(marker, abs=0.01)
    assert [spot.text for spot in spots] == ["one: 2 s at 1", "one: 3 s at 10", "one: 5 s at 100"]

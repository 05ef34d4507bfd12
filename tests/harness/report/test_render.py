"""Renderers against hostile text and against what each format's own reader makes of them."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from harness.report.render import RENDERERS, comma_separated, html, latex, markdown, terminal
from harness.report.table import RANDOM_WEIGHTS, Cell, Heading, Row, Table

HOSTILE = '<script>alert("x")</script> a|b [x](javascript:y) `c` *d* $e$ 50% \\input{f} =1+1 #g _h_ {i} é 🎈'


def table(label: str = "dense", title: str = "Title") -> Table:
    rows = (
        Row(
            label,
            (Cell("0.912", 0.912, 0.881, 0.94, "[0.881, 0.940]", 47, 48, best=True), Cell("3,072", 3072.0)),
            reference=True,
        ),
        Row(
            "latent",
            (Cell("0.850", 0.85, 0.8, 0.9, "[0.800, 0.900]", 48, 48), Cell("not measured")),
            marks=(RANDOM_WEIGHTS,),
        ),
    )
    columns = (Heading("accuracy", direction="higher"), Heading("cached scalars", "per token", "lower"))
    return Table("main", title, columns, rows, remarks=("Remark.",))


def test_markdown_by_hand() -> None:
    lines = markdown(table()).splitlines()
    assert lines[0] == "### Title"
    assert re.sub(r" +", " ", lines[2]) == "| model | accuracy ↑ | cached scalars (per token) ↓ |"
    assert re.sub(r" +", " ", lines[4]) == "| dense (reference) | **0.912** [0.881, 0.940] 47/48 | 3,072 |"
    assert re.sub(r" +", " ", lines[5]) == "| latent† | 0.850 [0.800, 0.900] 48/48 | not measured |"
    assert lines[7] == "Mean [95 % interval, clustered by prompt], scored/planned, best in bold."
    assert lines[9] == "Remark."
    assert lines[11].startswith("† random weights")


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(table(HOSTILE)))))
    assert rows[0]["model"] == HOSTILE
    assert (rows[0]["accuracy"], rows[0]["accuracy low"], rows[0]["accuracy scored"]) == ("0.912", "0.881", "47")
    assert (rows[0]["reference"], rows[1]["reference"]) == ("yes", "")
    assert rows[1]["cached scalars (per token)"] == ""
    assert rows[1]["cached scalars (per token) reason"] == "not measured"
    assert rows[1]["notes"].startswith("random weights")


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@x"])
def test_csv_starts_no_formula(text: str) -> None:
    assert next(csv.DictReader(io.StringIO(comma_separated(table(text)))))["model"] == f"'{text}"


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_escapes_everything_and_needs_nothing_else() -> None:
    reader = Reader()
    page = html(table(HOSTILE, HOSTILE))
    reader.feed(page)
    assert not {"script", "link", "img", "iframe", "a"} & set(reader.tags)
    assert not {"src", "href", "onerror", "onclick"} & set(reader.attributes)
    assert any(HOSTILE in text for text in reader.text)
    assert reader.tags.count("tr") == 3
    assert "<strong>0.912</strong>" in page


def test_markdown_opens_no_tag_link_or_column() -> None:
    drawn = markdown(table(HOSTILE, HOSTILE))
    assert "<script" not in drawn
    assert "](java" not in drawn
    row = next(line for line in drawn.splitlines() if "reference" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_latex_escapes_every_special_character() -> None:
    drawn = latex(table(HOSTILE, HOSTILE))
    row = next(line for line in drawn.splitlines() if line.endswith(r"\\") and "reference" in line)
    label = row.split(" & ")[0]
    for letter in "$%#_":
        assert not re.search(rf"(?<!\\)\{letter}", label)
    assert r"\input" not in label
    assert r"\toprule" in drawn
    assert r"\textbf{0.912}" in drawn
    assert drawn.count(" & ") == 2 * 3
    assert drawn.count("{") - drawn.count(r"\{") == drawn.count("}") - drawn.count(r"\}")


def test_latex_rows_never_start_with_a_bracket() -> None:
    assert "\n[x]" not in latex(table("[x]"))


def test_terminal_shows_the_same_words() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(terminal(table("a [bold]b[/bold] c")))
    for words in ("a [bold]b[/bold] c (reference)", "0.912", "[0.881, 0.940] 47/48", "not measured", "Remark."):
        assert words in out.getvalue()


@pytest.mark.parametrize("name", RENDERERS)
def test_one_newline_at_the_end_and_a_table_without_rows(name: str) -> None:
    draw = RENDERERS[name][1]
    empty = Table("empty", "Empty", (Heading("a"),), ())
    for drawn in (draw(table()), draw(empty)):
        assert drawn.endswith("\n")
        assert not drawn.endswith("\n\n")


def test_own_marks_need_their_note() -> None:
    rows = (Row("a", (Cell("1", 1.0, marks=("a",)),)),)
    said = Table("t", "T", (Heading("x"),), rows, notes=(("a", "as published"),))
    assert said.footnotes() == [("a", "as published")]
    with pytest.raises(KeyError):
        Table("t", "T", (Heading("x"),), rows).footnotes()

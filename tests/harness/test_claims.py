"""Sentences of READMEs and of docs/ that compare results say what `harness compare` says of the records."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import claims
import pytest

HELD = [(name, paragraph) for name in claims.FILES for paragraph in claims.held(name)]
CLAIMS = [(name, paragraph, claim) for name, paragraph in HELD for claim in paragraph.claims]
RENEW = "python tests/harness/claims.py writes verdicts and intervals anew"


def test_there_are_claims_in_every_file() -> None:
    assert {name for name, _, _ in CLAIMS} == set(claims.FILES)
    sections = {paragraph.section for _, paragraph in HELD}
    assert all(set(wanted) <= sections for wanted in claims.FILES.values())
    assert set(claims.EXEMPT) <= {each.section for name in claims.FILES for each in claims.paragraphs(_text(name))}


def test_no_other_page_has_claims() -> None:
    pages = [*claims.ROOT.glob("*.md"), *claims.ROOT.glob("docs/*.md"), *claims.ROOT.glob("results/**/*.md")]
    names = {page.relative_to(claims.ROOT).as_posix() for page in pages if "<!-- claims\n" in page.read_text("utf-8")}
    assert names == set(claims.FILES)


def test_the_design_names_the_files_that_are_held() -> None:
    design = _text("docs/design.md")
    assert all(name in design for name in claims.FILES if name != "README.md")


def test_claims_below_a_list_are_those_of_its_items() -> None:
    claim = CLAIMS[0][2]
    text = f"# A\n\n- One is level.\n- `Two` is\n  worse.\n\n<!-- claims\n{claim}\n-->\n"
    (listed,) = claims.paragraphs(text)
    assert listed.sentences == ["One is level.", "`Two` is worse."]
    assert listed.claims == (claim,)


@pytest.mark.parametrize("name", claims.FILES)
def test_claims_are_the_verdicts_of_the_records(name: str) -> None:
    wrong = [f"{claim}\n  is now {now}" for at, _, claim in CLAIMS if at == name and (now := claim.found()) != claim]
    assert not wrong, "\n".join([RENEW, *wrong])


@pytest.mark.parametrize("name", claims.FILES)
def test_sentences_say_what_their_claims_say(name: str) -> None:
    wrong = []
    for at, paragraph, claim in CLAIMS:
        if at != name:
            continue
        sentences = [sentence for sentence in paragraph.sentences if claim.words in sentence]
        if not sentences or not re.search(claims.FITTING[claim.verdict], sentences[0], re.IGNORECASE):
            wrong.append(f"{claim}: no sentence with these words says so ({claims.FITTING[claim.verdict]})")
        elif claim.value.endswith(claims.ALONE) and not re.search(claims.SAID_ALONE, sentences[0]):
            wrong.append(f"{claim}: its sentence does not say that the value stands alone ({claims.SAID_ALONE})")
        if claim.change != "-" and claim.change not in paragraph.text:
            wrong.append(f"{claim}: the paragraph does not print this change")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", claims.FILES)
def test_no_sentence_compares_without_a_claim(name: str) -> None:
    bare = [
        sentence
        for at, paragraph in HELD
        if at == name
        for sentence in paragraph.sentences
        if claims.COMPARES.search(sentence) and not any(claim.words in sentence for claim in paragraph.claims)
    ]
    assert not bare, "\n".join(["give each of these a claim, or say what does not compare:", *bare])


@pytest.mark.parametrize("name", claims.FILES)
def test_every_printed_change_is_that_of_a_claim(name: str) -> None:
    for at, paragraph in HELD:
        if at == name:
            printed = set(claims.CHANGE.findall(paragraph.text))
            assert printed <= {claim.change for claim in paragraph.claims}, RENEW


def test_renewed_claims_reach_their_paragraph(tmp_path: Path) -> None:
    true = next(claim for _, _, claim in CLAIMS if claim.change != "-")
    false = replace(true, verdict="SAME", change="+0.999 [+0.998, +1.000]", words="level (+0.999 [+0.998, +1.000])")
    page = tmp_path / "README.md"
    page.write_text(
        f"# A\n\nOne is\nlevel (+0.999\n[+0.998, +1.000]).\n\n<!-- claims\n{false}\n-->\n", encoding="utf-8"
    )
    assert len(claims.renew(page)) == 1
    (paragraph,) = claims.paragraphs(page.read_text(encoding="utf-8"))
    assert paragraph.text == f"One is level ({true.change})."
    assert paragraph.claims == (replace(true, words=f"level ({true.change})"),)
    assert claims.renew(page) == []


def _text(name: str) -> str:
    return (claims.ROOT / name).read_text(encoding="utf-8")

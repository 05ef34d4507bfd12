"""What READMEs and docs/ claim of results, and what `harness compare` says of it.

A paragraph or a list that compares is followed by a comment with a line for each claim:

    <!-- claims
    RUN | FIRST | SECOND | SECTION:VALUE | VERDICT | CHANGE | WORDS
    -->

VERDICT is that of `harness compare RUN FIRST SECOND`, CHANGE its interval as the paragraph prints it or `-`, and WORDS
a part of the sentence that the claim stands behind. `SECTION:VALUE alone` is the verdict with `--value SECTION:VALUE`,
not adjusted for the run's other values, which the sentence must say of it. `python tests/harness/claims.py` writes
verdicts and changes anew from the records; a sentence whose words do not fit its verdict any longer is left to its
author.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from harness.report.comparison import compare
from harness.report.verdicts import Finding, Side
from harness.runs.records import load_run

ROOT = Path(__file__).parents[2]
FILES: dict[str, tuple[str, ...]] = {
    "README.md": ("Quickstart",),
    "docs/cache-lab.md": ("On the small world",),
    "docs/figures-of-speed.md": ("What has been measured",),
    "docs/serving.md": ("What has been measured",),
    "results/marked/README.md": (),
    "results/quickstart/README.md": (),
    "results/small_world/README.md": (),
}
"""Files that are held to their claims, and the sections that are where not all of them are."""
EXEMPT = {"f. Rank budget": "spectra of single checkpoints: there are no pairs, and `harness compare` has no verdict"}
COMPARES = re.compile(
    r"\b(better|worse|worst|ahead|behind|faster|slower|level|costs?|harms?|gains?|loses?|rises?|falls?|improves?|lowers?|raises?"
    r"|breaks? down|not equal|equal quality|no difference|as in the paper|unclear|too few)\b",
    re.IGNORECASE,
)
CHANGE = re.compile(r"[+-]\d\.\d{3} \[[+-]?\d\.\d{3}, [+-]?\d\.\d{3}\]")
FITTING = {
    "BETTER": r"better",
    "WORSE": r"worse|behind|costs?\b|harm",
    "FASTER": r"faster",
    "SLOWER": r"slower",
    "SAME": r"same|level|shows no difference",
    "UNCLEAR": r"unclear|shows no difference",
}
"""What a sentence must say, in any case, for each verdict behind it."""
ALONE = " alone"
SAID_ALONE = r"by itself|chosen beforehand"
"""What a sentence must say of a value that was compared without the others."""


@dataclass(frozen=True)
class Claim:
    run: str
    first: str
    second: str
    value: str
    verdict: str
    change: str
    words: str

    def __str__(self) -> str:
        return " | ".join((self.run, self.first, self.second, self.value, self.verdict, self.change, self.words))

    def found(self) -> Claim:
        """The same claim with what the records say."""
        name, alone = self.value.removesuffix(ALONE), self.value.endswith(ALONE)
        every = findings(self.run, self.first, self.second, (name,) if alone else ())
        finding = next(each for each in every if each.name == name)
        return replace(self, verdict=finding.verdict, change="-" if self.change == "-" else printed(finding))


@cache
def findings(run: str, first: str, second: str, values: tuple[str, ...] = ()) -> list[Finding]:
    loaded = load_run(ROOT / run)
    arms = {arm.label: Side(loaded, arm) for arm in loaded.arms}
    return compare([(arms[first], arms[second])], values)


def printed(finding: Finding) -> str:
    """A difference as the paragraphs print it."""
    assert finding.effect is not None
    found = finding.effect.estimate
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-0.000", "+0.000")


@dataclass(frozen=True)
class Paragraph:
    section: str
    text: str
    claims: tuple[Claim, ...]

    @property
    def sentences(self) -> list[str]:
        return re.split(r"(?<=[.!?])\**\s+(?=[A-Z*`\[])", self.text)


def paragraphs(text: str) -> list[Paragraph]:
    """Paragraphs of prose and lists, on one line each, with the claims below them."""
    found: list[Paragraph] = []
    section = ""
    for block in re.split(r"\n{2,}", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if block.startswith("#"):
            section = block.split("\n")[0].lstrip("# ").partition(" (")[0]
        elif block.startswith("<!-- claims"):
            lines = block.strip().split("\n")[1:-1]
            claims = tuple(Claim(*(part.strip() for part in line.split("|", 6))) for line in lines)
            found[-1] = replace(found[-1], claims=(*found[-1].claims, *claims))
        elif not block.startswith(("|", "    ")):
            found.append(Paragraph(section, " ".join(re.sub("^- ", "", block, flags=re.MULTILINE).split()), ()))
    return found


def held(name: str) -> list[Paragraph]:
    """Those paragraphs of a file that are held to their claims."""
    every = paragraphs((ROOT / name).read_text(encoding="utf-8"))
    return [each for each in every if each.section not in EXEMPT and (not FILES[name] or each.section in FILES[name])]


def renew(path: Path) -> list[str]:
    """Write what the records say into the claims of a file and the paragraphs above them; the claims that changed."""
    text = path.read_text(encoding="utf-8")
    changed = []
    for claim in (claim for paragraph in paragraphs(text) for claim in paragraph.claims):
        now = claim.found()
        if now == claim:
            continue
        end = text.index(str(claim))
        start = text.rindex("\n\n", 0, text.rindex("<!-- claims", 0, end) - 2)
        above = text[start:end]
        if claim.change != "-":
            above = re.sub(r"\s+".join(map(re.escape, claim.change.split())), now.change, above)
        now = replace(now, words=now.words.replace(claim.change, now.change))
        text = text[:start] + above + str(now) + text[end + len(str(claim)) :]
        changed.append(f"{path.name}: {claim.verdict} {claim.change} is now {now}")
    path.write_text(text, encoding="utf-8")
    return changed


if __name__ == "__main__":
    for name in FILES:
        print("\n".join(renew(ROOT / name)))

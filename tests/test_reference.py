"""The pages about commands and keys are those that the code gives."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from harness.contracts import Options
from harness.suite.schema import Suite

DOCS = Path(__file__).parents[1] / "docs"
spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
assert spec is not None
assert spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages as a fresh process makes them, in which no other test has registered anything."""
    code = "import json, reference; print(json.dumps({name: write() for name, write in reference.PAGES.items()}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts: dict[str, str] = json.loads(done.stdout)
    return texts


@pytest.mark.parametrize("page", reference.PAGES)
def test_the_page_is_what_the_code_says(pages: dict[str, str], page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == pages[page], "run: python docs/reference.py"


def test_usage_and_choices_of_commands_are_those_of_help(pages: dict[str, str]) -> None:
    lines = pages["cli.md"].splitlines()
    usages = [line for line in lines if line.startswith("    harness ")]
    assert "    harness table [OPTIONS] RUN..." in usages
    assert "    harness compare [OPTIONS] RUN A B | RUN_A RUN_B" in usages
    assert not [line for line in usages if line.count("[") != line.count("]") or set(line) & set("{}")]
    assert "| `--init <svd\\|random>` | Truncated SVD of the dense maps, or random. [default: svd] |" in lines


def test_a_key_shows_type_limits_default_unit_and_meaning() -> None:
    class Timing(Options):
        """Of nothing.

        Attributes:
            ceiling_s: after which it gives
                up. kind: of a
                rest: one of two.
            share, other: of all.
        """

        ceiling_s: float = Field(gt=0, le=2**40)
        kind: str | None = None
        share: tuple[int, ...] = (1, 2)
        other: bool = True

    rows = reference._keys(Timing).splitlines()[2:]
    assert rows == [
        "| `ceiling_s` | number > 0, ≤ 2^40 |  | seconds | after which it gives up |",
        "| `kind` | text or none | none |  | of a rest: one of two |",
        "| `share` | list of integer | `[1, 2]` |  | of all |",
        "| `other` | true or false | `true` |  | of all |",
    ]


def test_a_key_without_a_meaning_is_an_error() -> None:
    class Silent(Options):
        """Says nothing."""

        width: int = 1

    with pytest.raises(LookupError, match="Silent: no meaning of width"):
        reference._keys(Silent)


def test_every_key_of_the_quickstart_is_on_the_page(pages: dict[str, str]) -> None:
    page = pages["suite-reference.md"]
    suite = yaml.safe_load((DOCS.parent / "suites/quickstart.yaml").read_text(encoding="utf-8"))
    for name in {
        *suite,
        *suite["measure"][0],
        *suite["measure"][0]["options"],
        *suite["plots"][1],
        *Suite.model_fields,
    }:
        assert f"| `{name}` |" in page

"""Runs and studies of others, changed at random as data: each command reads them, or refuses them in one line."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import studies
from fault_cases import ALL, Tried
from record_lines import with_digest
from test_mutated_text import ODD, nodes

from harness.cli.main import main
from harness.study import judges, votes
from harness.system import files

CASES = int(os.environ.get("FAULTS_CASES", "1000" if ALL else "150"))
SEED = int(os.environ.get("FAULTS_SEED", "0"))
OF_RUN = [
    ["table", "run"], ["table", "run", "--long"], ["table", "run", "--json"], ["compare", "run", "a", "b"],
    ["gate", "run", "--baseline", "run"], ["page", "run", "--out", "page"], ["sheet", "run", "--out", "a.png"],
    ["by-prompt", "run"], ["show", "0", "--run", "run"], ["merge", "out", "run"],
    ["study", "new", "run", "--out", "other", "--raters", "2"], ["study", "tally", "study"],
]  # fmt: skip
OF_STUDY = [["study", "tally", "study"], ["study", "export", "study", "--out", "static"], ["table", "run"]]
FILES = {
    "run/plan.json": OF_RUN,
    "run/records.jsonl": OF_RUN,
    "run/people.json": OF_STUDY,
    "study/study.json": OF_STUDY,
    "study/judges/model.json": OF_STUDY[:1],
    "votes.json": [["study", "tally", "study", "votes.json"]],
}
MADE = ("page", "a.png", "out", "other", "static", "run/by-prompt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two models, with votes, a judge and their tally."""
    folder = tmp_path_factory.mktemp("mutated")
    study = studies.make_study(folder, "overall", "adherence", raters=3, each=4, repeats=0, obvious=1)
    studies.vote_all(folder / "study", study, lambda *_: "a", range(1, 3))
    said = [{"task": task, "answers": studies.answers(study, 3, task, lambda *_: "b"), "seconds": 2} for task in (0, 1)]
    saved = {"format": votes.FORMAT, "study": study.id, "token": study.token(3), "votes": said}
    (folder / "votes.json").write_text(json.dumps(saved), encoding="utf-8")
    opinions = {0: {"overall": 0.5}, 1: {"overall": -1.0}, 2: {"adherence_rating": 4.0}}
    judged = {"schema": judges.SCHEMA, "study": study.id, "options": {}, "answers": opinions}
    files.write_atomic(folder / "study" / judges.FOLDER / "model.json", json.dumps(judged))
    with pytest.raises(SystemExit):
        main(["study", "tally", str(folder / "study")])
    return folder


def changed(document: Any, dice: random.Random) -> Any:
    """`document` with one change at a random place."""
    document = copy.deepcopy(document)
    path = dice.choice(list(nodes(document))[1:])
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    kind, last = dice.choice(["odd", "odd", "other", "drop", "wrap", "repeat"]), path[-1]
    if kind == "odd":
        parent[last] = copy.deepcopy(dice.choice([*ODD, 10**400]))
    elif kind == "other":
        place = document
        for key in dice.choice(list(nodes(document))):
            place = place[key]
        parent[last] = copy.deepcopy(place)
    elif kind == "drop":
        del parent[last]
    elif kind == "wrap":
        parent[last] = dice.choice([[parent[last]], {"a": parent[last]}, [parent[last]] * 3])
    elif isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    else:
        parent["more"] = copy.deepcopy(parent[last])
    return document


def mutant(name: str, content: str, dice: random.Random) -> str:
    """The content of a file with one or two of its members changed; of records, the members of one line, which half of
    the time looks as if the harness had written it.
    """
    lines = content.splitlines() if name.endswith(".jsonl") else [content]
    number = dice.randrange(len(lines))
    document = json.loads(lines[number])
    if isinstance(document, dict):
        document.pop("line_sha256", None)
    for _ in range(dice.choice([1, 1, 2])):
        document = changed(document, dice) if isinstance(document, dict | list) and document else document
    forged = name.endswith(".jsonl") and isinstance(document, dict) and dice.random() < 0.5
    lines[number] = with_digest(document).decode().rstrip("\n") if forged else json.dumps(document)
    return "\n".join(lines) + "\n"


def tidy(folder: Path) -> None:
    for name in MADE:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_every_mutant_of_a_run_or_study_is_read_or_refused_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tried: Tried
) -> None:
    monkeypatch.chdir(folder)
    dice, codes = random.Random(SEED), list[int]()
    whole = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    for case in range(CASES):
        name = dice.choice(list(FILES))
        (folder / name).write_text(mutant(name, whole[name], dice), encoding="utf-8", errors="surrogatepass")
        command = dice.choice(FILES[name])
        kept = folder / f"case{case}"
        shutil.copy(folder / name, kept)
        with pytest.raises(SystemExit) as ended:
            main(command)
        says = capsys.readouterr().err
        codes.append(int(ended.value.code or 0))
        assert "Traceback" not in says, (kept, command)
        assert codes[-1] in (0, 1, 2, 3), (kept, command)
        kept.unlink()
        for each, content in whole.items():
            (folder / each).write_text(content, encoding="utf-8")
        tidy(folder)
    tried(CASES)
    # Where every mutant was refused, or none, nothing behind the first look would have been tried.
    assert CASES // 20 < codes.count(0) < CASES

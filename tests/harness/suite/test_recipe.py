"""Recipes: what they resolve to, and that every fault is one line with file, line and the nearest name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_recipe import TINY

from harness.errors import SuiteError
from harness.suite import recipe
from videomla_models.training.options import Origin

RECIPES = sorted((Path(__file__).parents[3] / "suites" / "training").glob("*.yaml"))


def loaded(text: str, folder: Path, *sets: str) -> list[recipe.Training]:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return recipe.load_recipe(path, sets)[1]


def test_arms_grids_seeds_and_origins_resolve(tmp_path: Path) -> None:
    trainings = loaded(TINY, tmp_path)
    assert [t.name for t in trainings] == ["dense-0", "latent-4-0", "latent-8-0", "dense-1", "latent-4-1", "latent-8-1"]
    dense, narrow, wide = (t.options for t in trainings[:3])
    assert (narrow.network.latent.d_c, wide.network.latent.d_c) == (4, 8)
    origin = narrow.start.origin.chain
    assert [stage.stage for stage in origin.stages] == ["teacher_forcing"]
    assert origin.key(0) == dense.key(0)
    assert len({t.options.key(0) for t in trainings}) == 6
    assert {t.options.seed for t in trainings[3:]} == {1}


def test_the_key_of_a_stage_forgets_the_stages_after_it(tmp_path: Path) -> None:
    first = loaded(TINY, tmp_path)[0].options
    longer = loaded(TINY, tmp_path, "base.stages.2.steps=9")[0].options
    assert [first.key(n) == longer.key(n) for n in range(3)] == [True, True, False]


def test_a_changed_stage_changes_its_own_key_alone() -> None:
    """Those of teacher forcing and consistency are as before the third stage changed, so that trainings are found."""
    folder = RECIPES[0].parent
    (dense, _) = recipe.load_recipe(folder / "toy.yaml")[1]
    assert [dense.options.key(stage) for stage in (0, 1)] == ["1f44ba383a36d2bbb4565b8a", "bde0687c475d668334582b19"]
    plain = recipe.load_recipe(folder / "experiments.yaml")[1][0]
    assert plain.options.key(0) == "8cd0152f5d3d4fa12303900f"
    old = recipe.load_recipe(folder / "toy.yaml", ["base.stages.2.steps=150", "base.stages.2.rate=0.00003"])[1][0]
    assert old.options.key(2) != "285305e9935b18f5912d39bb"
    assert old.options.versions() == {"stage_versions": {"distribution_matching": 2}}
    taught = old.options.model_copy(
        update={
            "start": plain.options.start.model_copy(update={"origin": Origin(chain=old.options)}),
            "stages": plain.options.stages,
        }
    )
    assert taught.versions() == old.options.versions()


def test_a_path_starts_from_the_file_that_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an included base, an arm, a grid and a stage; with `--set` from the current folder."""
    start = "start: {{kind: checkpoint, origin: {{file: {}}}}}"
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    (recipes / "base").mkdir(parents=True)
    here.mkdir()
    head = TINY.split("arms:")[0]
    body = head.split("\n", 1)[1].replace("base:\n", f"base:\n  {start.format('../weights/base.safetensors')}\n")
    (recipes / "base" / "common.yaml").write_text(body)
    arms = [
        "{label: base}",
        f"{{label: own, set: {{{start.format('own.safetensors')}}}}}",
        "{label: many, grid: {start.origin.file: [one, two]}}",
        "{label: taught, set: {stages: [{stage: consistency, steps: 1, teacher: {file: teacher.safetensors}}]}}",
        "{label: pupil, set: {stages: [{stage: consistency, steps: 1, teacher: {arm: own}}]}}",
    ]
    text = "include: [base/common.yaml]\nrecipe: paths\narms:\n" + "".join(f"  - {arm}\n" for arm in arms)
    (recipes / "paths.yaml").write_text(text)
    monkeypatch.chdir(here)
    path = Path("../recipes/paths.yaml")
    base, own, one, two, taught, pupil = (t.options for t in recipe.load_recipe(path)[1][:6])
    found = [options.start.origin.file for options in (base, own, one, two)]
    assert found == [f"../recipes/{name}" for name in ("weights/base.safetensors", "own.safetensors", "one", "two")]
    assert taught.stages[0].teacher.file == "../recipes/teacher.safetensors"
    assert pupil.stages[0].teacher.chain.start.origin.file == "../recipes/own.safetensors"
    given = recipe.load_recipe(path, ["base.start.origin.file=mine.safetensors"])[1][0].options
    assert given.start.origin.file == "mine.safetensors"


def test_committed_recipes_find_their_files_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (RECIPES[0].parents[2], tmp_path):
        monkeypatch.chdir(folder)
        for path in RECIPES:
            files = {t.options.start.origin.file for t in recipe.load_recipe(path)[1]} - {""}
            if not path.stem.endswith(("_again", "_third", "_fourth")):  # they go on from a run of one's own
                assert all(Path(file).is_file() for file in files), path
            if folder == RECIPES[0].parents[2]:
                assert all(file.startswith(("models/small_world/checkpoints/", "runs/training/")) for file in files)


def test_updates_of_the_generator(tmp_path: Path) -> None:
    chain = loaded(TINY, tmp_path, "base.stages.2.steps=11")[0].options
    assert chain.stages[2].generator_updates == 3
    assert {t.options.stages[-1].generator_updates for t in recipe.load_recipe(RECIPES[0].parent / "toy.yaml")[1]} == {
        100
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("seeds: [0, 1]", "seedz: [0]", 2, "unknown key 'seedz'; did you mean seeds?"),
        ("dim: 24,", "dimm: 24,", 5, "unknown key 'dimm'; did you mean dim?"),
        ("steps: 3,", "stepps: 3,", 9, "unknown key 'stepps'; did you mean steps"),
        ("steps: 3,", "", 9, "key 'steps' is missing"),
        ("stage: consistency", "stage: consistensy", 10, "did you mean consistency?"),
        ("attention: latent}", "attention: latant}", 15, "did you mean latent?"),
        (
            "window: {frames: 5",
            "window: {frames: 2",
            6,
            "window of 2 frames cannot hold its sink of 1 and a chunk of 2",
        ),
        ("arm: dense,", "arm: dens,", 15, "did you mean dense?"),
        (
            "    - {stage: consistency, steps: 2, rate: 0.001}\n",
            "",
            10,
            "distribution_matching goes on from consistency",
        ),
        (
            "set: {network: {attention: latent}",
            "set: {network: {attention: latent, layers: 3}",
            15,
            "teacher has layers 2",
        ),
        ("network.latent.d_c", "network.latent.d_cc", 16, "did you mean d_c or"),
        ("{label: dense}", "{label: latent-4}", 14, "two arms are called 'latent-4'"),
        ("chunks: 2", "chunks: 1", 7, "no past to learn from"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in TINY
    with pytest.raises(SuiteError) as caught:
        loaded(TINY.replace(old, new), tmp_path)
    assert re.search(rf"tiny\.yaml:{line}: ", caught.value.message), caught.value.message
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_right(path: Path) -> None:
    read, trainings = recipe.load_recipe(path)
    assert read.recipe == path.stem
    shipped = (
        "toy",
        "small_models",
        "small_models_again",
        "marked",
        "marked_again",
        "marked_third",
        "marked_fourth",
    )
    # Some recipes make the models that ship, two are trials; the others are experiments.
    assert len(read.seeds) >= (1 if path.stem in (*shipped, "students", "narrow_rates") else 3)
    compared = [t for t in trainings if t.label != "teacher"]
    budgets = {tuple((s.stage, s.steps) for s in t.options.stages) for t in compared}
    assert len(budgets) == 1, "every arm gets the same budget"
    assert len({t.options.data for t in trainings}) == 1, "every arm sees the same data"

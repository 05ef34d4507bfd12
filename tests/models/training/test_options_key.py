"""Keys of stages: what a training starts from counts by its bytes, not by where it lies."""

from pathlib import Path

import pytest

from harness.errors import OptionError
from harness.suite.recipe import load_recipe
from videomla_models.training.options import Chain, Origin

RECIPE = Path(__file__).parents[3] / "suites" / "training" / "experiments.yaml"


def started_from(path: Path) -> Chain:
    options: Chain = load_recipe(RECIPE)[1][0].options
    start = options.start.model_copy(update={"origin": Origin(file=str(path))})
    return options.model_copy(update={"start": start})


def test_a_key_holds_the_bytes_of_a_file_and_not_its_path(tmp_path: Path) -> None:
    first, moved, other = (tmp_path / name for name in ("first", "moved", "other"))
    for path, content in ((first, b"weights"), (moved, b"weights"), (other, b"others")):
        path.write_bytes(content)
    assert started_from(first).key(0) == started_from(moved).key(0) != started_from(other).key(0)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nowhere cannot be read"):
        started_from(tmp_path / "nowhere").key(0)

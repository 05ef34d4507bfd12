"""The tables that bring the similarity of pieces to the scale of frames."""

import pytest

from harness.metrics.vbench_job.loading import WeightsFault
from harness.metrics.vbench_job.long_range import mapped


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "subject_mapping_table.yaml"
    path.write_text("0.5: 0.9\n0.0: 0.0\n0.01: 0.656\n1.0: 1.0\n")
    return path


@pytest.mark.parametrize(
    ("similarity", "score"),
    [(0.0, 0.0), (0.005, 0.328), (0.01, 0.656), (0.255, 0.778), (0.5, 0.9), (0.75, 0.95), (1.0, 1.0), (1.0000001, 1.0)],
)
def test_similarities_lie_on_straight_lines_between_the_points(table, similarity, score):
    assert mapped(table, similarity) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "0.1: high\n1.0: 1.0\n", "0.1: 0.2\n", "0.1: .nan\n1.0: 1.0\n", "{", "0.1: 2.0\n1: 1\n"]
)
def test_what_is_no_table_is_refused_by_name(table, text):
    table.write_text(text)
    with pytest.raises(WeightsFault, match=r"subject_mapping_table\.yaml is no table of similarities: it .*"):
        mapped(table, 0.5)
    table.unlink()
    with pytest.raises(WeightsFault, match="is missing"):
        mapped(table, 0.5)

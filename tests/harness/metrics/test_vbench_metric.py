import json
import math

import pytest

from harness.contracts import registry
from harness.errors import HarnessError, OptionError
from harness.metrics import vbench_totals
from harness.metrics.vbench import VBench, read_short
from harness.metrics.vbench_long import MODES, VBenchLong


@pytest.fixture(autouse=True)
def nothing_built(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))


def make(**options) -> VBench:
    metric = registry.metrics.create("vbench", options)
    assert isinstance(metric, VBench)
    return metric


def built(tmp_path, *packages):
    """An environment folder as `harness env build` leaves it, with nothing inside but package folders."""
    from harness.environments.lock import read_lock

    lock = read_lock("vbench")
    root = tmp_path / "cache" / "envs" / f"vbench-{lock.digest[:12]}"
    for package in packages:
        (root / "lib" / "python3.11" / "site-packages" / package).mkdir(parents=True)
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").touch()
    (root / "built.json").write_text(json.dumps({"digest": lock.digest}))
    return root


def test_not_available_without_environment_says_what_to_type():
    for metric in (make(), registry.metrics.create("vbench_long", {})):
        found = metric.available()
        assert not found.ready
        assert found.fix == "harness env build vbench"


def test_not_available_without_weights_says_what_to_type(tmp_path):
    built(tmp_path)
    found = make(dimensions=["subject_consistency"]).available()
    assert not found.ready
    assert found.fix.startswith("harness fetch vbench --only subject_consistency")
    assert "dino" in found.reason
    assert not registry.metrics.create("vbench_long", {}).available().ready
    assert make(dimensions=["temporal_flickering"]).available().ready


def test_a_dimension_whose_package_is_not_installed_is_not_available(tmp_path):
    built(tmp_path, "fairscale", "transformers")
    found = make(mode="standard", dimensions=["color"]).available()
    assert not found.ready
    assert "detectron2" in found.reason
    everything = make(mode="standard")
    assert "color" not in everything.scored_dimensions()
    assert "scene" in everything.scored_dimensions()
    four = {"object_class", "multiple_objects", "color", "spatial_relationship"}
    lacks = everything.not_available()
    assert set(lacks) == four | {"semantic", "total", "mean_of_quality_and_semantic"}
    assert lacks["color"] == "needs detectron2"
    assert all(name in lacks["total"] for name in four)
    assert make(mode="custom").not_available() == {}


def test_a_dimension_whose_package_is_installed_is_wanted(tmp_path):
    built(tmp_path, "detectron2", "fairscale", "transformers")
    assert set(make(mode="standard").scored_dimensions()) == set(vbench_totals.DIMENSIONS)
    assert make(mode="standard").not_available() == {}


def test_the_static_filter_needs_the_optical_flow(tmp_path):
    built(tmp_path)
    found = make(dimensions=["temporal_flickering"], static_filter=True).available()
    assert not found.ready
    assert "raft" in found.reason


def test_options_are_checked():
    with pytest.raises(OptionError, match="scene"):
        make(mode="custom", dimensions=["scene"])
    with pytest.raises(OptionError, match="did you mean color"):
        make(mode="standard", dimensions=["colour"])
    with pytest.raises(OptionError, match="twice"):
        make(dimensions=["imaging_quality", "imaging_quality"])
    with pytest.raises(OptionError, match="upstream_dev"):
        registry.metrics.create("vbench_long", {"compat": "downstream"})
    assert len(make().scored_dimensions()) == 10
    assert len(make(mode="standard").scored_dimensions()) == 16


def test_a_total_is_left_out_unless_every_dimension_is_there():
    metric = make(mode="standard")
    means = dict.fromkeys(vbench_totals.DIMENSIONS, 0.5)
    full = metric.derive(means)
    assert set(full) == set(vbench_totals.FORMULAS)
    assert full["total"] == pytest.approx((4 * full["quality"] + full["semantic"]) / 5)
    part = metric.derive({**means, "scene": math.nan})
    assert set(part) == {"quality", "mean_of_six"}
    assert metric.derive({}) == {}


def test_long_gives_the_mean_of_six_and_no_total():
    metric = VBenchLong(VBenchLong.schema())
    means = {name: 0.1 * number for number, name in enumerate(vbench_totals.SIX)}
    assert metric.derive(means) == {"mean_of_six": pytest.approx(0.25)}
    assert metric.derive({name: value for name, value in means.items() if name != "dynamic_degree"}) == {}


def long_of(compat):
    metric = registry.metrics.create("vbench_long", {"compat": compat})
    assert isinstance(metric, VBenchLong)
    return metric


def test_long_has_the_long_range_half_unless_it_is_told_otherwise(tmp_path):
    built(tmp_path)
    for compat in ("long", "upstream_dev"):
        parts = long_of(compat).identity()["parts"]
        assert parts["clip_to_clip"] == {
            "subject_consistency": "DINOv2 ViT-B/14",
            "background_consistency": "DreamSim ensemble",
        }
        assert parts["weights"] == {"in_clip": 0.5, "long_range": 0.5}
        assert all("mapping_table.yaml of Vchitect/VBench at 45e79ec" in name for name in parts["tables"].values())
        needed = long_of(compat).weight_digests()
        assert {"dinov2_model/dinov2_vitb14_pretrain.pth", "long_tables/background_mapping_table.yaml"} <= set(needed)
    for compat in ("in_clip", "upstream_in_clip"):
        parts = long_of(compat).identity()["parts"]
        assert parts["weights"] == {"in_clip": 1.0, "long_range": 0.0}
        assert parts["tables"] == {}
        assert not any("dreamsim" in path for path in long_of(compat).weight_digests())
    identities = [json.dumps(long_of(compat).identity()) for compat in MODES]
    assert len(set(identities)) == len(MODES) == 4
    assert registry.metrics.create("vbench_long", {}).identity() == long_of("long").identity()


def test_long_says_what_to_fetch_for_the_half(tmp_path):
    built(tmp_path)
    assert "--only long_subject_consistency --only long_background_consistency" in long_of("long").available().fix
    assert "--only long_" not in long_of("in_clip").available().fix


@pytest.mark.parametrize(
    ("old", "new", "whole"), [("none", "in_clip", "long"), ("upstream", "upstream_in_clip", "upstream_dev")]
)
def test_a_mode_of_an_earlier_version_is_refused_with_its_name_now(old, new, whole):
    with pytest.raises(OptionError, match=f"'{old}' is called '{new}' now; .* '{whole}'") as fault:
        long_of(old)
    assert "\n" not in fault.value.message


def test_upstreams_pieces_cannot_be_given_another_length():
    with pytest.raises(OptionError, match="upstream's pieces last 2 s, not 3"):
        registry.metrics.create("vbench_long", {"compat": "upstream_dev", "seconds": 3})


def test_identity_names_what_decides_a_score(tmp_path):
    built(tmp_path)
    short = tmp_path / "p.jsonl"
    short.write_text('{"prompt": "a long dog", "short": "a dog"}\n')
    plain = make(dimensions=["temporal_flickering"]).identity()
    mapped = make(dimensions=["temporal_flickering"], prompts=str(short)).identity()
    assert plain["environment"] == mapped["environment"]
    assert plain["short_prompts"] == ""
    assert len(str(mapped["short_prompts"])) == 64
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_text(short.read_text())
    assert make(dimensions=["temporal_flickering"], prompts=str(moved)).identity() == mapped


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"prompt": "a"}', '{"prompt": "a", "short": 1}'])
def test_a_malformed_prompt_file_names_its_line(tmp_path, text):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "short": "y"}\n\n' + text + "\n")
    with pytest.raises(HarnessError, match=":3:"):
        read_short(path)


def test_a_prompt_may_have_two_short_ones(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "short": "y"}\n{"prompt": "x", "short": "z"}\n')
    assert read_short(path) == {"x": ["y", "z"]}
    with pytest.raises(HarnessError, match="cannot be read"):
        read_short(tmp_path / "absent.jsonl")


def test_the_static_filter_keeps_five_clips_of_a_prompt():
    nan = math.nan
    filtered = make(dimensions=["temporal_flickering"], static_filter=True)
    prompts = [7] * 12 + [3] * 2 + [9] * 2
    scores = [0.9, 0.9, nan, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, nan, 0.6, nan, nan]
    kept = filtered.keep("temporal_flickering", prompts, scores)
    assert [place for place, chosen in enumerate(kept) if chosen] == [0, 1, 3, 10, 11, 13]
    assert list(filtered.keep("imaging_quality", prompts, scores)) == [score == score for score in scores]
    unfiltered = make(dimensions=["temporal_flickering"])
    assert list(unfiltered.keep("temporal_flickering", prompts, scores)) == [score == score for score in scores]


def test_a_rehearsal_takes_prompts_until_every_dimension_has_one(tmp_path):
    """By the package's own list: a prompt comes along where it has a dimension that those before have not."""
    root = built(tmp_path, "vbench", "fairscale", "transformers")
    listed = [
        ("a", ["subject_consistency", "dynamic_degree"]),
        ("b", ["subject_consistency"]),
        ("c", ["color"]),  # which needs detectron2, not here
        ("d", ["scene", "background_consistency"]),
        ("a", ["human_action"]),
        ("e", ["human_action"]),
    ]
    rows = [{"prompt_en": text, "dimension": dimensions} for text, dimensions in listed]
    path = next(root.glob("lib/python*/site-packages/vbench")) / "VBench_full_info.json"
    path.write_text(json.dumps(rows))
    prompts = ["b", "a prompt of mine", "a", "c", "d", "e"]
    assert make(mode="standard").to_try(prompts) == [0, 2, 4]
    assert make(mode="standard", dimensions=["human_action"]).to_try(prompts) == [2]
    assert make().to_try(prompts) == ()
    assert (make().smallest(), make(dimensions=["temporal_flickering"]).smallest()) == (128, 1)

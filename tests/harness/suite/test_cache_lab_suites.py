"""The suites of the cache laboratory: their arms, families and exact bytes, and that they plan without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.runs.plan import Plan, make, scored_clips
from harness.suite.load import load_suite

ROOT = Path(__file__).parents[3]


def plan(name: str) -> Plan:
    return make(load_suite(ROOT / "suites" / f"{name}.yaml", ["device=cpu"]))


FRAMES = {
    "dense": 6,
    "dense, window 4": 4,
    "dense, window 9": 9,
    "dense, no sink": 6,
    "dense, averages": 8,
    # Nine that attention sees, and copies of the first six to walk.
    "dense, first frames": 15,
    # Two frames' worth of tokens beside seven frames, two frames in the bank beside six.
    "dense, chosen tokens": 9,
    "dense, bank": 8,
    "latent, window 12": 12,
    "latent, bank": 8,
    "latent int4, window 12": 12,
}
"""Latent frames that a cache holds; six unless given."""


def bytes_of(label: str, scalars: int, groups: int, exact: int) -> float:
    """Bytes of a token and layer: `scalars` numbers in the bits of the label, with scales for `groups` groups."""
    kind = next((word for word in label.replace(",", "").split() if word.startswith("int")), "")
    if not kind:
        return scalars * exact
    # A float16 a group; the asymmetric two bits have the least value as well. A residual round stores all of it again.
    once = scalars * int(kind[3:]) / 8 + groups * (4 if kind == "int2" else 2)
    return once * (2 if "residual" in label else 1)


@pytest.mark.parametrize(
    ("suite", "tokens", "entries", "dense", "latent", "exact"),
    [
        # 52 x 30 tokens; keys and values of 12 heads of 128; a latent of 192 and a rope key of 32; bfloat16.
        ("cache_lab_full_size", 1560, 30, (2 * 1536, 2 * 12), (192 + 32, 2), 2),
        # 4 x 4 tokens; five layers, twice for guidance; 4 heads of 48; a latent of 32 and a rope key of 24; float32.
        ("cache_lab", 16, 5 * 2, (2 * 192, 2 * 4), (32 + 24, 2), 4),
    ],
)
def test_every_arm_has_the_bytes_of_its_arithmetic(
    suite: str, tokens: int, entries: int, dense: tuple[int, int], latent: tuple[int, int], exact: int
) -> None:
    arms = plan(suite).arms
    assert len(arms) >= 12
    for arm in arms:
        sizes = dense if arm.label.startswith("dense") else latent
        assert arm.card.cache_bytes == FRAMES.get(arm.label, 6) * tokens * entries * bytes_of(arm.label, *sizes, exact)


def test_the_plan_shows_the_bytes_of_every_arm(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(ROOT / "suites" / "cache_lab_full_size.yaml"), "--set", "device=cpu", "--caches"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    arms = plan("cache_lab_full_size").arms
    assert len(lines) == 2 + len(arms)
    for arm, line in zip(arms, lines[2:], strict=True):
        assert line.startswith(arm.label)
        assert f"{arm.card.cache_bytes:,}" in line.split()


def test_a_latent_in_eight_and_four_bits_is_as_small_as_it_should_be() -> None:
    sizes = {arm.label: arm.card.cache_bytes or 0 for arm in plan("cache_lab_full_size").arms}
    assert sizes["latent int8"] * 25 < sizes["dense"]
    assert sizes["latent int4"] * 45 < sizes["dense"]


def test_both_suites_have_the_same_arms_of_four_families() -> None:
    small, full = plan("cache_lab"), plan("cache_lab_full_size")
    assert [arm.label for arm in small.arms] == [arm.label for arm in full.arms]
    for one, other in zip(small.arms, full.arms, strict=True):
        for option in ("policy", "cache"):
            assert one.options.get(option) == other.options.get(option)
    labels = [arm.label for arm in small.arms]
    families = {
        "windows": [label for label in labels if "window" in label or "sink" in label],
        "averages, choice and banks": [label for label in labels if label.split(", ")[-1] in ("averages", "bank")],
        "latents": [label for label in labels if label.startswith("latent")],
        "fewer bits": [label for label in labels if " int" in label],
    }
    assert all(len(members) >= 3 for members in families.values())


@pytest.mark.parametrize("suite", ["cache_lab", "cache_lab_full_size"])
def test_arms_are_held_against_the_uncompressed_one_of_their_network(suite: str) -> None:
    units = {unit.key: unit for unit in plan(suite).units}
    for unit in units.values():
        if unit.context["plugin"] == "against":
            own, reference = (units[key].context["arm"] for key in scored_clips(unit))
            assert reference == own.split(",")[0].split(" ")[0]

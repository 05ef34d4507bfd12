from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.runs import keys
from harness.system import digests

UNIT = {
    "identity": 1,
    "kind": "generate",
    "model": {"name": "toy/dense", "options": {"steps": 8, "shift": 5.0}, "version": "1", "identity": {}},
    "prompt": "a café",
    "seed": 0,
}
TEXT = (
    '{"identity":1,"kind":"generate","model":{"identity":{},"name":"toy/dense","options":{"shift":5.0,"steps":8},'
    '"version":"1"},"prompt":"a caf\\u00e9","seed":0}'
)


def test_the_key_of_a_known_unit_stays_as_it_was_at_this_identity_version() -> None:
    """When this fails, old records would be lost to new runs: raise IDENTITY_VERSION and renew the two lines."""
    assert keys.IDENTITY_VERSION == 1
    assert digests.canonical(UNIT) == TEXT
    assert keys.key(UNIT) == "b4ec762233d8484e973086f900cf7e3a42579e1c7b6979cca25937b120be8a91"
    assert keys.key(UNIT) == hashlib.sha256(TEXT.encode("ascii")).hexdigest()


def test_order_and_blanks_do_not_count_but_types_do() -> None:
    assert digests.canonical({"b": 1, "a": [1.0, None]}) == digests.canonical({"a": [1.0, None], "b": 1})
    assert digests.canonical(1) != digests.canonical(1.0) != digests.canonical("1.0")
    assert digests.canonical(0.1 + 0.2) == "0.30000000000000004"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: {2, 3}}])
def test_what_has_no_json_has_no_identity(value: object) -> None:
    with pytest.raises(HarnessError, match="cannot make an identity"):
        digests.canonical(value)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=6), st.integers(0, 6))
def test_a_template_gives_the_key_of_the_whole(members: dict[str, object], cut: int) -> None:
    names = list(members)
    shared = {name: members[name] for name in names[:cut]}
    varying = {name: members[name] for name in names[cut:]}
    template = keys.Template(shared)
    for _ in range(2):
        assert template.key(varying) == keys.key(members)
    assert json.loads(digests.canonical(members)) == members


def test_a_template_refuses_a_name_given_twice() -> None:
    with pytest.raises(ValueError, match="named twice"):
        keys.Template({"a": 1}).key({"a": 2})

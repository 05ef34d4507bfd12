"""One entry point brings several plug-ins: a function that returns classes by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest

from harness.contracts import VideoModel, registry
from harness.contracts.registry import Registry
from harness.errors import RegistryError

Installed = Callable[[dict[str, str], dict[str, str]], Registry[VideoModel]]
HERE = __name__


class One(VideoModel):
    pass


class Two(VideoModel):
    pass


def pair() -> dict[str, type[VideoModel]]:
    return {"pair/one": One, "pair/two": Two}


def raises() -> dict[str, type[VideoModel]]:
    raise ValueError("no table")


def strange() -> dict[str, type]:
    return {"strange": int}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """A registry of models that sees these families and single models, by the name of what they point to here."""

    def read(families: dict[str, str], models: dict[str, str]) -> Registry[VideoModel]:
        groups = {"harness.model_families": families, "harness.models": models}
        monkeypatch.setattr(
            registry,
            "entry_points",
            lambda group: [EntryPoint(name, f"{HERE}:{attr}", group) for name, attr in groups.get(group, {}).items()],
        )
        return Registry("model", VideoModel)  # type: ignore[type-abstract]

    return read


def test_every_class_of_a_family_has_its_name(installed: Installed) -> None:
    models = installed({"pair": "pair"}, {"single": "One"})
    assert models.names() == ["pair/one", "pair/two", "single"]
    assert models.get("pair/two") is Two
    with pytest.raises(RegistryError, match="unknown model 'pair'"):
        models.get("pair")


@pytest.mark.parametrize(
    ("attr", "why"), [("raises", "ValueError: no table"), ("gone", "AttributeError"), ("HERE", "TypeError")]
)
def test_a_family_that_fails_hides_no_other_model(installed: Installed, attr: str, why: str) -> None:
    models = installed({"pair": "pair", "bad": attr}, {})
    assert models.names() == ["bad", "pair/one", "pair/two"]
    with pytest.raises(RegistryError, match=f"model 'bad' .*{why}"):
        models.get("bad")


def test_a_member_is_checked_against_the_contract(installed: Installed) -> None:
    with pytest.raises(RegistryError, match=r"'strange': .* is no subclass of VideoModel"):
        installed({"strange": "strange"}, {}).get("strange")


def test_a_name_that_two_bring_is_refused(installed: Installed) -> None:
    with pytest.raises(RegistryError, match="'pair/one' is registered twice"):
        installed({"pair": "pair"}, {"pair/one": "One"}).names()


def test_a_decorator_cannot_take_the_name_of_a_member(installed: Installed) -> None:
    models = installed({"pair": "pair"}, {})
    other = type("Other", (One,), {"__module__": "elsewhere"})
    with pytest.raises(RegistryError, match="already registered by the entry point"):
        models.register("pair/one")(other)
